"""Checkpoints as files: everything that evolves in a run, in one sealed safetensors file each, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vaekit import plain, weights
from vaekit.files import printable, remove_abandoned, write_atomically
from vaekit.layout import BEST
from vaekit.saving import WEIGHTS_FILE

FORMAT = 1
_KEY = "vaekit-checkpoint"
_NAME = re.compile(r"step-(\d{9,18})\.safetensors")
_BEST_NAME = re.compile(r"step-(\d{9,18})-best\.safetensors")


class Snapshot(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: the number of optimizer steps done.
        about: what the run is made from, plain data that JSON has.
        state: what evolves in it, plain data with tensors.
        best: the best weights as they were at that time; None where there were none.
        problem: why a later checkpoint could not be taken; empty where this is the last.
    """

    step: int
    about: dict[str, Any]
    state: Any
    best: Path | None
    problem: str = ""

    @property
    def epochs(self) -> int:
        """The number of epochs that had been done."""
        return len(self.state["run"]["history"]["seconds"])


class Snapshots:
    """The checkpoints in a folder, the last few of which are kept.

    An empty file, run-HASH, says whose they are; a checkpoint of another run is not taken.

    Args:
        folder: within the run's; made when the first is written.
        keep: how many; of those that are written and of the ones before.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep, self._is_tidy = folder, keep, False
        self._steps: list[int] = []  # in the order in which they are to go: damaged ones first

    def __bool__(self) -> bool:
        """Whether there is a file that is called like a checkpoint."""
        return any(True for _ in self._found())

    def write(self, step: int, about: Mapping[str, Any], state: Any, best: Path | None) -> None:
        """Write a checkpoint, and remove the ones that are too old.

        Args:
            step: the number of optimizer steps done.
            about: what the run is made from.
            state: what evolves in it.
            best: the best weights, a file that is replaced, not changed, in the course of the run: it is linked.

        Raises:
            TypeError: a state that is not plain data; the message says where.
            OSError: it cannot be written; the earlier checkpoints are still there.
        """
        packed, digest = plain.pack(state), None if best is None else _digest(best)
        text = json.dumps({"format": FORMAT, "step": step, "about": about, "state": packed.data, "beside": digest})
        self.folder.mkdir(exist_ok=True)
        self._tidy(about.get("run"))
        write_atomically(self._file(step), partial(weights.write, tensors=packed.tensors, metadata={_KEY: text}, sealed=True))
        self.link(step, best)  # afterwards: an earlier file for the same step has been replaced, and `best` is still there
        self._steps = [*(s for s in self._steps if s != step), step]
        while len(self._steps) > self._keep:
            self._remove(self._steps.pop(0))

    def link(self, step: int, best: Path | None) -> None:
        """Let the checkpoint after so many steps have this file, as it is now."""
        name = self._best(step)
        name.unlink(missing_ok=True)
        if best is not None:
            _link(best, name)

    def newest(self) -> Snapshot | None:
        """The last checkpoint that is whole; None where there is none at all.

        Raises:
            ValueError: there are some, and none of them is whole; the message names the last.
        """
        first_problem: Exception | None = None
        steps, damaged = sorted(self._found()), list[int]()
        while steps:
            try:
                snapshot = self.read(steps[-1])
            except (ValueError, OSError) as error:
                first_problem = first_problem or error
                damaged.append(steps.pop())
                continue
            self._steps = [*damaged, *steps]
            return snapshot._replace(problem=str(first_problem or ""))
        if first_problem is not None:
            raise ValueError(f"no checkpoint in {self.folder} can be used; of the last: {first_problem}")
        return None

    def remove_all(self) -> None:
        """Leave no checkpoint, where there is nothing to resume."""
        self._tidy()
        for step in list(self._found()):
            self._remove(step)
        for run in self._runs():
            (self.folder / f"run-{run}").unlink()
        with suppress(OSError):  # which is not there, or holds what others put into it
            self.folder.rmdir()

    def read(self, step: int) -> Snapshot:
        """The checkpoint after so many steps.

        Raises:
            ValueError: the file is damaged, or something else, or the best weights that belong to it are not there any more.
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
                if content["step"] != step:
                    raise ValueError(f"{file} was written after {content['step']} steps, under another name")
                tensors = {name: stored.tensor(name).clone() for name in stored.outlines if name != weights.SEAL}
                state = plain.unpack(content["state"], tensors)
                about, digest = content["about"], content["beside"]
            except (TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{file} is not a checkpoint of a run: {printable(error)}") from error
        if (runs := self._runs()) and about.get("run") not in runs:
            raise ValueError(f"{file} is a checkpoint of another run")
        if digest is None:
            return Snapshot(step, about, state, None)
        for best in (self._best(step), self.folder.parent / BEST / WEIGHTS_FILE):
            with suppress(OSError):
                if _digest(best) == digest:
                    return Snapshot(step, about, state, best)
        raise ValueError(f"{file} cannot be used without {self._best(step).name}, which is missing or damaged")

    def _tidy(self, run: str | None = None) -> None:
        """Remove, once, what a process that was killed has left half done, and say whose folder this is."""
        if not self._is_tidy:
            remove_abandoned(self.folder)
            for other in self._runs() - {run}:
                (self.folder / f"run-{other}").unlink()
            if run is not None:
                (self.folder / f"run-{run}").touch()
            for step in set(self._found(_BEST_NAME)).difference(self._found()):
                self._best(step).unlink()
        self._is_tidy = True

    def _runs(self) -> set[str]:
        """The run whose checkpoints these are: in a file's name, which no flipped bit changes."""
        return {file.name.removeprefix("run-") for file in self.folder.glob("run-*")}

    def _found(self, pattern: re.Pattern[str] = _NAME) -> Iterator[int]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self.folder):
                if match := pattern.fullmatch(name):
                    yield int(match[1])

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def _best(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}-best.safetensors"

    def _remove(self, step: int) -> None:
        for file in (self._file(step), self._best(step)):
            file.unlink(missing_ok=True)


def _link(file: Path, name: Path) -> None:
    """`file` under another name too: a copy where the file system has no links."""
    try:
        os.link(file, name)
    except OSError:
        with open(file, "rb") as source:
            write_atomically(name, lambda stream: shutil.copyfileobj(source, stream))


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
