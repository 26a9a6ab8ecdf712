"""README.md as a package index shows it: away from the repository, where links to its files lead nowhere."""

import re
from pathlib import Path

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def for_an_index(readme: str, repository: str, tag: str) -> str:
    """The text with links into the repository at a tag; code stays as it is."""

    def absolute(link: re.Match[str]) -> str:
        return f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/{tag}/{link[3]})"

    pieces = re.split(r"(^```.*?^```$)", readme, flags=re.M | re.S)
    return "".join(piece if piece.startswith("```") else LINK.sub(absolute, piece) for piece in pieces)


def long_description() -> str:
    """This repository's, with the address in pyproject.toml."""
    settings, package = (Path(name).read_text(encoding="utf-8") for name in ("pyproject.toml", "vaekit/__init__.py"))
    repository = re.search(r'^Repository = "(.+?)"', settings, re.M)
    version = re.search(r'^__version__ = "(.+)"$', package, re.M)
    assert repository
    assert version
    return for_an_index(Path("README.md").read_text(encoding="utf-8"), repository[1], f"v{version[1]}")
