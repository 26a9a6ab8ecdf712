"""A step that failed, in a folder: everything that it depends on, from which it fails again, bit for bit. Nothing is pickled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit import plain, saving, seeding, weights
from vaekit.data import Batch, Stream
from vaekit.files import writable_folder, write_atomically
from vaekit.layout import NONFINITE, STEP_FILE, STEP_NOTES
from vaekit.training import explain
from vaekit.training.engine import Engine
from vaekit.training.examine import Findings, examine
from vaekit.training.guard import Guard
from vaekit.training.options import FitOptions
from vaekit.training.plan import Part, Step
from vaekit.training.update import Update
from vaekit.vae import VAE

_FORMAT = 1
_MODEL_OPTIONS = ("optimizer", "precision", "gradient_clip")  # of those of fit, what a step is taken with


class Evidence(NamedTuple):
    """What is known of a step that failed.

    Attributes:
        epoch: 0, 1, ...
        step: with its examples.
        findings: what was found when it was taken again.
        message: in words.
        update: of the run.
        optimizer: the state of its optimizer, from before the step.
        average: the averaged weights by name; None where the run has none.
        processes: of the run, of which one took the step again.
    """

    epoch: int
    step: Step
    findings: Findings
    message: str
    update: Update
    optimizer: Mapping[str, Any]
    average: Mapping[str, Tensor] | None
    processes: int


def write(run: Path, vae: VAE, evidence: Evidence) -> Path:
    """Write the folder of a step into that of its run; returns it.

    The notes are written last: a folder without them is not whole.

    Args:
        run: the run's folder.
        vae: the model, with weights, buffers and modes from before the step.
        evidence: the rest.

    Raises:
        OSError: it cannot be written.
        ValueError, TypeError: the model cannot be saved, or the optimizer's state is not plain data.
    """
    update, step = evidence.update, evidence.step
    folder = writable_folder(run / NONFINITE.format(step=step.number))
    (folder / STEP_NOTES).unlink(missing_ok=True)
    vae.save(folder)
    parts = [
        {"x": part.batch.x, "condition": part.batch.condition, "index": part.batch.index, "row_start": part.row_start}
        for part in step.parts
    ]
    data, tensors = plain.pack(
        {
            "number": step.number,
            "key": step.key,
            "dataset_size": step.dataset_size,
            "parts": parts,
            "optimizer": evidence.optimizer,
            "average": evidence.average,
            "engine": update.engine.state_dict(),
        },
        "step",
    )
    text = {"state": json.dumps(data)}
    write_atomically(folder / STEP_FILE, lambda stream: weights.write(stream, tensors, text))
    write_atomically(folder / STEP_NOTES, (json.dumps(_notes(vae, evidence), indent=2) + "\n").encode())
    return folder


def _notes(vae: VAE, evidence: Evidence) -> dict[str, Any]:
    from vaekit import __version__

    return {
        "format": _FORMAT,
        "vaekit": __version__,
        "torch": str(torch.__version__),
        "epoch": evidence.epoch,
        "step": evidence.step.number,
        "message": evidence.message.split("\n"),
        "device": str(vae.device),
        "threads": torch.get_num_threads(),
        "processes": evidence.processes,
        "options": _plain_options(evidence.update.options),
        "evaluating": [name for name, module in vae.named_modules() if not module.training],
        "frozen": [name for name, parameter in vae.named_parameters() if not parameter.requires_grad],
        "digests": dict(evidence.findings.digests),
    }


def _plain_options(options: FitOptions) -> dict[str, Any]:
    """The options as JSON has them; what it cannot hold, a function for example, is described."""
    return {
        option.name: json.loads(json.dumps(getattr(options, option.name), default=lambda value: {"described": repr(value)}))
        for option in dataclasses.fields(options)
    }


@dataclass(frozen=True)
class Replayed:
    """A step that was taken again.

    Attributes:
        vae: the model as it was before the step, with the gradients of the step.
        step: with its examples and its key.
        findings: what was found.
        optimizer: the state of the optimizer before the step, what its `state_dict` gave.
        average: the averaged weights by name; None where the run had none.
        message: what the run said of it.
        differences: what came out other than when the run took the step again; nothing, where it is the same machine and the same
            versions.
        processes: of the run. One of them took the step again, with all its examples, and so does `replay`.
    """

    vae: VAE
    step: Step
    findings: Findings
    optimizer: Mapping[str, Any]
    average: Mapping[str, Tensor] | None
    message: str
    differences: Sequence[str]
    processes: int = 1

    @property
    def is_same(self) -> bool:
        """Whether every term and every gradient was what the run found, bit for bit."""
        return not self.differences

    @property
    def fails(self) -> bool:
        """Whether something is not finite here either; a failure of several processes may need them."""
        return self.findings.fails

    def table(self) -> list[tuple[str, ...]]:
        """A row for each module in the order in which they were done, with a heading: name, class, range, what is not finite."""
        rows: list[tuple[str, ...]] = [("module", "class", "lowest", "highest", "not finite")]
        for layer in self.findings.layers:
            rows.append((layer.name, layer.kind, f"{layer.low:.4g}", f"{layer.high:.4g}", f"{layer.bad} of {layer.total}"))
        return rows

    def gradients(self) -> list[tuple[str, ...]]:
        """A row for each parameter in the order in which its gradient was done, with a heading."""
        rows: list[tuple[str, ...]] = [("gradient of", "largest", "not finite")]
        for gradient in self.findings.gradients:
            rows.append((gradient.name, f"{gradient.largest:.4g}", f"{gradient.bad} of {gradient.total}"))
        return rows


def replay(folder: str | os.PathLike[str], device: str | torch.device | None = None) -> Replayed:
    """Take the step in a folder again that a run with `out` has left at a failure, nonfinite-000123 for example.

    Forward and backward passes are those of the run: the same examples, noise, dropout, weights, buffers, modes and precision, on
    the same number of threads. The optimizer's step is not taken.

    Args:
        folder: what the message of the run named.
        device: where; by default the kind of device that the run had, or the CPU where there is none.

    Raises:
        FileNotFoundError, ValueError: it is not such a folder, not whole, or damaged.
        UnknownNameError: a part that is not registered here; import the module that registers it first.

    Example:
        >>> import tempfile, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian", seed=0)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     try:
        ...         vaekit.fit(vae, 1e25 * torch.rand(100, 4), out=out, progress=False)
        ...     except vaekit.NonFiniteLossError:
        ...         replayed = replay(f"{out}/nonfinite-000000")
        >>> replayed.is_same, replayed.step.number
        (True, 0)
    """
    path = Path(folder)
    notes, state = _read(path)
    vae = saving.load(path)
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name not in notes["frozen"])
    for name, module in vae.named_modules():
        module.training = name not in notes["evaluating"]
    known = {name: value for name, value in notes["options"].items() if name in _MODEL_OPTIONS}
    options = FitOptions(**{name: value for name, value in known.items() if not _is_described(value)})
    engine = Engine(_device(notes["device"]) if device is None else device, options.precision, vae.dtype)
    vae.to(engine.device)
    parts = [
        Part(Batch(part["x"], part["condition"], part["index"]), part["row_start"], True, (len(part["x"]),))
        for part in state["parts"]
    ]
    step = Step(state["number"], state["key"].to(engine.device), tuple(parts), state["dataset_size"])
    with seeding.own_generators(engine.device), _threads(notes["threads"]), torch.inference_mode(False), torch.enable_grad():
        guard = Guard(vae, Stream([part.batch.x for part in parts]))
        update = Update(vae, engine, options, guard, None)
        engine.load_state_dict(state["engine"])
        findings = examine(vae, step, update.add_gradients)
    names = dict.fromkeys((*notes["digests"], *findings.digests))
    differences = [name for name in names if notes["digests"].get(name) != findings.digests.get(name)]
    message, processes = "\n".join(notes["message"]), notes["processes"]
    return Replayed(vae, step, findings, state["optimizer"], state["average"], message, differences, processes)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    file = folder / STEP_NOTES
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {STEP_NOTES}: it is not the folder of a step that failed, {NONFINITE.format(step=123)} in a run's "
            "folder for example, or was not written to its end"
        )
    try:
        notes = json.loads(file.read_bytes())
        if notes["format"] != _FORMAT:
            raise ValueError(f"its format is {notes['format']}, this version of vaekit reads {_FORMAT}")
        with weights.opened(folder / STEP_FILE) as stored:
            tensors = {name: stored.tensor(name).clone() for name in stored.outlines}
            state = plain.unpack(json.loads(stored.metadata["state"]), tensors)
        missing = {"frozen", "evaluating", "processes", "options", "device", "threads", "message", "digests"} - notes.keys()
        missing |= {"number", "key", "parts", "dataset_size", "engine", "optimizer", "average"} - state.keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder} cannot be replayed, its {STEP_NOTES} or {STEP_FILE} is damaged: {error}") from error
    if missing:
        raise ValueError(f"{folder} cannot be replayed: {explain.listed(sorted(missing))} missing")
    return notes, state


def _is_described(value: Any) -> bool:
    return "described" in json.dumps(value)


def _device(name: str) -> str:
    """The kind of device that the run had, where it is here."""
    kind = name.partition(":")[0]
    is_here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return kind if is_here.get(kind) else "cpu"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for a while: sums are added up in another order by another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
