"""What a command does with a model that is in no folder of a run: on the hub, or in the zoo."""

from __future__ import annotations

from pathlib import Path

from vaekit import saving
from vaekit.runs import Where


def is_whole_table(where: Where) -> bool:
    """Whether it is the folder of a `vaekit.Table`, or one elsewhere."""
    if isinstance(where, Path):
        return (where / saving.WEIGHTS_FILE).is_file() and "table" in saving.read_config(where)
    return "table" in saving.read_config(str(where))


def inside(where: Where, name: str) -> Path:
    """The file or folder of that name in a run's folder.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(where, Path):
        raise ValueError(f"{where} is no folder to write into; name a place with --out")
    return where / name
