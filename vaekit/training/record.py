"""What a run is made from, and where it ran: run.json and environment.json in its folder.

run.json holds the options and the parts of the model, as plain data: `vaekit train DATA --config RUN/run.json` composes the same
model and trains it in the same way. environment.json says what a result may depend on besides; see `environment`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from vaekit import dense, specs
from vaekit.checks import is_number
from vaekit.files import NUMBER, new_folder, numbered, write_atomically
from vaekit.gathering import Ranks
from vaekit.layout import BEST, ENVIRONMENT_FILE, HISTORY_FILE, LAST, RUN_FILE
from vaekit.ops import build_info
from vaekit.registry import recorded_spec
from vaekit.revision import revision
from vaekit.training.options import FitOptions
from vaekit.training.trackers import Tracker
from vaekit.vae import VAE

_PACKAGES = ("numpy", "safetensors", "lightning-fabric")
_VARIABLES = (  # of the environment: what changes numbers or speed. No others, which may hold what is nobody's business.
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("VAEKIT_NO_NATIVE", "VAEKIT_CUDA", "VAEKIT_CPU_CAPABILITY", "VAEKIT_ONEDNN", "WORLD_SIZE"),
)


Out: TypeAlias = "str | os.PathLike[str] | None"


class ClaimedFolder(os.PathLike[str]):
    """A folder that is a run's own already, and has its run.json; `vaekit.fit` takes it as `out`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    def __fspath__(self) -> str:
        return self._path

    __str__ = __fspath__


def is_numbered(out: Out) -> bool:
    """Whether a run is given a new folder, with {n} in its name."""
    return out is not None and not isinstance(out, ClaimedFolder) and NUMBER in os.fspath(out)


@contextmanager
def new_if_numbered(out: Out, ranks: Ranks) -> Iterator[Out]:
    """The folder that a run is given; with {n} in its name a new one, which is removed again if nothing comes into it."""
    if out is None or not is_numbered(out):
        yield out
        return
    made = None if ranks.rank else new_folder(numbered(out)).resolve()
    try:
        yield ranks.gather(None if made is None else str(made))[0]
    finally:
        if made is not None:
            with suppress(OSError):  # it is not empty
                made.rmdir()


