"""`fit`: checks what it is given, builds a run from its components, and runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vaekit import seeding
from vaekit.batch_norm import normalising_over_all_processes
from vaekit.checks import checked_flag
from vaekit.data import Batches, with_validation
from vaekit.evaluation.terms import evaluation_key, mean_terms
from vaekit.gathering import Ranks
from vaekit.inputs import as_rows, checked, checked_batches, reading_of
from vaekit.ops import philox, streams
from vaekit.schedules import Schedule, scheduled
from vaekit.training import optimizers, preflight
from vaekit.training.callbacks import Callback, Callbacks, TimeLimit
from vaekit.training.checkpoints import Checkpoints, Stateful, restore
from vaekit.training.engine import Engine
from vaekit.training.guard import Guard
from vaekit.training.history import History
from vaekit.training.identity import check_same, identity_of
from vaekit.training.loop import Loop
from vaekit.training.options import FitOptions
from vaekit.training.plan import Plan
from vaekit.training.progress import Progress, shown_on
from vaekit.training.rates import LearningRate, is_planned_by_epochs
from vaekit.training.record import Record, is_numbered, new_if_numbered
from vaekit.training.recorder import Recorder
from vaekit.training.report import Report, about_validation
from vaekit.training.signals import stopping_on_signals
from vaekit.training.signs import Signs
from vaekit.training.snapshots import Snapshot
from vaekit.training.state import RunState
from vaekit.training.trackers import TrackedRun, Tracker, build
from vaekit.training.trackers.csv import kept_current
from vaekit.training.update import Update
from vaekit.training.watch import Watch
from vaekit.vae import VAE


def fit(
    vae: VAE,
    train: Any,
    *,
    validation: Any = None,
    epochs: int = 30,
    planned_epochs: int | None = None,
    batch_size: int = 64,
    learning_rate: float | Schedule | Mapping[str, Any] = 1e-3,
    optimizer: optimizers.Spec = "adam",
    precision: str | int = "32",
    accumulate: int = 1,
    ema: float | None = None,
    gradient_clip: float | Mapping[str, float] | None = None,
    on_nonfinite: str = "stop",
    compile: bool = False,
    keep: int = 2,
    checkpoint_minutes: float = 10.0,
    seed: int = 0,
    device: str | torch.device = "auto",
    devices: int | Sequence[int] = 1,
    strategy: str = "auto",
    callbacks: Sequence[Callback] = (),
    out: str | os.PathLike[str] | None = None,
    trackers: Sequence[str | Mapping[str, Any] | Tracker] = ("csv",),
    time_limit: float | None = None,
    resume: bool = False,
    progress: bool = True,
    initialize_output_bias: bool = False,
) -> History:
    """Train a model, in place.

    An objective with parameters of its own, the discriminator of `factor` for example, says how those are trained, in the same
    step after one backward through `LossTerms.objective`.

    Args:
        vae: the model, with weights in float32 or float64. Afterwards it holds the last weights, on `device`, in evaluation mode.
            Parameters with requires_grad=False stay as they are; a module whose parameters are all frozen, and which is in
            evaluation mode, stays in it.
        train: `vaekit.data.Examples` (files larger than memory are some too, see `vaekit.data.open_shards`), a tensor or array
            [N, *input_shape], a pair (x, y) of them, a `datasets.Dataset` with a column x, or a loader, any iterable whose
            batches are x, (x, ...) or {"x": x}. For a conditional model y is the condition, and a loader's batches are
            (x, y, ...) or {"x": x, "y": y}. Whole examples are reshuffled every epoch; an incomplete last batch counts.
        validation: the same, evaluated after every epoch with the same noise each time; noise goes by an example's place, so that
            a loader should keep its order, or shuffle by a global generator, which is seeded for it. Or a fraction of whole
            examples that is held out, 0.1 for example: drawn by `seed`, within each class where y are labels, or by the groups
            or times of the examples (`vaekit.data.splits`); or the column of a frame that says which rows are.
        epochs: passes over `train`.
        planned_epochs: for how many of them a schedule of the learning rate is made that leaves out its `steps`; `epochs` by
            default. A run that is resumed with more epochs keeps the schedule that it began with, as its run.json then says, and
            trains at the final rate after it.
        batch_size: the examples that go through the model at once; a loader has its own.
        learning_rate: the optimizer's, as a number, a schedule of the step, or its spec, {"name": "warmup_cosine", "peak": 1e-3,
            "warmup": 500} for example (see `vaekit.schedules`). A spec that leaves out `steps` gets the run's own number. It is
            not that of parameters for which the objective (`Loss.parameter_groups`), or a group, has one of its own.
        optimizer: a name from `vaekit.optimizers.names()`, or {"name": ..., option: ..., "groups": {"encoder.*": {"lr": 1e-4}}},
            whose groups are patterns of parameter names with options for what they match: see `vaekit.optimizers`. Or a function
            of the groups, such as torch.optim.Adagrad or lambda groups: torch.optim.Adagrad(groups, eps=1e-8), which a run's
            folder cannot hold. Adam (D. P. Kingma, J. Ba, 2014, arXiv:1412.6980) by default.
        precision: what encoder and decoder compute in: "32", the weights' dtype; "bf16" or "16", bfloat16 or float16 by autocast;
            "auto", bf16 on a GPU that computes in it and 32 elsewhere. The layers that read z or come last are computed in
            float32, and so is all else: likelihood, divergence, objective and sums, and validation. Weights and data keep their
            dtype. With "16" gradients are scaled, and steps in which they overflow left out, until a scale is found that they
            fit (P. Micikevicius et al., 2018, arXiv:1710.03740); then an optimizer that is not fused waits for the device in
            each step, and the number of processes can change which steps are left out, as each may overflow by itself.
            TensorFloat-32 is as it is set: `torch.set_float32_matmul_precision("high")` makes a GPU take float32 products of
            matrices in it, with 11 bits.
        accumulate: so many batches make one optimizer step, for batches that do not fit into memory at once: with the same
            examples, noise and gradient as one of accumulate * batch_size examples, to rounding. The last step of an epoch takes
            the batches that are left. Batch normalisation sees a batch at a time; objectives that compare examples
            (`Loss.compares_examples`) refuse it.
        ema: keep an exponential moving average of the weights with this decay, 0.999 for example: it is what is validated,
            saved, and in the model at the end. See `vaekit.training.Average`.
        seed: fixes the order of the examples and all noise, dropout's and that of a loader that shuffles too, unless other
            threads draw from the global generators of torch, NumPy or Python meanwhile; those are put back at the end. A second
            `fit` with the same seed sees the noise and the orders of the first again; give it another one to go on with new
            ones. The weights that training starts from are the model's own: `create_vae(..., seed=0)` fixes those. The same run
            gives the same bits again on the same machine, with the same versions and number of threads, and any number of data
            workers. It cannot with another number of threads, or on other hardware: matrix products add in another order there,
            and training makes more of the last digit's difference with every step. What a dataset draws in a worker, to augment
            for example, depends on which worker it is, and with persistent_workers on what that one has drawn before.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        devices: how many devices of this machine, or the numbers of some GPUs, [0, 3] for example. Each needs a process, which
            torchrun starts: `torchrun --nproc-per-node 2 program.py`. Under torchrun it may be left out. The run is the one of a
            single process, to rounding: every batch is divided among the processes. See `vaekit.training.processes`.
        strategy: how several processes train one model. "ddp", or "auto", which is that: each holds all of it. "fsdp": each holds
            a part of the weights, their gradients, the optimizer's state and the averages, and large layers are put together one
            after the other within a step. Validation, files and callbacks at the end of an epoch see the whole model, which has
            to fit into each process for as long as they take; in `on_step_end` its weights are parts. Files are those of one
            process, and a run may go on with the other strategy. Of a process that fails within a step no weights are left: the
            run goes on from its last checkpoint.
        gradient_clip: scale the gradient down to this norm where it is longer; that of each group of the objective's own
            parameters by itself. {"value": 0.5} limits the size of each of its elements instead.
        on_nonfinite: what happens at a loss, a term of it or a gradient that is NaN or infinite. "stop": the run ends with an
            explanation. "skip": the step leaves no trace, weights, optimizer, averages and buffers stay bit for bit as they
            were; `history.skipped` counts such steps, and a warning at the end of the epoch says what the first was. After
            50 of them in a row, or an epoch of nothing else, the run ends all the same.
        callbacks: see `Callback`.
        out: a folder for the results: `best` (the lowest validation loss, or training loss without validation) and `last`, each
            to be read by `vaekit.load`, `checkpoints`, and what the trackers write. "runs/digits-{n}" is a new folder each time,
            of the first number that is free, so that a cell of a notebook can be run again; `history.folder` says which. Where
            the objective has a scheduled weight, only epochs with its final value can be the best, or the last epoch where there
            are none (`History.best_epoch`).
            `run.json` has the parts and the options, with which `vaekit train DATA --config` trains such a model again;
            `environment.json` says where the run took place: versions, git commit, command line, host, device
            (`vaekit.training.record.environment`).
        resume: go on with the run in `out`, from its last checkpoint, if there is one; else begin it. The model is to be
            composed as it was, whatever its weights; what else has to be the same is checked. See `vaekit.resume`.
        compile: have `torch.compile` make one program of forward and backward, which takes half a minute or more before the first
            steps, and a C++ compiler on the CPU; the same results, to rounding.
        keep: how many checkpoints are kept in `out`; 0 for none.
        checkpoint_minutes: between two checkpoints; another is written at the beginning, at the end, and when the run is
            interrupted. A loader without state_dict can only be resumed at the start of an epoch: a checkpoint is written at
            each, and at no other time.
        trackers: what writes down the terms of every epoch, and of every 50 steps: names from `vaekit.trackers.names()`,
            {"name": ..., option: ...}, or a `Tracker`. "csv" is `history.csv` in `out`, which a run that goes on keeps
            current in any case.
        time_limit: minutes after which the run ends at the next step, as ^C would end it. See `vaekit.TimeLimit`.
        progress: show device and precision on stderr, then loss, reconstruction and KL in nats, the learning rate where it
            changes, samples a second and the time left: as a bar in a terminal or a notebook, otherwise as a line an epoch.
        initialize_output_bias: before the first step, let the decoder start from the mean of `train`: for a new model, whose
            first epochs would go into learning it. See `VAE.initialize_output_bias`; whole examples only.

    Returns:
        a `History`. ^C or a time limit ends a run after the present step: everything so far is saved, `history.interrupted` is
        set, and the epoch that was running is not in the history. A second ^C ends the run at once, without a checkpoint of that
        moment.

    Raises:
        NonFiniteLossError: says in which step what was not finite, and where it came from; the model holds the weights from
            before that step.
        ValueError, TypeError: options or data that do not fit, before the first step where the data is whole; weights in half
            precision, or in float64 and a lower precision; a model without a trainable parameter.
        SystemExit: with code 143, when everything is saved, of a process that was asked to end (SIGTERM; SIGHUP with 129).
        RuntimeError: a call inside `torch.autocast`.
        OSError: `out` cannot be written, or holds an earlier run; before the first step.

    Warns:
        UserWarning: data far from the scale of a Gaussian likelihood; an objective that averages the reconstruction and sums the
            divergence; a log variance near overflow; latent dimensions that have collapsed and codes that are not used, once
            after an epoch in which 500 steps and 5,000 examples with the final weights of the objective are done, and at the
            end; the run is shorter than the schedule of one of the objective's weights, or of the learning rate; steps were
            skipped; half of them or more were left out with precision="16".

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> history = fit(vae, torch.rand(100, 4), epochs=2, progress=False)
        >>> len(history["loss"])
        2
    """
    options = FitOptions(
        epochs=epochs,
        planned_epochs=planned_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,
        precision=precision,
        accumulate=accumulate,
        ema=ema,
        gradient_clip=gradient_clip,
        on_nonfinite=on_nonfinite,
        compile=compile,
        keep=keep,
        checkpoint_minutes=checkpoint_minutes,
        seed=seed,
        device=device,
        devices=devices,
        strategy=strategy,
        trackers=trackers,
        time_limit=time_limit,
        initialize_output_bias=initialize_output_bias,
    )
    if not isinstance(vae, VAE):
        raise TypeError(f"fit trains a vaekit.VAE, got {type(vae).__name__}; vaekit.create_vae composes one")
    given = _checked_callbacks(callbacks)
    called = Callbacks(given if time_limit is None else (*given, TimeLimit(time_limit)))
    checked_flag("progress", progress)
    engine = Engine(device, precision, preflight.dtype_of_weights(vae), devices, strategy)
    ranks = engine.ranks
    preflight.check_precision(vae, engine.device)
    preflight.check_weights(vae)
    preflight.check_accumulation(vae, accumulate)
    if strategy == "fsdp":
        preflight.check_division(vae, options)
    train, validation, said = *with_validation(as_rows(vae, train), validation, seed, reading_of(vae)), validation
    batches, validation_batches = checked_batches(vae, train, batch_size, "train"), None
    if validation is not None:
        validation_batches = checked_batches(vae, validation, batch_size, "validation")
    if initialize_output_bias:
        _check_that_the_bias_can_start(vae, batches)
    if out is not None:
        vae.config()  # a model that cannot be saved is refused before it is trained, not after
    if checked_flag("resume", resume) and out is None:
        raise ValueError("resume=True goes on with the run in a folder; give out= as well")
    if (is_new := is_numbered(out)) and resume:
        raise ValueError(f"resume=True goes on with the run in a folder that is there, but {out} is a new one each time; name it")
    with (
        engine.together(),
        new_if_numbered(out, ranks) as out,
        (checkpoints := Checkpoints(out, keep, checkpoint_minutes, resume, ranks)).held(),
        (record := Record(out, checkpoints.folder, checkpoints.is_resumed)).kept(),
        seeding.own_generators(engine.device),
        torch.inference_mode(False),
        torch.enable_grad(),
        preflight.training_mode(vae),
        normalising_over_all_processes(vae) if ranks.world > 1 else nullcontext(),
        engine.shards.ended(),
    ):
        about = {} if out is None else identity_of(vae, options, engine.precision, batches, validation_batches, not ranks.rank)
        if (snapshot := checkpoints.newest()) is not None:
            if not ranks.rank:  # whose data those were; a loader may give every other process examples of its own
                check_same(snapshot.about, about, out)
            about |= {name: snapshot.about[name] for name in ("planned_epochs", "run")}
            options = _gone_on_with(options, snapshot)
            about["options"] |= {"epochs": options.epochs, "planned_epochs": options.planned_epochs}
        preflight.check_smallest_batch(vae, batches)
        vae.to(engine.device)
        plan = Plan(batches, seed, engine.device, accumulate, partial(seeding.reseed, engine.device), ranks)
        guard = Guard(vae, batches, on_nonfinite, engine.scaler, ranks, engine.shards)
        planned_steps = plan.expected_steps(about.get("planned_epochs", planned_epochs or epochs))
        update = Update(vae, engine, options, guard, planned_steps)
        rate, steps = LearningRate(learning_rate, planned_steps), plan.expected_steps(options.epochs)
        told = () if ranks.rank else build(trackers)
        told = told if snapshot is None else kept_current(told, checkpoints.folder)
        state = RunState(vae, update.optimizer, update.average, rank=ranks.rank, trackers=told, shards=engine.shards)
        state.history.folder = None if out is None else Path(out).resolve()
        state.put_together()  # until the first step
        guard.explain = Report(vae, batches, update, state, checkpoints.folder)
        weights = {**scheduled(vae.loss), **scheduled(vae.encoder)}
        if steps is not None and not ranks.rank:
            preflight.warn_of_unfinished(weights, steps, "the run has")
            preflight.warn_of_unfinished_rate(rate, steps, "the run has")
        signs = Signs(vae, batches, validation_batches, ranks)
        signs.before()
        parts: dict[str, Stateful] = {"run": state, "loader": plan, "engine": engine, "callbacks": called}
        if snapshot is not None:
            restore(snapshot, parts)
            state.stop = state.stop and epochs <= snapshot.about["options"]["epochs"]
        record.write(vae, options, engine.device, engine.precision, said)
        checkpoints.claim(about, parts)  # from here on nothing is refused
        if snapshot is not None:
            checkpoints.go_on(snapshot, state)
        elif initialize_output_bias:
            vae.initialize_output_bias(batch.x for batch in checked(vae, batches))
            if state.average is not None:
                state.average.restart()
        validate = None
        if validation_batches is not None:
            validate = partial(_validated, vae, validation_batches, seed, ranks)
            guard.explain_validation = partial(about_validation, vae, validation_batches, evaluation_key(seed))
        total = None if plan.size is None else epochs * plan.size
        shown = shown_on(sys.stderr, epochs, total, state.examples) if progress and not ranks.rank else Progress()
        is_over = state.history.epochs >= options.epochs or (state.stop and not state.is_within_epoch)
        shown.say(f"training {engine}" if snapshot is None else _where(state, engine, is_over))
        if is_new:
            shown.say(f"into {state.history.folder}")
        if snapshot is not None and options.planned_epochs not in (None, options.epochs) and not is_over:
            shown.say(_after_the_plan(rate, options))
            preflight.warn_of_no_rate(rate, options)
        if snapshot is not None:
            for line in _not_compared({"train": batches, "validation": validation_batches}):
                shown.say(line)
        if snapshot is not None and batches.keeps_workers:
            shown.say("the loader's persistent workers begin anew: what they draw at random differs from what it would have been")
        plan.say = shown.say
        run = TrackedRun(checkpoints.folder, state.history, vae, options, snapshot is not None, state.step)
        recorder = Recorder(state, state.trackers, run)
        watch = Watch(state, guard, shown, recorder, ranks, signs)
        with stopping_on_signals(state) as request, signs.watching():
            history = Loop(state, plan, update, guard, watch, recorder, checkpoints, called, validate, weights, ranks).run(epochs)
            signs.after(state)
        if steps is None and not (history.interrupted or state.stop or ranks.rank):
            preflight.warn_of_unfinished(weights, state.step, "the run had")
            preflight.warn_of_unfinished_rate(rate, state.step, "the run had")
    if engine.scaler is not None:
        engine.scaler.warn_of_left_out(state.step)
    request.end(history)
    return history


def _validated(vae: VAE, batches: Batches, seed: int, ranks: Ranks) -> dict[str, float]:
    """The mean terms; what a loader draws from the global generators is the same each time."""
    seeding.reseed(vae.device, *seeding.seeds_of(philox.fold_in(philox.make_key(seed), streams.Run.VALIDATION)[None]))
    return mean_terms(vae, batches, evaluation_key(seed), ranks)


def _gone_on_with(options: FitOptions, snapshot: Snapshot) -> FitOptions:
    """The options with no fewer epochs than the run has, and with those for which its learning rate was planned."""
    epochs, planned = max(options.epochs, snapshot.epochs), snapshot.about["planned_epochs"]
    is_planned = is_planned_by_epochs(options.learning_rate) and planned != epochs
    return replace(options, epochs=epochs, planned_epochs=planned if is_planned else options.planned_epochs)


def _after_the_plan(rate: LearningRate, options: FitOptions) -> str:
    """What becomes of a learning rate that was made for another number of epochs, in words."""
    kept = f"the learning rate keeps the schedule for {options.planned_epochs} epochs with which the run began"
    return kept if options.epochs < (options.planned_epochs or 0) else f"{kept}, and stays at {rate.final:.4g} after them"


def _not_compared(data: Mapping[str, Batches | None]) -> Iterator[str]:
    """What is to be known of data that may not be those with which a run began."""
    for name, batches in data.items():
        if batches is not None and batches.why_not_compared:
            yield f"{name}: its values could not be compared with those that the run began with: {batches.why_not_compared}"


def _where(state: RunState, engine: Engine, is_over: bool) -> str:
    """Where a run is resumed."""
    if is_over:
        return f"the run has ended already, after step {state.step:,} of epoch {state.history.epochs}; more epochs go on with it"
    within = f"within epoch {state.epoch + 1}" if state.is_within_epoch else f"at the start of epoch {state.history.epochs + 1}"
    return f"training {engine}, resumed after step {state.step:,}, {within}"


def _checked_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    given = () if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable) else tuple(callbacks)
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable) or not all(isinstance(c, Callback) for c in given):
        raise TypeError(f"callbacks takes a sequence of objects that extend vaekit.Callback, got {callbacks!r}")
    return given


def _check_that_the_bias_can_start(vae: VAE, batches: Batches) -> None:
    if not batches.is_indexed:
        raise ValueError(
            "initialize_output_bias=True reads the data once before training, and a loader may give its batches only once; "
            "call vae.initialize_output_bias(x) with some of it, and then fit"
        )
    with torch.enable_grad():
        bias = vae.decoder.output_bias
    if bias is not None and not bias.requires_grad:
        raise ValueError(
            "initialize_output_bias=True would change the decoder's output bias, which is frozen (requires_grad=False); leave it "
            "out"
        )
