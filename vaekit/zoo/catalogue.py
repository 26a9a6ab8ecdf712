"""The models in this package: their names, where they lie, and what there is to say of each."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaekit.registry import UnknownNameError

SCHEME = "zoo://"
_HOME = Path(__file__).with_name("models")
_WEIGHTS, _ABOUT = "model.safetensors", "about.json"


def names() -> list[str]:
    """The models there are.

    Example:
        >>> names()
        ['dense-mnist', 'shapes', 'wine']
    """
    return sorted(file.parent.name for file in _HOME.glob(f"*/{_WEIGHTS}"))


def folder(name: str) -> Path:
    """Where a model lies in the package; to be read only.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"the zoo has no model {name!r}.{hint} It has: {', '.join(names())}.")
    return _HOME / name


def about(name: str) -> dict[str, Any]:
    """What a model was trained on, its figures on held-out data, licences, and how it was made.

    Raises:
        UnknownNameError: there is none of that name.

    Example:
        >>> about("shapes")["license"]
        'mit'
    """
    found: dict[str, Any] = json.loads((folder(name) / _ABOUT).read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class ZooAddress:
    """A model of the zoo by its address.

    Example:
        >>> print(ZooAddress.parsed("zoo://shapes"))
        zoo://shapes
    """

    name: str

    @classmethod
    def parsed(cls, text: str) -> ZooAddress:
        """The address that begins with zoo://.

        Raises:
            UnknownNameError: there is no such model.
        """
        name = text.removeprefix(SCHEME).rstrip("/")
        folder(name)
        return cls(name)

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}"

    def file(self, name: str, token: str | bool | None = None) -> Path:
        """The file of that name in the model's folder.

        Raises:
            ValueError: a token, for which there is no use.
        """
        if token is not None:
            raise ValueError(f"token is for models on the hub, hf://owner/name, and {self} comes with vaekit")
        return folder(self.name) / name