class Record:
    """Writes run.json and environment.json into a run's folder; does nothing without one.

    Args:
        out: the folder that the run was given.
        folder: the same in full; None for a run that leaves nothing.
        is_resumed: whether the run goes on with what the folder holds. Its run.json stays, and environment.json gets one more
            entry.

    Raises:
        FileExistsError: the folder holds the run.json of an earlier run.
    """

    def __init__(self, out: object, folder: Path | None, is_resumed: bool = False) -> None:
        self._folder, self._is_resumed, self._written = folder, is_resumed, False
        self._is_claimed = is_resumed or isinstance(out, ClaimedFolder)
        if folder is not None and not self._is_claimed and os.path.lexists(folder / RUN_FILE):
            raise FileExistsError(f"{folder} holds the {RUN_FILE} of an earlier run; choose another folder, or remove it")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Until the end; then what was written is removed again, if the run has left nothing else."""
        try:
            yield
        finally:
            if self._folder is not None and self._written and not is_trained(self._folder):
                for name in (ENVIRONMENT_FILE, *([] if self._is_claimed else [RUN_FILE])):
                    (self._folder / name).unlink(missing_ok=True)

    def write(self, vae: VAE, options: FitOptions, device: torch.device, precision: object, validation: object = None) -> None:
        """Say what the run is made from, unless that has been said, and where it runs.

        `validation` is said too where it is a fraction, a column or a file, which hold the same examples out again.

        "dense layers", beside what `environment` says, is what computes the model's in float32 on the CPU, by shape.

        Raises:
            FileExistsError: another run has just begun in the folder.
        """
        if self._folder is None:
            return
        taken = f"{self._folder} has just become another run's; choose another folder"
        if not self._is_claimed and os.path.lexists(self._folder / RUN_FILE):
            raise FileExistsError(taken)
        settings, file = {**settings_of(vae, options), **_said_of(validation)}, self._folder / ENVIRONMENT_FILE
        earlier = _sessions(file) if self._is_resumed else []
        # First: a run.json without it is one that somebody else put there.
        place = {**environment(device, precision), "dense layers": dense.measured_for(vae, options.batch_size)}
        write_atomically(file, _as_json([*earlier, place]))
        if self._is_resumed:
            self._note_changes(options)
        elif not self._is_claimed:
            try:
                claim(self._folder, settings)
            except FileExistsError as error:
                raise FileExistsError(taken) from error
            except BaseException:
                file.unlink(missing_ok=True)
                raise
        self._written = not self._is_resumed

    def _note_changes(self, options: FitOptions) -> None:
        """Put the options of a run that goes on, more epochs for example, into its run.json."""
        assert self._folder is not None
        try:
            settings = json.loads((self._folder / RUN_FILE).read_bytes())
        except (OSError, ValueError, RecursionError):  # which its owner has removed, or changed
            return
        usual, given = plain_options(FitOptions()), plain_options(options)
        changed = {name: value for name, value in given.items() if settings.get(name, usual[name]) != value}
        if settings and changed:
            write_atomically(self._folder / RUN_FILE, _as_json({**settings, **changed}))


def settings_of(vae: VAE, options: FitOptions) -> dict[str, Any]:
    """What run.json says of a run: the shapes and parts of its model, and every option, as plain data.

    The values of the weights, with which it began, and their dtype are not in it. An optimizer that is a function, or
    a tracker whose class is not registered, is there by a name that `vaekit train` refuses.

    Raises:
        ValueError: a model whose config could not compose it again.
    """
    config = vae.config()
    parts = {kind: config[kind] for kind in specs.KINDS if kind in config}
    return {"input_shape": list(vae.input_shape), "latent_dim": vae.latent_shape[0], **parts, **plain_options(options)}


def _said_of(validation: object) -> dict[str, Any]:
    if isinstance(validation, os.PathLike) or (isinstance(validation, str) and os.path.exists(validation)):
        return {"validation": os.path.abspath(validation)}
    return {"validation": validation} if is_number(validation) or isinstance(validation, str) else {}


def plain_options(options: FitOptions) -> dict[str, Any]:
    """Every option as JSON has it.

    Example:
        >>> plain_options(FitOptions(optimizer=torch.optim.Adam))["optimizer"]
        'torch.optim.adam.Adam'
    """
    values = {option.name: getattr(options, option.name) for option in fields(options)} | {"device": str(options.device)}
    if not isinstance(optimizer := options.optimizer, (str, Mapping)):
        values["optimizer"] = f"{optimizer.__module__}.{getattr(optimizer, '__qualname__', type(optimizer).__qualname__)}"
    values["trackers"] = [
        each if _is_plain(each) else f"{type(each).__module__}.{type(each).__qualname__}" for each in options.trackers
    ]
    return {name: specs.plain_value("run", name, value) for name, value in values.items()}


def _is_plain(tracker: str | Mapping[str, Any] | Tracker) -> bool:
    return not isinstance(tracker, Tracker) or recorded_spec(tracker) is not None


def is_trained(folder: Path) -> bool:
    """Whether a run has left something in its folder besides what it is made from."""
    return any((folder / name).exists() for name in (BEST, LAST, HISTORY_FILE))


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write run.json, which only one process can be the first to do.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    file, text = folder / RUN_FILE, _as_json(settings)
    open(file, "x").close()
    try:
        write_atomically(file, text)
    except BaseException:
        file.unlink()
        raise


def environment(device: torch.device, precision: object = "32") -> dict[str, Any]:
    """Where this process runs, as plain data: what its results may depend on besides run.json and the data.

    "started", the one entry that differs between two runs of one command in one place; "command", this process's command line as
    it is, so that a password has no place there; "folder", the current one; "git", its repository's commit and branch and whether
    it is modified; "versions"; "kernels"; "host", its name and system; "device" and "precision"; "threads" and "cores";
    "variables", a few of the environment's, such as OMP_NUM_THREADS. Nothing else of the environment, no user, no address and no
    file's content.

    Example:
        >>> sorted(environment(torch.device("cpu"))["versions"])
        ['lightning-fabric', 'numpy', 'python', 'safetensors', 'torch', 'vaekit']
    """
    built = build_info()
    folder = _current_folder()
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.orig_argv,
        "folder": None if folder is None else str(folder),
        "git": None if folder is None else revision(folder),
        "versions": {
            **{name: built[name] for name in ("vaekit", "torch", "python")},
            **{package: _version(package) for package in _PACKAGES},
        },
        "kernels": {kind: built[f"{kind} kernel"] for kind in ("cpu", "cuda")},
        "host": {"name": platform.node(), "system": platform.platform(), "machine": platform.machine()},
        "device": str(device) if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})",
        "precision": str(precision),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _sessions(file: Path) -> list[Any]:
    """What the file says of the earlier processes of a run."""
    if not file.is_file():
        return []
    try:
        earlier = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        earlier = None
    return earlier if isinstance(earlier, list) else ["this file was damaged before the run went on"]


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it has been removed
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
