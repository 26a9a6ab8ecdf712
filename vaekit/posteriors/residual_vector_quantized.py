"""Residual vector quantisation: each codebook rounds what the ones before it left.

N. Zeghidour, A. Luebs, A. Omran, J. Skoglund, M. Tagliasacchi, "SoundStream: An End-to-End Neural Audio Codec", 2021,
arXiv:2107.03312, section III.C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.ops import philox
from vaekit.posteriors.codes import CertainCodes, CodeFamily
from vaekit.posteriors.family import registry
from vaekit.posteriors.vector_quantized import VectorQuantized, VectorQuantizedFamily


@registry.register("residual_vector_quantized")
class ResidualVectorQuantizedFamily(CodeFamily):
    """Each vector becomes the sum of Q codes, of Q codebooks: each is the nearest to what is left of the vector after the others.

    K^Q sums for the search and the memory of Q K codes: for fine latents at a low cost, and for codes that go from coarse to
    fine, as "autoregressive_codes" learns them. Use it where one codebook would have to be very large, with the prior "codes" and
    the loss "vector_quantized", whose commitment is the sum of all levels'. The decoder's gradient is handed on to what the
    encoder gave, as if nothing had been rounded. Each codebook starts, learns and is revived as that of "vector_quantized".

    The sum does not say which codes it is of: `prior.log_prob` of vectors is refused, and `prior.log_prob_of(vae.indices(x))` is
    what there is.

    Zeghidour, Luebs, Omran, Skoglund, Tagliasacchi, "SoundStream", 2021, arXiv:2107.03312, section III.C, algorithm 1.

    Args:
        latent_shape: (D, *positions) of one example's latents; the encoder fills it in.
        codes: K, of each codebook.
        quantizers: Q, how many codebooks.
        decay, revive_below, warm_up, lloyd: of each codebook, as of "vector_quantized".

    Attributes:
        code_shape: (Q, *positions), the coarsest first.
        quantizers: of Q `VectorQuantizedFamily`.

    Raises:
        ValueError: sizes below 1; as "vector_quantized".

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,), latent_dim=3, posterior={"name": "residual_vector_quantized", "codes": 8, "quantizers": 2},
        ...     prior="codes", loss="vector_quantized",
        ... )
        >>> q = vae.encode(torch.rand(5, 4))
        >>> q.indices.shape, q.mean.shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        codes: int = 256,
        quantizers: int = 4,
        decay: float | None = 0.8,
        revive_below: float = 0.1,
        warm_up: bool = True,
        lloyd: int = 4,
    ) -> None:
        super().__init__(latent_shape)
        self.codes, self.books = codes, checked_size("quantizers", quantizers)
        self.quantizers = nn.ModuleList(
            VectorQuantizedFamily(latent_shape, codes, decay, revive_below, warm_up, lloyd) for _ in range(quantizers)
        )

    def requires_grad_(self, requires_grad: bool = True) -> ResidualVectorQuantizedFamily:
        """As of every module, and for codes that are averages too."""
        for book in self._families:
            book.requires_grad_(requires_grad)
        super().requires_grad_(requires_grad)
        return self

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.books, *self.latent_shape[1:])

    @property
    def averaged_uses(self) -> Tensor:
        return torch.stack([book.uses for book in self._families])

    @property
    def is_learning(self) -> bool:
        return all(book.is_learning for book in self._families)

    @property
    def _families(self) -> list[VectorQuantizedFamily]:
        return [book for book in self.quantizers if isinstance(book, VectorQuantizedFamily)]

    def forward(self, numbers: Tensor) -> ResidualVectorQuantized:
        return ResidualVectorQuantized(numbers, self)

    def levels(self, encoded: Tensor) -> list[VectorQuantized]:
        """The codes of each book, of what those before it left of [B, D, *positions]; a gradient goes on to all of it."""
        levels, left = [], encoded
        for book in self._families:
            levels.append(VectorQuantized(left, book))
            left = left - levels[-1].mean.detach()
        return levels

    def embedded(self, indices: Tensor) -> Tensor:
        each = [book.embedded(of_book) for book, of_book in zip(self._families, indices.unbind(1), strict=True)]
        return sum(each[1:], start=each[0])

    @torch.no_grad()
    def update(self, levels: Sequence[VectorQuantized], key: Tensor, row_start: int = 0) -> None:
        """Let each codebook learn, from a key of its own; a new one from what those before it leave, which were just placed."""
        left = levels[0].encoded
        for number, (book, level) in enumerate(zip(self._families, levels, strict=True)):
            is_new = not book.has_begun
            seen = VectorQuantized(left, book) if is_new else level
            book.update(seen.encoded, seen.indices, philox.fold_in(key, number), row_start)
            if is_new:
                left = left - book.embedded(book.nearest(left))


class ResidualVectorQuantized(CertainCodes):
    """q(z | x) that is 1 for the codes of algorithm 1 at each position.

    Args:
        encoded: [B, D, *positions], what the encoder gives.
        family: whose codebooks they are.
    """

    family: ResidualVectorQuantizedFamily

    def __init__(self, encoded: Tensor, family: ResidualVectorQuantizedFamily) -> None:
        self.levels = family.levels(encoded)
        super().__init__(encoded, torch.stack([level.indices for level in self.levels], 1), family)

    def commitment(self) -> Tensor:
        """The sum of those of all levels: [B]."""
        return torch.stack([level.commitment() for level in self.levels]).sum(0)

    def penalties(self) -> dict[str, Tensor]:
        """ "codebook", the sum of those of all levels, where the codes are weights."""
        each = [distance for level in self.levels for distance in level.penalties().values()]
        return {"codebook": torch.stack(each).sum(0)} if each else {}

    def update_codebook(self, key: Tensor, row_start: int = 0) -> None:
        """`ResidualVectorQuantizedFamily.update` by this batch."""
        self.family.update(self.levels, key, row_start)
