"""Where a model can be besides a folder: hf://owner/name on the Hugging Face hub, zoo://name in this package."""

from __future__ import annotations

import os
import re
from typing import TypeAlias

from vaekit import hub, zoo
from vaekit.hub import HubAddress
from vaekit.zoo import ZooAddress

Address: TypeAlias = HubAddress | ZooAddress


def parsed(path: str | os.PathLike[str]) -> Address | None:
    """The address that a text is; None for a path.

    Raises:
        ValueError: the address of something else, or of another kind.
        UnknownNameError: the zoo has no such model.

    Example:
        >>> parsed("hf://me/digits@v1")
        HubAddress(repository='me/digits', revision='v1', inside='')
        >>> parsed("runs/dense-mnist")
    """
    text = path if isinstance(path, str) else ""
    if text.startswith(hub.SCHEME):
        return HubAddress.parsed(text)
    if text.startswith(zoo.SCHEME):
        return ZooAddress.parsed(text)
    if scheme := re.match(r"\w+://", text):
        raise ValueError(f"a model is in a folder, a file, or at hf://owner/name or zoo://name, not at {scheme[0]}; got {text!r}")
    return None
