"""The terms of an objective over a dataset: sums of what a `LossTerms` holds, and their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.data import Batch, Batches, Whole, moved
from vaekit.divided import Portion, portions_of_examples, portions_of_stream
from vaekit.gathering import Ranks
from vaekit.inputs import check_batch, checked_batches
from vaekit.losses.base import LossTerms
from vaekit.modes import evaluation_mode
from vaekit.ops import philox, streams
from vaekit.ops.precision import wide
from vaekit.vae import VAE


class TermSums:
    """Sums of loss terms over batches of different sizes: tensors on the device, which adding leaves there, or numbers once read.

    Example:
        >>> sums = TermSums()
        >>> sums.add(LossTerms(torch.tensor(3.0), torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]), {}))
        >>> sums.means()
        {'loss': 3.0, 'reconstruction': 2.0, 'kl': 1.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._examples: dict[str, int] = {}

    @classmethod
    def of(cls, terms: LossTerms) -> TermSums:
        """The sums of one batch."""
        sums = cls()
        sums.add(terms)
        return sums

    def add(self, terms: LossTerms) -> None:
        """Add one batch; a scalar term counts for each of its examples."""
        examples = len(terms.reconstruction)
        for name, value in named_terms(terms).items():
            dtype = wide(value.device)
            self._add(name, value.sum(dtype=dtype) if value.ndim else value.to(dtype) * examples, examples)

    def include(self, other: TermSums) -> None:
        """Add the sums of other batches."""
        for name, total in other._sums.items():
            self._add(name, total, other._examples[name])

    def _add(self, name: str, total: Tensor | float, examples: int) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._examples[name] = self._examples.get(name, 0) + examples

    def state_dict(self) -> dict[str, Any]:
        """The sums, and of how many examples each is; reads them."""
        sums = {name: torch.as_tensor(value, dtype=torch.float64, device="cpu") for name, value in self._sums.items()}
        return {"sums": sums, "examples": dict(self._examples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the sums of `state_dict`, as numbers."""
        self._sums = {name: float(value) for name, value in state["sums"].items()}
        self._examples = dict(state["examples"])

    def means(self) -> dict[str, float]:
        """Each term's mean over the examples that had it, in nats; synchronises."""
        return {name: value / max(self._examples[name], 1) for name, value in zip(self._sums, _read(self._sums), strict=True)}


def over_all_processes(each: Sequence[TermSums], ranks: Ranks) -> Sequence[TermSums]:
    """What all processes have summed up, for each of some sums of this one, as numbers, which are read all at once.

    It is added up in the order of the ranks, so that every process has the same to the last bit.
    """
    read = iter(_read({(sums, name): total for sums in each for name, total in sums._sums.items()}))
    own = [{name: [next(read), sums._examples[name]] for name in sums._sums} for sums in each]
    together = [TermSums() for _ in each]
    for of_rank in ranks.gather(own):
        for sums, named in zip(together, of_rank, strict=True):
            for name, (total, examples) in named.items():
                sums._add(name, total, examples)
    return together


def _read(sums: Mapping[Any, Tensor | float]) -> list[float]:
    """The values in their order; what is on a device is read at once."""
    tensors = [value for value in sums.values() if isinstance(value, Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(value, Tensor) else value for value in sums.values()]


def evaluation_key(seed: int) -> Tensor:
    """The key of the noise with which `evaluate` and the validation in `fit` see every example: the same for the same seed."""
    return philox.fold_in(philox.make_key(seed), streams.Run.EVALUATION)


def named_terms(terms: LossTerms) -> dict[str, Tensor]:
    """The terms under the names they have in a history, without gradients."""
    named = {"loss": terms.total, "reconstruction": terms.reconstruction, "kl": terms.kl, **terms.extras}
    return {name: value.detach() for name, value in named.items()}


def on_device(vae: VAE, batches: Batches) -> Iterator[Batch]:
    """The batches on the model's device.

    Raises:
        ValueError: there are no examples in them: an iterator that is used up, for example.
    """
    return (portion.batch for portion in portions_on_device(vae, batches, Ranks()))


def portions_on_device(vae: VAE, batches: Batches, ranks: Ranks) -> Iterator[Portion]:
    """What this process has of each batch, on the model's device.

    Raises:
        ValueError: as `on_device`.
    """
    count = 0
    for portion in moved(_checked_portions(vae, batches, ranks), vae.device):
        count += sum(portion.counts)
        yield portion
    if not count:
        raise ValueError("the dataset is empty: the loader gave no example; an iterator that is used up cannot be read again")


def _checked_portions(vae: VAE, batches: Batches, ranks: Ranks) -> Iterator[Portion]:
    portions = portions_of_examples(batches, ranks) if isinstance(batches, Whole) else portions_of_stream(iter(batches), ranks)
    for number, portion in enumerate(portions):
        if not batches.is_checked:
            check_batch(vae, batches, portion.batch, f"batch {number}")
        yield portion
    batches.all_checked()


@torch.no_grad()
def mean_terms(vae: VAE, batches: Batches, key: Tensor, ranks: Ranks | None = None) -> dict[str, float]:
    """Mean terms over the batches with the noise of `key`, in evaluation mode, with scheduled weights at their final values.

    Args:
        vae: the model.
        batches: the data.
        key: of the noise.
        ranks: the processes that do this together, each with its portion of every batch; None for this one alone.
    """
    ranks = ranks or Ranks()
    key, sums, before, size = key.to(vae.device), TermSums(), 0, batches.size
    with evaluation_mode(vae):
        for batch, row_start, counts, is_shared_out in portions_on_device(vae, batches, ranks):
            if not before and not is_shared_out:
                size = size_of_all(batches, ranks)
            where = {"index": batch.index, "dataset_size": size, "row_start": before + row_start}
            with ranks.holding(counts):
                sums.add(vae(batch.x, batch.condition, key=key, **where))
            before += sum(counts)
    return over_all_processes([sums], ranks)[0].means()


def size_of_all(batches: Batches, ranks: Ranks) -> int | None:
    """The number of examples in the shards of all processes; None where one does not know that of its own."""
    sizes = ranks.gather(batches.size)
    return None if None in sizes else sum(sizes)


def evaluate(vae: VAE, data: Any, *, batch_size: int = 500, seed: int = 0) -> dict[str, float]:
    """The objective and its terms on a dataset.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.fit` takes: `Examples`, a tensor or array [N, *input_shape], a pair (x, y), or a loader;
            y is the condition of a conditional model.
        batch_size: examples at a time; the result depends on it only with an objective that compares the examples of a batch
            with each other, `beta_tc` for example.
        seed: fixes the noise. With the seed of `fit` it is the noise of its validation.

    Returns:
        means over the examples, in nats: "loss", "reconstruction", "kl", and the objective's extras. They are estimates from as
        many draws of z for each example as the objective takes.

    Raises:
        ValueError: an empty dataset, or data that does not fit the model; the message names the first bad example.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> sorted(evaluate(vae, torch.rand(100, 4)))
        ['kl', 'loss', 'reconstruction']
    """
    return mean_terms(vae, checked_batches(vae, data, batch_size), evaluation_key(seed))
