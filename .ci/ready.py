"""Whether the tree can be published under a tag: `python .ci/ready.py v0.1.0` says what is missing, and fails if anything is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def first(pattern: str, file: Path) -> str:
    """The first group of what a file has of a pattern, or ""."""
    found = re.search(pattern, file.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def versions(root: Path) -> dict[str, str]:
    """The version, wherever it is written."""
    return {
        "vaekit/__init__.py": first(r'^__version__ = "(.+)"$', root / "vaekit/__init__.py"),
        "CHANGELOG.md": first(r"^## \[(.+?)\]", root / "CHANGELOG.md"),
        "CITATION.cff": first(r"^version: (.+)$", root / "CITATION.cff"),
        "conda/recipe.yaml": first(r'^  version: "(.+)"$', root / "conda/recipe.yaml"),
    }


def address(root: Path) -> str:
    """The repository's public address, which stands in pyproject.toml alone."""
    return first(r'^Repository = "(.+?)"', root / "pyproject.toml")


def missing(root: Path, tag: str) -> Iterator[str]:
    """What has to be done before `tag` can be published."""
    for file, version in versions(root).items():
        if f"v{version}" != tag:
            yield f"{file} has the version {version!r}; the tag is {tag!r}"
    if not re.search(
        rf"^## \[{re.escape(tag[1:])}\] - \d{{4}}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    ):
        yield f"CHANGELOG.md has no date: its heading has to be '## [{tag[1:]}] - YYYY-MM-DD'"
    if ".example" in address(root):
        yield f"pyproject.toml's Repository is still the placeholder {address(root)}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/ready.py TAG")
    if found := list(missing(ROOT, sys.argv[1])):
        sys.exit("not ready:\n" + "\n".join(f"- {each}" for each in found))
    print(f"{sys.argv[1]} is ready")
