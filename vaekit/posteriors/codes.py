"""Posteriors over codes: what a discrete bottleneck offers, with a table or without, with one code a position or several.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from vaekit import divergences
from vaekit.gathering import gathered
from vaekit.latents import LatentKind
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import Family
from vaekit.priors.base import Prior
from vaekit.priors.codes import CodePrior


class CodeFamily(Family):
    """A family whose latents are codes: whole numbers from 0 to `codes` - 1, in the places `code_shape` of an example.

    A family of one's own sets `codes`, gives its posteriors a tensor of indices, and says by `embedded` which vectors stand for
    them; by `indices_of` which codes a vector stands for, where that can be known. What else there is has a default: a family
    with nothing to learn beside the networks needs no more. Priors over codes, objectives, `VAE.indices`, pictures and warnings
    ask for nothing else.

    Attributes:
        codes: K, how many values each index has.
        code_shape: the shape of one example's indices, (*positions), or (n, *positions) with several at each position.
        books: how many kinds of codes there are, each with statistics of its own: n where the first axis of `code_shape` tells
            them apart, such as the levels of a residual quantiser, otherwise 1.

    Example, signs of what the encoder gives, which need no table:
        >>> class Signs(CodeFamily):
        ...     codes = 2
        ...     @property
        ...     def code_shape(self):
        ...         return self.latent_shape
        ...     def forward(self, numbers):
        ...         return CertainCodes(numbers, (numbers > 0).long(), self)
        ...     def embedded(self, indices):
        ...         return 2.0 * indices - 1.0
        >>> q = Signs((3,))(torch.tensor([[0.3, -2.0, 1.0]]))
        >>> q.indices, q.mean
        (tensor([[1, 0, 1]]), tensor([[ 1., -1.,  1.]]))
    """

    latents = LatentKind.CODES
    codes: int
    books: int = 1

    @property
    def code_shape(self) -> tuple[int, ...]:
        return self.latent_shape[1:]

    @property
    def averaged_uses(self) -> Tensor | None:
        """[books, K], how often codes are used in a batch, where the family keeps an average of that; else None."""
        return None

    @property
    def is_learning(self) -> bool:
        """Whether a batch that the loss sees moves the codes, otherwise than by their gradients."""
        return False

    @abstractmethod
    def embedded(self, indices: Tensor) -> Tensor:
        """The vectors that stand for these codes: int64 [B, *code_shape] -> [B, *latent_shape]."""

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes that vectors stand for, and where there are any, exactly: [B, *latent_shape] -> int64, bool [B, *code_shape].

        Raises:
            NotImplementedError: a family whose vectors do not say which codes they stand for, such as sums of several.
        """
        raise NotImplementedError(
            f"the vectors of {type(self).__name__} do not say which codes they stand for; ask by the codes themselves, "
            "prior.log_prob_of(vae.indices(x)) for example"
        )

    def counts(self, indices: Tensor) -> Tensor:
        """How often each code is among the indices: int64 [B, *code_shape] -> float [books, K]."""
        by_book = indices.movedim(1, 0).reshape(self.books, -1) if self.books > 1 else indices.reshape(1, -1)
        number = by_book + self.codes * torch.arange(self.books, device=indices.device)[:, None]
        ones = torch.ones(indices.numel(), dtype=self._statistics_dtype, device=indices.device)
        zeros = torch.zeros(self.books * self.codes, dtype=ones.dtype, device=indices.device)
        return zeros.index_add_(0, number.flatten(), ones).view(self.books, self.codes)

    def frequencies(self, indices: Tensor) -> Tensor:
        """Each code's share of the indices: int64 [B, *code_shape] -> [K], or [books, K]; 0 where there are none."""
        return (self.counts(indices) / max(indices.numel() // self.books, 1)).squeeze(0)

    @property
    def _statistics_dtype(self) -> torch.dtype:
        return torch.float32 if self.averaged_uses is None else reference.compute_dtype(self.averaged_uses.dtype)


class CodePosterior(Posterior):
    """q(z | x) over codes: what objectives, pictures and warnings ask of one. `CertainCodes` is the one that has a single code.

    Attributes:
        indices: int64 [B, *code_shape], the codes of x, the most probable ones where there is more than one.
        family: which says what vectors stand for them.
        mean: [B, *latent_shape], the vectors of `indices`.
    """

    indices: Tensor
    family: CodeFamily

    def commitment(self) -> Tensor | None:
        """How far what was encoded is from its codes, [B], where the objective has to hold it near; None where it need not."""
        return None

    def penalties(self) -> dict[str, Tensor]:
        """What else the objective adds, in nats by name, [B] or a scalar for all: terms of the family's own; none by default."""
        return {}

    def update_codebook(self, key: Tensor, row_start: int = 0) -> None:
        """Let the codes learn from this batch: called by the loss, once, while `family.is_learning`; nothing by default.

        Args:
            key: int64 [2], the noise by which codes are put onto vectors.
            row_start: the number of the batch's first example in the key's noise.
        """

    def perplexity(self) -> Tensor:
        """exp of the entropy of the codes' frequencies in this batch: how many are in even use, from 1 to K; a scalar.

        Of several books the geometric mean. A batch of few vectors cannot use many codes: compare batches of one size only.
        """
        frequencies = self.family.frequencies(gathered(self.indices)).reshape(self.family.books, -1)
        wide = frequencies.to(torch.promote_types(frequencies.dtype, self.mean.dtype))
        entropy: Tensor = torch.special.entr(wide).sum(1).mean()
        return entropy.exp()


class CertainCodes(CodePosterior):
    """q(z | x) that is 1 for one code in each place.

    Args:
        encoded: [B, *latent_shape], what was rounded to the codes; the gradient of the decoder's z is handed on to it as it is,
            as if nothing had been rounded.
        indices: int64 [B, *code_shape].
        family: which says what vectors stand for them.

    Attributes:
        mean: [B, *latent_shape], the codes' vectors; NaN where `encoded` is not finite.
    """

    def __init__(self, encoded: Tensor, indices: Tensor, family: CodeFamily) -> None:
        self.encoded, self.indices, self.family = encoded, indices, family
        self._codes = family.embedded(indices)
        self._wide = encoded.to(torch.promote_types(encoded.dtype, self._codes.dtype))
        self.mean = self._codes.detach() + (self._wide - self._wide.detach())  # + 0, with the gradient of what was encoded

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x): 0 where z [..., B, *latent_shape] is that of the codes, -inf elsewhere, NaN for NaN: [..., B]."""
        difference = (z - self.mean).detach().flatten(1 - self.mean.ndim)
        log_prob = torch.where((difference == 0).all(-1), 0.0, -math.inf)
        return torch.where(difference.isnan().any(-1), math.nan, log_prob).to(reference.compute_dtype(self.mean.dtype))

    def _rsample(self, draw: Draw) -> Tensor:
        """The codes: every sample is the same, and no noise is drawn."""
        return draw.repeated(self.mean)

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        """The codes, and log 1 (NaN for NaN)."""
        return self._rsample(draw), draw.repeated(self.log_prob(self.mean))

    def _rsample_log_ratio(self, prior: Prior, draw: Draw) -> tuple[Tensor, Tensor]:
        """As `Posterior._rsample_log_ratio`; where the divergence is known it is the ratio, because there is one z alone."""
        divergence = divergences.known(self, prior)
        if divergence is None:
            return super()._rsample_log_ratio(prior, draw)
        z, (kl,) = divergence.rsample(draw)
        return z, draw.repeated(kl)


@divergences.exact(CertainCodes, CodePrior)
def _(posterior: CertainCodes, prior: CodePrior, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    """By the codes' numbers: the prior is one over this family's codes."""
    log_posterior = posterior.log_prob(posterior.mean)
    return draw.repeated(posterior.mean), log_posterior - prior.log_prob_of(posterior.indices, log_posterior.dtype)


def squared_norm(difference: Tensor) -> Tensor:
    """The sum of squares of each example: [B, *S] -> [B]."""
    wide = difference.to(reference.compute_dtype(difference.dtype))
    return wide.square().flatten(1).sum(1)
