"""Where a model is on the hub, as huggingface_hub writes it: hf://owner/name@revision/folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from vaekit.hub import download

SCHEME = "hf://"
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels")
_FORM = "hf://owner/name, hf://owner/name@revision, or with a folder or a .safetensors file behind it"
_ADDRESS = re.compile(
    r"hf://(?:models/)?(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<inside>[^@]+?))?/?"
)


@dataclass(frozen=True)
class HubAddress:
    """A model in a repository.

    Attributes:
        repository: owner/name.
        revision: branch, tag or commit; None for the main branch.
        inside: the folder in the repository, or the .safetensors file; "" for the repository itself.

    Example:
        >>> HubAddress.parsed("hf://me/digits@v1/best")
        HubAddress(repository='me/digits', revision='v1', inside='best')
        >>> print(HubAddress("me/digits", "refs/pr/1"))
        hf://me/digits@refs/pr/1
    """

    repository: str
    revision: str | None = None
    inside: str = ""

    @classmethod
    def parsed(cls, text: str) -> HubAddress:
        """The address that begins with hf://; a revision's "/" is written %2F, but for refs/pr/1.

        Raises:
            ValueError: it is none of a model.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or found["owner"] in _OTHER_KINDS or ".." in (found["inside"] or "").split("/"):
            raise ValueError(f"a model on the hub is {_FORM}, got {text!r}")
        revision = None if found["revision"] is None else unquote(found["revision"])
        return cls(f"{found['owner']}/{found['name']}", revision, found["inside"] or "")

    def __str__(self) -> str:
        given = self.revision or ""
        revision = f"@{given if given.startswith('refs/') else quote(given, safe='')}" if given else ""
        return f"{SCHEME}{self.repository}{revision}{'/' if self.inside else ''}{self.inside}"

    def file(self, name: str, token: str | bool | None = None) -> Path:
        """The file that the address names, or else the one of that name in its folder: from the cache, or downloaded.

        Raises:
            ImportError, OSError: as `download.file`.
        """
        folder, _, last = self.inside.rpartition("/")
        if last.endswith(Path(name).suffix):
            return download.file(self.repository, last, folder, self.revision, token)
        return download.file(self.repository, name, self.inside, self.revision, token)
