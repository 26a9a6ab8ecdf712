"""Which noise a draw is made of, as one argument."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vaekit.ops import philox
from vaekit.ops.schema import noise


class Draw(NamedTuple):
    """What fixes a draw of z for each example of a batch.

    Attributes:
        key: int64 [2], the noise.
        num_samples: K draws for each example, [K, B, ...]; None for one, [B, ...].
        row_start: the first example's number in a larger batch, whose noise for these rows is drawn.

    Example:
        >>> import torch
        >>> whole, part = torch.zeros(5, 2), torch.zeros(3, 2)
        >>> draw = Draw(philox.make_key(0), num_samples=4)
        >>> draw.noise(whole).shape, torch.equal(draw.noise(whole)[:, 2:], draw._replace(row_start=2).noise(part))
        (torch.Size([4, 5, 2]), True)
    """

    key: Tensor
    num_samples: int | None = None
    row_start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """What a draw has in front of the batch: (K,) or ()."""
        return () if self.num_samples is None else (self.num_samples,)

    def noise(self, like: Tensor) -> Tensor:
        """N(0, 1) of the shape [*shape, *like.shape] for a batch like [B, *S]; float64 for float64, otherwise float32."""
        return noise(like, self.key, None, self.num_samples, self.row_start, like.ndim - 1)

    def repeated(self, value: Tensor) -> Tensor:
        """What does not depend on the noise, [B, ...], once for each sample: [*shape, B, ...]."""
        return value.expand(*self.shape, *value.shape)

    def folded(self, stream: int) -> Draw:
        """A draw with noise of its own: the key is `fold_in(key, stream)`."""
        return self._replace(key=philox.fold_in(self.key, stream))
