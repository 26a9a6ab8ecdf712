"""An extension of griffe: what these docstrings write otherwise than it reads them."""

import re

import griffe


class Docstrings(griffe.Extension):
    """Reads `Example:` as the section of examples, which griffe knows by its plural alone."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change the docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
