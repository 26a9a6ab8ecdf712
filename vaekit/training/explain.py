"""Words for what was not finite: which term, which examples, where it began, and what to do. Facts first, in short lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.data import Batches
from vaekit.evaluation.terms import named_terms
from vaekit.losses.base import LossTerms

if TYPE_CHECKING:
    from vaekit.training.examine import Findings
    from vaekit.training.guard import Failure, Taken

_BOUND = 'bound the log variance, posterior={"name": "diagonal_gaussian", "logvar_bound": 10.0} for example'
NEEDS_SEVERAL = (
    "taken again by one process, the step is finite: the failure needs the {world} processes of the run, in each of which layers "
    "such as dropout draw numbers of their own, and which add up in another order"
)
_MOST = 10  # of a kind that a line names


def what(taken: Sequence[Taken], batches: Batches, data: str = "train") -> str:
    """What was not finite in the parts of a step, in one line: "kl is not finite in 2 of 16 examples, in train these: 17, 33".

    Args:
        taken: the parts.
        batches: the data they are from, for the numbers of the examples.
        data: what the data is called.
    """
    terms = {name: [term_of(one.terms, name) for one in taken] for name in names_of(taken[0].terms)}
    bad = [name for name, values in terms.items() if not all(value.isfinite().all() for value in values)]
    if not bad:
        return "a gradient is not finite, though every term of the loss is"
    blamed = [name for name in bad if name != "loss"] or bad  # the terms, not the loss that sums them
    said = f"{listed(blamed)} {'is' if len(blamed) == 1 else 'are'} not finite"
    by_row = [name for name in blamed if terms[name][0].ndim]
    if not by_row:
        return f"{said}, though every term of it is" if blamed == ["loss"] else said
    rows = [~torch.stack([terms[name][part].isfinite() for name in by_row]).all(0).cpu() for part in range(len(taken))]
    numbers = [_numbers(one, batches, bad_rows) for one, bad_rows in zip(taken, rows, strict=True)]
    total, where = sum(one.count for one in taken), "the batch" if taken[0].index is None else data
    count = sum(int(bad_rows.sum()) for bad_rows in rows)
    return f"{said} in {count} of {total} examples, in {where} these: {listed([n for part in numbers for n in part], '')}"


def message(failure: Failure, batches: Batches, findings: Findings | None = None, lines: Sequence[str] = ()) -> str:
    """All that is known of a failure.

    Args:
        failure: what happened.
        batches: the training data.
        findings: what was found when the step was taken again; None where it was not.
        lines: more facts, at the end of them.
    """
    where = f"epoch {failure.epoch + 1}"
    if not failure.taken:
        facts = [
            f"{where}: {_after(failure)}the weights are not finite, though every loss and gradient was: the optimizer's step was "
            "too long for the dtype"
        ]
    else:
        facts = [f"{where}, step {failure.taken[0].number}: {what(failure.taken, batches)}"]
    if failure.taken and failure.skipped > 1:
        is_first = failure.taken[0].number == (0 if failure.last_good is None else failure.last_good + 1)
        which = "the first" if is_first else "one"  # of a run that was resumed
        facts.append(f"{which} of {failure.skipped} steps in a row that were left out, after which the run gave up")
    facts += [] if findings is None else findings.lines()
    if failure.norms:
        measured = ", ".join(f"{norm:.4g} in step {number}" for number, norm in failure.norms)
        facts.append(f"the gradient's norm before: {measured}")
    facts.append(_held(failure))
    return "\n  ".join([*facts, *lines, *advice(failure, findings)])


def message_of_validation(epoch: int, said: str, findings: Findings | None) -> str:
    """All that is known of a loss that was not finite on the validation data.

    Args:
        epoch: 0, 1, ...
        said: what was not finite.
        findings: of the first batch in which something was not.
    """
    facts = [f"epoch {epoch + 1}, on the validation data: {said}", *([] if findings is None else findings.lines())]
    facts.append("every step of the epoch was good; the model holds the weights of this epoch")
    ideas = ["compare those examples with the training data: their scale, and values that it does not have"]
    if findings is not None and findings.logvar is not None and _overflows(findings):
        ideas.insert(0, _BOUND)
    return "\n  ".join([*facts, "what to do:", *(f"- {idea}" for idea in ideas)])


def _after(failure: Failure) -> str:
    return "" if failure.last_good is None else f"after step {failure.last_good}, or a few steps earlier, "


def _held(failure: Failure) -> str:
    good = "no step has been good" if failure.last_good is None else f"the last good step was {failure.last_good}"
    if failure.weights_are_lost:
        return f"{good}; the model holds the weights from the beginning of the epoch, because those before that step are lost"
    return f"{good}; the model holds the weights from before that step"


def advice(failure: Failure, findings: Findings | None) -> list[str]:
    """What to do, what is most likely to help first."""
    ideas = []
    if failure.is_float16:
        ideas.append('precision="bf16" has the range of float32: float16 ends at 65504')
    if findings is not None and findings.logvar is not None and _overflows(findings):
        ideas.append(_BOUND)
    if failure.last_good is None:
        ideas.append(
            "standardise the data, so that each column has mean 0 and variance 1, or scale it to the size of 1 (the learning "
            "rate is not the reason: no step was made before)"
        )
    else:
        ideas.append("a lower learning_rate, or gradient_clip=1.0, often helps")
    if failure.taken and not failure.skipped:
        ideas.append('on_nonfinite="skip" leaves such steps out')
    return ["what to do:", *(f"- {idea}" for idea in ideas)]


def _overflows(findings: Findings) -> bool:
    assert findings.logvar is not None
    low, high = findings.logvar
    return not (abs(low) < findings.largest_logvar and abs(high) < findings.largest_logvar)


def term_of(terms: LossTerms, name: str) -> Tensor:
    """A term by its name in a history, or the auxiliary objective."""
    if name == "auxiliary":
        assert terms.auxiliary is not None
        return terms.auxiliary
    return named_terms(terms)[name]


def names_of(terms: LossTerms) -> list[str]:
    """The names by which `term_of` gives them."""
    return [*named_terms(terms), *(["auxiliary"] if terms.auxiliary is not None else [])]


def _numbers(taken: Taken, batches: Batches, rows: Tensor) -> list[int]:
    """The numbers of the examples in these rows, a bool [B]: in the data where it has numbers, otherwise in the step."""
    places = rows.nonzero().flatten()
    numbers = None if taken.index is None else batches.numbers(taken.index.cpu()[places])
    if numbers is not None:
        return [int(number) for number in numbers]
    return [taken.row_start + int(place) for place in places]


def listed(names: Sequence[object], last: str = "and") -> str:
    """A few of them in words.

    Example:
        >>> listed(["kl", "loss", "auxiliary"]), listed(range(100), "")
        ('kl, loss and auxiliary', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 90 more')
    """
    shown = [str(name) for name in names[:_MOST]]
    if len(names) > _MOST:
        return f"{', '.join(shown)} and {len(names) - _MOST} more"
    return ", ".join(shown) if not last or len(shown) < 2 else f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def span(low: float, high: float) -> str:
    """A range in words: "from -3.1 to 95.2"."""
    if math.isnan(low) or math.isnan(high):
        return "NaN everywhere"
    return f"from {low:.4g} to {high:.4g}"
