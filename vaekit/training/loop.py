"""Training: whole examples or a loader in, a history out.

Nothing in a step waits for the device. The losses of the steps since the last look are kept where they are and read at the
rate at which the progress bar is drawn; until they are read, a flag on the device keeps the optimizer from applying a step
whose loss was not finite, or any after it, so that the last finite weights are still there when the loss is read.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vaekit.checks import checked_flag, checked_size
from vaekit.data import Batch, Stream, Whole, as_batches
from vaekit.evaluation.terms import TermSums, evaluation_key, mean_terms, named_terms
from vaekit.files import writable_folder
from vaekit.inputs import check_examples, check_values
from vaekit.layout import BEST, HISTORY_FILE, LAST
from vaekit.losses.base import LossTerms
from vaekit.ops import philox
from vaekit.training.callbacks import Callback, FitState
from vaekit.training.history import History
from vaekit.vae import VAE

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SECONDS_BETWEEN_LOOKS = 0.25
_STEP_KEYS_AT_ONCE = 256
_GROUP_OPTIONS = ("params", "lr", "betas", "eps", "weight_decay")


class NonFiniteLossError(ArithmeticError):
    """A loss, a term of it or the weights became NaN or infinite; the model holds the last finite weights."""


def fit(
    vae: VAE,
    train: Any,
    *,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    gradient_clip: float | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    initialize_output_bias: bool = False,
) -> History:
    """Train a model with Adam (D. P. Kingma, J. Ba, 2014, arXiv:1412.6980), in place.

    An objective with parameters of its own, the discriminator of `factor` for example, says how Adam trains those, in the same
    step after one backward through `LossTerms.objective`.

    Args:
        vae: the model. Afterwards it holds the last weights, on `device`.
        train: `vaekit.data.Examples`, a tensor or array [N, *input_shape], a pair (x, y) of them, or a loader, whose batches
            are x, (x, ...) or {"x": x}. For a conditional model y is the condition, and a loader's batches are (x, y, ...) or
            {"x": x, "y": y}. Whole examples are reshuffled every epoch; an incomplete last batch counts.
        validation: the same, evaluated after every epoch with the same noise each time.
        epochs: passes over `train`.
        batch_size: for whole examples; a loader has its own.
        learning_rate: Adam's; not that of parameters for which the objective has one of its own (`Loss.parameter_groups`).
        seed: fixes the order of the examples and all noise (dropout too, unless other threads draw from torch's global
            generator meanwhile). The weights that training starts from are the model's own:
            `create_vae(..., seed=0)` fixes those.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        gradient_clip: scale the gradient down to this norm where it is longer; that of each group of the objective's own
            parameters by itself.
        callbacks: see `Callback`.
        out: a folder for the results: `best` (the lowest validation loss, or training loss without validation) and `last`, each
            to be read by `vaekit.load`, and `history.csv`. Under a scheduled weight only validation losses compare from epoch to
            epoch, because they are taken with its final value.
        progress: show a bar with loss, reconstruction and KL in nats, samples a second and the time left.
        initialize_output_bias: before the first step, let the decoder start from the mean of `train`: for a new model, whose
            first epochs would go into learning it. See `VAE.initialize_output_bias`; whole examples only.

    Returns:
        a `History`. ^C ends a run early: everything so far is kept and saved, `history.interrupted` is set, and the epoch that
        was running is not in the history.

    Raises:
        NonFiniteLossError: names epoch, step, term and rows; the last finite weights are kept, in `vae` and in `out`.
        ValueError, TypeError: options or data that do not fit, before the first step where the data is whole.
        OSError: `out` cannot be written, or holds an earlier run; before the first step.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> history = fit(vae, torch.rand(100, 4), epochs=2, progress=False)
        >>> len(history["loss"])
        2
    """
    _check_options(epochs, batch_size, learning_rate, gradient_clip, seed, callbacks)
    checked_flag("initialize_output_bias", initialize_output_bias)
    fabric = _fabric(device)
    folder = None if out is None else writable_folder(out)
    conditional = vae.condition is not None
    batches = as_batches(train, batch_size, conditional)
    validation_batches = None if validation is None else as_batches(validation, batch_size, conditional)
    for name, whole in (("train", batches), ("validation", validation_batches)):
        if isinstance(whole, Whole):
            check_examples(vae, whole.examples, name)
    if folder is not None:
        vae.config()  # a model that cannot be saved is refused before it is trained, not after
        for name in (BEST, LAST, HISTORY_FILE):
            if (folder / name).exists():
                raise FileExistsError(f"{folder} holds the {name} of an earlier run; choose another folder, or remove it")
    if initialize_output_bias:
        if isinstance(batches, Stream):
            raise ValueError(
                "initialize_output_bias=True reads the data once before training, and a loader may give its batches only once; "
                "call vae.initialize_output_bias(x) with some of it, and then fit"
            )
        vae.initialize_output_bias(batch.x for batch in batches)

    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.inference_mode(False), torch.enable_grad():
        # For layers that draw from a global generator, such as dropout; torch.manual_seed would reseed every device.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        run = _Run(vae, fabric, batches, validation_batches, learning_rate, seed, gradient_clip, callbacks, folder)
        return run(epochs, progress)


class _Step(NamedTuple):
    """What is kept of a step until it is looked at."""

    number: int
    rows: Tensor | None
    unchecked: Batch | None  # where nobody has checked it yet
    terms: LossTerms


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        vae: VAE,
        fabric: Fabric,
        batches: Whole | Stream,
        validation: Whole | Stream | None,
        learning_rate: float,
        seed: int,
        gradient_clip: float | None,
        callbacks: Sequence[Callback],
        folder: Path | None,
    ) -> None:
        vae.to(fabric.device)
        optimizer = torch.optim.Adam(_parameter_groups(vae), lr=learning_rate, fused=True)
        self.vae, self.fabric, self.adam = vae, fabric, optimizer
        self.model, self.optimizer = fabric.setup(vae, optimizer)
        self.batches, self.validation = batches, validation
        self.gradient_clip, self.callbacks, self.folder = gradient_clip, callbacks, folder
        root = philox.make_key(seed)
        self.noise_key, self.order_key = philox.fold_in(root, torch.arange(2)).unbind(0)
        self.validation_key = evaluation_key(seed)
        self.history = History()
        self.state = FitState(vae, self.history)
        self.pending: list[_Step] = []
        self.kept_state: dict[str, Tensor] = {}
        self.epochs_saved = 0
        # NaN from the first loss that is not finite on; Adam's fused kernel then leaves the weights alone.
        self.non_finite = torch.zeros((), device=fabric.device)

    def __call__(self, epochs: int, progress: bool) -> History:
        total = None if self.batches.size is None else epochs * self.batches.size
        keys = self._step_keys()
        self.vae.train()
        with tqdm(
            total=total, unit=" samples", unit_scale=True, disable=not progress, dynamic_ncols=True, mininterval=0.2
        ) as bar:
            try:
                for epoch in range(epochs):
                    self.state.epoch = epoch
                    bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
                    self._epoch(keys, bar)
                    if self.state.stop:
                        break
            except KeyboardInterrupt:
                self.history.interrupted = True
                self._look(bar, TermSums())
            finally:
                self.model.zero_grad(set_to_none=True)
                self._save_epoch()
                if self.state.step:
                    self._save(LAST)
        return self.history

    def _epoch(self, keys: Iterator[Tensor], bar: Any) -> None:
        started = looked = time.perf_counter()
        self._keep_state()
        sums = TermSums()
        batches: Iterable[Batch] = self.batches
        if isinstance(self.batches, Whole):
            generator = torch.Generator().manual_seed(int(philox.fold_in(self.order_key, self.state.epoch)[0]))
            batches = self.batches.in_order(torch.randperm(self.batches.size, generator=generator))
        for batch in batches:
            self._step(batch, next(keys))
            bar.update(len(batch.x))
            for callback in self.callbacks:
                callback.on_step_end(self.state)
            if (now := time.perf_counter()) - looked > _SECONDS_BETWEEN_LOOKS:
                self._look(bar, sums)
                looked = now
            if self.state.stop:
                break
        self._look(bar, sums, epoch_ends=True)
        terms = sums.means()
        if not terms:
            raise ValueError("the loader gave no batch in this epoch; an iterator that is used up cannot be trained on twice")
        if self.validation is not None:
            validated = mean_terms(self.vae, self.validation, self.validation_key)
            for name, value in validated.items():
                if not math.isfinite(value):
                    raise NonFiniteLossError(
                        f"epoch {self.state.epoch + 1}: {name} is not finite on the validation data, {value}. "
                        "The model holds the weights of this epoch"
                    )
            terms |= {f"val_{name}": value for name, value in validated.items()}
        self.history.append(terms, time.perf_counter() - started)
        self._save_epoch()
        for callback in self.callbacks:
            callback.on_epoch_end(self.state)

    def _step(self, batch: Batch, key: Tensor) -> None:
        there = batch.to(self.fabric.device)
        told = {"step": self.state.step, "index": there.index, "dataset_size": self.batches.size}
        terms: LossTerms = self.model(there.x, there.condition, key=key, **told)
        objective = terms.objective
        self.fabric.backward(objective)
        self.non_finite += objective.detach() - objective.detach()
        if self.gradient_clip is not None:
            for group in self.adam.param_groups:
                norm = torch.nn.utils.clip_grad_norm_(group["params"], self.gradient_clip)
                self.non_finite += norm - norm
        self.adam.found_inf = self.non_finite.isnan().float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        unchecked = batch if isinstance(self.batches, Stream) else None
        extras = {name: value.detach() for name, value in terms.extras.items()}
        auxiliary = None if terms.auxiliary is None else terms.auxiliary.detach()
        detached = LossTerms(terms.total.detach(), terms.reconstruction.detach(), terms.kl.detach(), extras, auxiliary)
        self.pending.append(_Step(self.state.step, batch.index, unchecked, detached))
        self.state.step += 1

    def _look(self, bar: Any, sums: TermSums, epoch_ends: bool = False) -> None:
        """Read the losses of the steps since the last look: refuse what is not finite, add up the rest, show the mean.

        At the end of an epoch the weights are looked at as well: a gradient can ruin them where every loss was finite.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return
        recent = TermSums()
        for step in pending:
            recent.add(step.terms)
            sums.add(step.terms)
        means = recent.means()
        if not all(map(math.isfinite, means.values())) or bool(self.non_finite.isnan()):
            self._refuse(pending)
        if epoch_ends and not math.isfinite(sum(float(p.detach().sum(dtype=torch.float32)) for p in self.vae.parameters())):
            self._refuse(pending)
        for step in pending:
            self._check(step)
        bar.set_postfix_str(" ".join(f"{name} {value:.1f}" for name, value in means.items()), refresh=False)

    def _check(self, step: _Step) -> None:
        """Raise if a loader's batch holds what no model should see."""
        if step.unchecked is not None:
            check_values(self.vae, step.unchecked, f"train, the batch of step {step.number}")

    def _refuse(self, pending: Sequence[_Step]) -> None:
        """Raise for the first step whose terms were not finite, with finite weights in the model."""
        held, because = self._make_finite()
        where = f"epoch {self.state.epoch + 1}"
        for step in pending:
            named = named_terms(step.terms)
            if step.terms.auxiliary is not None:
                named["auxiliary"] = step.terms.auxiliary
            bad = [name for name, value in named.items() if not value.isfinite().all()]
            if bad:
                self._check(step)
                name = next((n for n in bad if n != "loss"), "loss")  # the term from which the loss has it
                rows = self._rows(named[name], step.rows)
                raise NonFiniteLossError(
                    f"{where}, step {step.number}: {name} is not finite{rows}. {because}The model holds {held}. "
                    "A lower learning_rate, or gradient_clip=1.0, often helps"
                )
        raise NonFiniteLossError(
            f"{where}, steps {pending[0].number} to {pending[-1].number}: the gradient is not finite, though every loss is. "
            f"The model holds {held}. A lower learning_rate often helps"
        )

    def _keep_state(self) -> None:
        """Remember weights and buffers as they are at the beginning of an epoch."""
        state = self.vae.state_dict()
        if not self.kept_state:
            self.kept_state = {name: tensor.clone() for name, tensor in state.items()}
        else:
            for name, tensor in state.items():
                self.kept_state[name].copy_(tensor)

    def _make_finite(self) -> tuple[str, str]:
        """Put back what was kept, where what is there is not finite; says which weights the model holds, and why."""
        weights = {name for name, _ in self.vae.named_parameters()}
        state = self.vae.state_dict()
        ruined = {name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()}
        if not ruined:
            moved = [name for name in state if name not in weights and not torch.equal(state[name], self.kept_state[name])]
            names = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
            later = f", and the averages {names} as a few steps after it left them" if moved else ""
            return f"the weights from before that step{later}", ""
        for name in state if ruined & weights else ruined:
            state[name].copy_(self.kept_state[name])
        if not ruined & weights:
            return f"the weights from before that step, and {', '.join(sorted(ruined))} from the beginning of the epoch", ""
        return "the weights from the beginning of the epoch", "The weights themselves had become non-finite in the step before. "

    def _rows(self, value: Tensor, index: Tensor | None) -> str:
        """Where a term [B] is not finite, in words: rows of the dataset, or of the batch where those are not known."""
        if value.ndim == 0:
            return ""
        numbers = (~value.isfinite()).nonzero().flatten().cpu()
        which = "batch"
        if index is not None and isinstance(self.batches, Whole):
            numbers, which = self.batches.numbers(index.cpu()[numbers]), "dataset"
        shown = ", ".join(map(str, numbers[:10].tolist())) + (", ..." if len(numbers) > 10 else "")
        return f" in {len(numbers)} of {len(value)} rows, in the {which} these: {shown}"

    def _step_keys(self) -> Iterator[Tensor]:
        """The key of step n is fold_in(noise key, n): made many at a time, on the device."""
        key = self.noise_key.to(self.fabric.device)
        for first in itertools.count(step=_STEP_KEYS_AT_ONCE):
            numbers = torch.arange(first, first + _STEP_KEYS_AT_ONCE, device=key.device)
            yield from philox.fold_in(key, numbers).unbind(0)

    def _save_epoch(self) -> None:
        """Write the history, and the weights if the epoch that has ended is the best; once for each epoch."""
        if self.folder is None or self.epochs_saved == self.history.epochs:
            return
        self.history.to_csv(self.folder / HISTORY_FILE)
        if self.history.best_epoch == self.history.epochs - 1:
            self._save(BEST)
        self.epochs_saved = self.history.epochs

    def _save(self, name: str) -> None:
        if self.folder is not None:
            self.vae.save(self.folder / name)


