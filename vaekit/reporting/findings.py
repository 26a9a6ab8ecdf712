"""What there is to say of a run: its figures, and what in them should make one look twice."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaekit import evaluation, layout, runs
from vaekit.data import Examples, as_examples
from vaekit.inputs import check_examples, named_as_trained
from vaekit.plots import catalogue
from vaekit.plots.catalogue import spread_rows
from vaekit.training import History
from vaekit.vae import VAE

_EXAMPLES = 200  # held out, for the bound and the latent dimensions
_DRAWS = 50
_IN_NATS = ("loss", "reconstruction", "kl")  # an objective's extras may be anything
_MOST_NAMED = 12  # collapsed dimensions
_STALE = 0.5  # of the epochs: a best one before has been followed by as many without a better one


@dataclass(frozen=True)
class Findings:
    """A run, read from its folder.

    Attributes:
        folder: the run's; the current one for a model without.
        settings: of its run.json.
        environments: of its environment.json, one for each start.
        history: None where no epoch has ended.
        figures: (what, value) in words.
        warnings: what should make one look twice, and what to do.
        model: (part, its spec) in words.
        layers: the model as `print` shows it.
        data: (what, value) in words.
        schema: the table's columns, printed; empty for other data.
        pictures: (name, PNG).
    """

    folder: Path
    settings: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    history: History | None
    figures: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    model: Sequence[tuple[str, str]]
    layers: str
    data: Sequence[tuple[str, str]]
    schema: str
    pictures: Sequence[tuple[str, bytes]]


def read(folder: Path, test: Any = None) -> Findings:
    """What a run's folder holds, and what its best model makes of held-out examples.

    Args:
        folder: of a run.
        test: the examples, or what they are made from; None for those on which the run was validated, if its folder says which.

    Raises:
        FileNotFoundError, ValueError: it is no run, or has no model yet; a damaged file; data that does not fit the model.
    """
    settings = runs.read_settings(runs.run_file_of(folder))
    vae, history = runs.saved_model(folder), runs.read_history(folder)
    if test is None and (settings.get("data") or settings.get("model")) is not None:
        test = runs.held_out_data(folder)
    found = of_model(vae, test, _pictures_in(folder), history)
    source = f"the codes of {settings['model']}" if "model" in settings else "what Python gave, which the folder does not hold"
    return replace(
        found,
        folder=folder,
        settings=settings,
        environments=_environments(folder),
        figures=[*_losses(history), *found.figures],
        warnings=[*_of_history(history), *found.warnings],
        data=[("read from", str(settings.get("data", source))), *found.data],
    )


def of_model(vae: VAE, test: Any = None, pictures: Sequence[tuple[str, bytes]] = (), history: History | None = None) -> Findings:
    """What there is to say of a model without a run's folder.

    Args:
        vae: the model.
        test: held-out examples, or what they are made from; None for no figures.
        pictures: that there are; drawn from the examples where there are none.
        history: for them.

    Raises:
        ValueError: no examples, or some that do not fit the model.
    """
    examples = None if test is None else named_as_trained(vae, as_examples(test))
    if examples is not None:
        _check(vae, examples)
    figures, collapsed = ([], None) if examples is None else _evaluated(vae, _some(examples))
    return Findings(
        folder=Path(),
        settings={},
        environments=[],
        history=history,
        figures=figures,
        warnings=[*_of_latents(collapsed, math.prod(vae.latent_shape))],
        model=_model(vae),
        layers=str(vae),
        data=_data(examples),
        schema="" if examples is None or examples.schema is None else str(examples.schema),
        pictures=pictures or _drawn(vae, examples, history),
    )


def _check(vae: VAE, examples: Examples) -> None:
    if not len(examples):
        raise ValueError("a report needs at least one held-out example, got none; data=None leaves them out")
    check_examples(vae, examples, "data", spread_rows(examples, min(len(examples), _EXAMPLES)))


def _some(examples: Examples) -> Examples:
    return examples.take(spread_rows(examples, min(len(examples), _EXAMPLES)))


def _pictures_in(folder: Path) -> Sequence[tuple[str, bytes]]:
    """Those that the run has left."""
    return [(name, file.read_bytes()) for name in catalogue.CATALOGUE if (file := folder / f"{name}.png").is_file()]


def _drawn(vae: VAE, examples: Examples | None, history: History | None) -> Sequence[tuple[str, bytes]]:
    drawn = []
    for name, figure in () if examples is None else catalogue.fitting(catalogue.Subject(vae, examples, history)):
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        drawn.append((name, stream.getvalue()))
    return drawn


def _environments(folder: Path) -> Sequence[Mapping[str, Any]]:
    file = folder / layout.ENVIRONMENT_FILE
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no environment of a run, or is damaged: {error}") from error
    if not isinstance(found, list) or not all(isinstance(start, dict) for start in found):
        raise ValueError(f"{file} is no environment of a run: it has to hold a list with an object for each start")
    return found


def _losses(history: History | None) -> Iterator[tuple[str, str]]:
    """The terms of the best epoch."""
    if history is None or not history.epochs:
        return
    best = history.best_epoch
    yield "best epoch", f"{best + 1} of {history.epochs}"
    for term in history:
        name = term.removeprefix("val_")
        unit = " nats" if name in _IN_NATS else ""
        yield f"{name}, {'held out' if name != term else 'training'}", f"{history[term][best]:.2f}{unit}"


def _evaluated(vae: VAE, test: Examples) -> tuple[Sequence[tuple[str, str]], Sequence[str] | None]:
    """Figures of held-out examples, and the collapsed latent dimensions; None where that is not known.

    What a model has no figure for, of codes or points for example, it says itself by an error, whose words stand in its place.
    """
    figures: list[tuple[str, str]] = []
    collapsed: Sequence[str] | None = None
    with _or_why(figures, "log p(x), at least"):
        bound = evaluation.importance_weighted_bound(vae, test, num_samples=_DRAWS)
        figures.append(("log p(x), at least", f"{_bound(bound)}, over {len(test)} held-out examples"))
    with _or_why(figures, "active latent dimensions"):
        latents = evaluation.latent_statistics(vae, test)
        figures.append(("active latent dimensions", f"{int(latents.active.sum())} of {latents.active.numel()}"))
        collapsed = latents.collapsed
    with _or_why(figures, "reconstructions"):
        errors = evaluation.reconstruction_error(vae, test)
        figures += [(f"reconstructions, {name}", f"{value:.4g}") for name, value in errors.items()]
    return figures, collapsed


@contextmanager
def _or_why(figures: list[tuple[str, str]], name: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        figures.append((name, f"none: {error}"))


def _bound(bound: evaluation.Bound) -> str:
    return (
        f"{bound.log_likelihood:.2f} nats, standard error {bound.standard_error:.2f}, effective sample size "
        f"{bound.effective_sample_size:.1f} of {_DRAWS} draws"
    )


def _of_history(history: History | None) -> Iterator[str]:
    if history is None or not history.epochs:
        yield "No epoch has ended yet: train on with vaekit train --resume."
        return
    best, epochs = history.best_epoch, history.epochs
    if epochs >= 4 and best + 1 <= _STALE * epochs:
        yield (
            f"The validation loss has not fallen since epoch {best + 1} of {epochs}: what came after was learned by heart. The "
            "folder best holds that epoch; more data, dropout or a smaller model would help more than further epochs."
        )
    if epochs >= 4 and best + 1 == epochs:
        yield f"The last epoch, {epochs}, is the best one: the loss is still falling, and more epochs would help."
    if history.interrupted:
        yield "The run was interrupted; vaekit train --resume goes on with it."
    if skipped := sum(history.skipped):
        yield f"{skipped} steps were left out, as something in them was not finite: lower the learning rate, or clip gradients."


def _of_latents(collapsed: Sequence[str] | None, dimensions: int) -> Iterator[str]:
    if not collapsed:
        return
    more = len(collapsed) - _MOST_NAMED
    named = ", ".join(collapsed[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    yield (
        f"{len(collapsed)} of {dimensions} latent dimensions have collapsed and say nothing of x: {named}. That is normal where "
        "there are more than the data need; otherwise let beta rise by a schedule, take the loss free_bits, or fewer dimensions."
    )


def _model(vae: VAE) -> Sequence[tuple[str, str]]:
    config = vae.config()
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    shapes = [("shapes", f"x {vae.input_shape}, z {vae.latent_shape}"), ("parameters", f"{parameters:,}")]
    return shapes + [(part, json.dumps(spec, default=str)) for part, spec in config.items() if isinstance(spec, (dict, str))]


def _data(test: Examples | None) -> Sequence[tuple[str, str]]:
    if test is None:
        return []
    found = [("held-out examples", f"{len(test):,}")]
    x = test.x[spread_rows(test, min(len(test), _EXAMPLES))]
    seen = x[~x.isnan()]
    if seen.numel():
        found.append(("values", f"{float(seen.min()):.4g} to {float(seen.max()):.4g}, of {len(x)} examples"))
    if seen.numel() < x.numel():
        found.append(("missing", f"{1 - seen.numel() / x.numel():.1%}"))
    return found
