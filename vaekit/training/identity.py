"""What a run is made from, and whether what is given to go on with it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from vaekit.data import Batches, differences
from vaekit.training.options import FitOptions
from vaekit.training.precision import Precision
from vaekit.training.record import plain_options
from vaekit.vae import VAE

_ALSO = {
    "frozen": "the frozen parameters were",
    "evaluating": "the modules that stay in evaluation mode were",
    "lower_precision": "the networks' lower precision was",
}


def identity_of(
    vae: VAE, options: FitOptions, precision: Precision, train: Batches, validation: Batches | None, is_first: bool
) -> dict[str, Any]:
    """Plain data that say what a run is made from; the model is in the mode in which it is trained.

    Args:
        vae, options, precision, train, validation: of the run.
        is_first: whether this is its first process.

    Raises:
        ValueError: a model or an option that cannot be written down.
    """
    every = plain_options(options)
    made = {
        "options": every,
        "planned_epochs": options.planned_epochs or options.epochs,
        "model": vae.config(),
        "frozen": [name for name, p in vae.named_parameters() if not p.requires_grad],
        "evaluating": [name for name, module in vae.named_modules() if not module.training],
        "lower_precision": None if precision.lower is None else str(precision.lower).removeprefix("torch."),
        "train": train.fingerprint(is_first),
        "validation": None if validation is None else validation.fingerprint(is_first),
    }
    lasting = {name: every[name] for name in FitOptions.lasting()}
    # The same for the same run elsewhere, whose checkpoints are the same; how many rows can be read in two seconds is not.
    told = {**made, "options": lasting, **{name: _with_first_row(made[name]) for name in ("train", "validation")}}
    return {**made, "run": hashlib.sha256(json.dumps(told).encode()).hexdigest()}


def _with_first_row(fingerprint: Any) -> Any:
    rows = None if fingerprint is None else fingerprint["rows"]
    return {**fingerprint, "rows": rows[:1]} if isinstance(rows, list) else fingerprint


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: object) -> None:
    """Refuse to go on with another run than the one that was begun.

    Args:
        before: the identity in its checkpoint.
        now: that of what is given.
        folder: of the run, for the message.

    Raises:
        ValueError: something differs; the message says what.
    """
    if found := list(_differences(before, now)):
        raise ValueError(
            f"what is given differs from what the run in {folder} began with, and it cannot go on: {'; '.join(found)}. Give the "
            "same, or begin another run in another folder"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for option in FitOptions.lasting():
        one, other = before["options"].get(option), now["options"].get(option)
        if one != other:
            yield f"{option} was {one!r} and is {other!r}"
    one, other = before["planned_epochs"], now["options"]["planned_epochs"]
    if other not in (None, one):
        yield f"planned_epochs was {one} and is {other}"
    for kind in dict.fromkeys((*before["model"], *now["model"])):
        one, other = before["model"].get(kind), now["model"].get(kind)
        if kind != "vaekit" and one != other:
            yield from _of_part(kind, one, other)
    for name, what in _ALSO.items():
        if before[name] != now[name]:
            yield f"{what} {before[name]} and {now[name]} now"
    for data in ("train", "validation"):
        one, other = before[data], now[data]
        if (one is None) != (other is None):
            yield f"{data} was {'not ' if one is None else ''}given and is {'not' if other is None else 'now'}"
        elif one is not None and (words := differences(one, other)):
            yield f"{data}: {words}"


def _of_part(kind: str, one: Any, other: Any) -> Iterator[str]:
    """How a part of a model differs, option by option where it is the same part."""
    if not (isinstance(one, dict) and isinstance(other, dict) and one.get("name") == other.get("name")):
        yield f"the model's {kind} was {one!r} and is {other!r}"
        return
    for option in dict.fromkeys((*one, *other)):
        before, now = (repr(part[option]) if option in part else "not set" for part in (one, other))
        if before != now:
            yield f"the {kind}'s {option} was {before} and is {now}"
