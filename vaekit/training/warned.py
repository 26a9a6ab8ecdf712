"""Warnings of a run, in the name of the line that called `fit`."""

from __future__ import annotations

import inspect
import warnings


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn in the name of the first line outside vaekit, and outside torch, whose decorators are in between, that led here."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("vaekit.", "torch.")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_of_another(error: Exception) -> None:
    """Warn of an error at the end of a run that an earlier one has ended: the earlier one is what is raised."""
    warn(f"the end of the run failed as well: {type(error).__name__}: {error}", RuntimeWarning)