def _parameter_groups(vae: VAE) -> list[dict[str, Any]]:
    """Adam's groups: the rest of the model, and what the objective has of its own.

    Raises:
        TypeError: something that is no group, or an option that is not Adam's.
        ValueError: parameters that the model does not have, or a learning rate that is none.
    """
    whose, known = f"{type(vae.loss).__name__}.parameter_groups", set(vae.parameters())
    own: list[dict[str, Any]] = []
    for group in vae.loss.parameter_groups():
        if not isinstance(group, Mapping) or "params" not in group or not group.keys() <= set(_GROUP_OPTIONS):
            got = ", ".join(map(str, group)) if isinstance(group, Mapping) else repr(group)
            raise TypeError(
                f'{whose} has to give mappings with "params" and any of {", ".join(_GROUP_OPTIONS[1:])}, '
                f'{{"params": [...], "lr": 1e-4}} for example; got {got}'
            )
        given = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        parameters = [p[1] if isinstance(p, tuple) else p for p in given]  # torch takes (name, parameter) too
        own.append({**group, "params": parameters})
        if foreign := [tuple(p.shape) for p in own[-1]["params"] if p not in known]:
            raise ValueError(
                f"{whose} gives parameters that are not the model's, of the shapes {', '.join(map(str, foreign))}; "
                "make their module an attribute of the loss"
            )
        if "lr" in group:
            _check_positive(f"lr in {whose}", group["lr"])
        try:
            torch.optim.Adam(**{**own[-1], "params": [torch.zeros(1)]})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{whose} gives what Adam does not take: {error}") from error
    taken = {p for group in own for p in group["params"]}
    return [{"params": [p for p in vae.parameters() if p not in taken]}, *own]


