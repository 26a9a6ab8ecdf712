"""Plugins as an installer would leave them, without installing anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml takes Python 3.11 or tomli")

HERE = Path(__file__).parent


def install(source: Path, site: Path) -> None:
    """Put a plugin's modules and the metadata that its pyproject.toml asks for into `site`."""
    written = tomllib.loads((source / "pyproject.toml").read_text())
    project = written["project"]
    for module in written["tool"]["setuptools"]["py-modules"]:
        shutil.copy(source / f"{module}.py", site)
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path):
    """A folder in which both plugins are installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("example", "broken"):
        install(HERE / name, folder)
    return folder
