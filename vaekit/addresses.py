"""Where a model can be besides a folder: hf://owner/name on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from typing import TypeAlias

from vaekit.hub.address import SCHEME, HubAddress

Address: TypeAlias = HubAddress


def parsed(path: str | os.PathLike[str]) -> Address | None:
    """The address that a text is; None for a path.

    Raises:
        ValueError: the address of something else, or of another kind.

    Example:
        >>> parsed("hf://me/digits@v1")
        HubAddress(repository='me/digits', revision='v1', inside='')
        >>> parsed("runs/dense-mnist")
    """
    text = path if isinstance(path, str) else ""
    if text.startswith(SCHEME):
        return HubAddress.parsed(text)
    if scheme := re.match(r"\w+://", text):
        raise ValueError(f"a model is in a folder, a file, or at hf://owner/name, not at {scheme[0]}; got {text!r}")
    return None
