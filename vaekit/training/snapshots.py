"""Checkpoints as files: everything that evolves in a run, in one sealed safetensors file each, without pickle."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vaekit import plain, weights
from vaekit.files import printable, write_atomically

FORMAT = 1
_KEY = "vaekit-checkpoint"
_NAME = re.compile(r"step-(\d{9,18})\.safetensors")


class Snapshot(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: the number of optimizer steps done.
        about: what the run is made from, plain data that JSON has.
        state: what evolves in it, plain data with tensors.
        beside: a copy of the best weights as they were at that time; None where there were none.
    """

    step: int
    about: dict[str, Any]
    state: Any
    beside: Path | None


class Snapshots:
    """The checkpoints in a folder, the last few of which are kept.

    Args:
        folder: made when the first is written.
        keep: how many; of those that are written and of the ones before.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep
        self._steps: list[int] = []  # of those that can be used, in the order in which they were written

    def __bool__(self) -> bool:
        """Whether there is a file that is called like a checkpoint."""
        return any(True for _ in self._found())

    def write(self, step: int, about: Mapping[str, Any], state: Any, beside: Path | None) -> None:
        """Write a checkpoint, and remove the ones that are too old.

        Args:
            step: the number of optimizer steps done.
            about: what the run is made from.
            state: what evolves in it.
            beside: a file that belongs to it, and is replaced, not changed, in the course of the run: it is linked.

        Raises:
            TypeError: a state that is not plain data; the message says where.
            OSError: it cannot be written; the earlier checkpoints are still there.
        """
        packed = plain.pack(state)
        text = json.dumps({"format": FORMAT, "step": step, "about": about, "state": packed.data})
        self.folder.mkdir(exist_ok=True)
        if beside is not None:
            _link(beside, self._beside(step))
        write_atomically(self._file(step), partial(weights.write, tensors=packed.tensors, metadata={_KEY: text}, sealed=True))
        self._steps = [*(s for s in self._steps if s != step), step]
        while len(self._steps) > self._keep:
            self._remove(self._steps.pop(0))

    def newest(self) -> Snapshot | None:
        """The last checkpoint that is whole; None where there is none at all.

        Raises:
            ValueError: there are some, and none of them is whole; the message names the last.

        Warns:
            UserWarning: the last is damaged, or something else, and the one before it is taken.
        """
        first_problem = None
        steps = sorted(self._found())
        while steps:
            try:
                snapshot = self.read(steps[-1])
            except (ValueError, OSError) as error:
                first_problem = first_problem or error
                steps.pop()
                continue
            if first_problem is not None:
                warnings.warn(
                    f"{first_problem}; the run goes on from {self._file(snapshot.step).name}", UserWarning, stacklevel=2
                )
            self._steps = steps
            return snapshot
        if first_problem is not None:
            raise ValueError(f"no checkpoint in {self.folder} can be used; of the last: {first_problem}")
        return None

    def remove_all(self) -> None:
        """Leave nothing of a run that came to nothing."""
        for step in list(self._found()):
            self._remove(step)
        with suppress(OSError):  # which is not there, or holds what others put into it
            self.folder.rmdir()

    def read(self, step: int) -> Snapshot:
        """The checkpoint after so many steps.

        Raises:
            ValueError: the file is damaged, or something else.
            OSError: it cannot be read.
        """
        file = self._file(step)
        weights.check_seal(file)
        with weights.opened(file) as stored:
            if _KEY not in stored.metadata:
                raise ValueError(f"{file} is not a checkpoint of a run")
            try:
                content = json.loads(stored.metadata[_KEY])
                if content["format"] != FORMAT:
                    raise ValueError(f"{file} has format {content['format']}; this vaekit reads format {FORMAT}")
                tensors = {name: stored.tensor(name).clone() for name in stored.outlines if name != weights.SEAL}
                state = plain.unpack(content["state"], tensors)
                about = content["about"]
            except (TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{file} is not a checkpoint of a run: {printable(error)}") from error
        beside = self._beside(step)
        return Snapshot(step, about, state, beside if beside.is_file() else None)

    def _found(self) -> Iterator[int]:
        with suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if match := _NAME.fullmatch(name):
                    yield int(match[1])

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def _beside(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}-best.safetensors"

    def _remove(self, step: int) -> None:
        for file in (self._file(step), self._beside(step)):
            file.unlink(missing_ok=True)


def _link(file: Path, name: Path) -> None:
    """`file` under another name too: a copy where the file system has no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(file, name)
    except OSError:
        with open(file, "rb") as source:
            write_atomically(name, lambda stream: shutil.copyfileobj(source, stream))
