"""Figures that a notebook shows by itself; a module of its own, as importing it imports matplotlib."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that is shown where it is the value of a cell, once.

    pyplot, where it is imported, teaches IPython to show every figure, which is then asked nothing; without pyplot IPython
    would show its name. The figure is none of pyplot's own, which are shown at the end of a cell.
    """

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()