def _check_options(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    gradient_clip: float | None,
    seed: int,
    callbacks: Sequence[Callback],
) -> None:
    checked_size("epochs", epochs)
    checked_size("batch_size", batch_size)
    philox.make_key(seed)
    for name, value in (("learning_rate", learning_rate), ("gradient_clip", gradient_clip)):
        if name == "gradient_clip" and value is None:
            continue
        _check_positive(name, value)
    if isinstance(callbacks, Callback) or not all(isinstance(callback, Callback) for callback in callbacks):
        raise TypeError(f"callbacks takes a sequence of objects that extend vaekit.Callback, got {callbacks!r}")


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise ValueError(f"{name} has to be positive and finite, got {value!r}")


def _fabric(device: str | torch.device) -> Fabric:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imports of its own that warn of themselves
        from lightning_fabric import Fabric

    if str(device) == "auto":
        return Fabric(accelerator="auto", devices=1)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device has to be "auto", "cpu", "cuda", "cuda:1" or "mps" for example, got {device!r}') from error
    try:
        torch.empty(0, device=chosen)
        return Fabric(accelerator=chosen.type, devices=1 if chosen.type == "cpu" else [chosen.index or 0])
    except Exception as error:  # every kind of device has its own way of not being there
        raise ValueError(f"there is no device {str(chosen)!r} here ({error}); `vaekit doctor` lists what there is") from error
