"""The vector-quantised bottleneck: each latent is the nearest entry of a codebook.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.checks import checked_flag, checked_number, checked_size, checked_word
from vaekit.gathering import gathered
from vaekit.layers import glorot
from vaekit.ops import philox, reference, streams
from vaekit.posteriors import kmeans
from vaekit.posteriors.codes import CertainCodes, CodeFamily, squared_norm
from vaekit.posteriors.family import registry

_COMPARISONS_PER_CHUNK = 1 << 22  # of vectors with codes, to bound the memory
_USES_DECAY = 0.99  # of the averaged uses of codes that are weights
_FIRST_ROWS = 16  # vectors per code that k-means looks at
_WARM = 1 << 20  # batches, after which any decay is warm


@registry.register("vector_quantized")
class VectorQuantizedFamily(CodeFamily):
    """Each vector that the encoder gives becomes the nearest of K codes: latents are numbers from 0 to K - 1.

    q(z | x) is 1 for k = argmin_j ||z_e(x) - e_j||, equation 1, and z is e_k; the decoder's gradient for z is handed on to
    z_e, as if nothing had been rounded. Use it with an encoder whose latents have positions (spatial=True), for sharp
    reconstructions and for a code on which another model can be trained; with the prior "codes" and the loss
    "vector_quantized". It costs one matrix product of all vectors with all codes.

    Codes are moved by the loss after each batch, while the family is in training mode and not frozen by `requires_grad_(False)`,
    its own or the encoder's, and gradients are enabled; encoding changes nothing. They are moving averages of
    the vectors that chose them, N_k = decay N_k + (1 - decay) n_k, m_k = decay m_k + (1 - decay) sum of those vectors, e_k =
    m_k / N_k (appendix A.1), or weights that the optimizer moves. A code that nothing chose stays where it is: there is no
    Laplace smoothing of N_k, which would draw it to 0. Averages take steps that half precision rounds away: leave the weights
    in float32 and use autocast.

    After the first batch the codes are put onto K of its vectors, far apart, by k-means++ (D. Arthur, S. Vassilvitskii, 2007)
    over 16 K of them at random. That batch should hold several vectors for each code: a cluster that is missing from it may never
    get a code of its own, because codes that share another cluster are used too much to be moved. Later, one that is used too
    little is put onto a vector of the batch again, half of them onto any that is not a code itself, the random restarts of
    P. Dhariwal et al., "Jukebox", 2020, arXiv:2005.00341, section 3.1, and half in proportion to the squared distance from its
    code, as A. Łańcucki et al., "Robust Training of Vector Quantized Bottleneck Models", 2020, arXiv:2005.08520: the first go
    where many vectors are, which uses codes evenly, the second where codes are missing. Without these, a code that is far from
    the data never moves. All draws are a function of the step's key.

    Van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937; moving averages also
    in A. Razavi, A. van den Oord, O. Vinyals, 2019, arXiv:1906.00446, section 3.1.

    Args:
        latent_shape: (D, *positions) of one example's latents: one code of D numbers at each position, or one alone for (D,). The
            encoder fills it in.
        codes: K.
        decay: of the moving averages, from 0 (the last batch's means: a step of k-means) to below 1; None for codes that are
            weights, trained by the second term of equation 3.
        warm_up: let the decay grow with the number t of batches learned from, min(decay, (1 + t) / (10 + t)), so that the
            averages follow an encoder that moves fast at first: with the paper's 0.99 alone they lag a hundred batches behind.
            That is for batches with few vectors for each code, whose own means are noise.
        lloyd: how many rounds of k-means the first codes go through after k-means++, over the same vectors.
        distance: "euclidean", or "cosine": vectors and codes are put onto the unit sphere first (J. Yu et al., "Vector-quantized
            Image Modeling with Improved VQGAN", 2021, arXiv:2110.04627, section 3.2).
        heads: how many codes a position has, each for a part of the D numbers, from one codebook: K^heads values; `code_shape` is
            (heads, *positions).
        codebook_dim: the size of a code, where it is not D / heads: the encoder gives vectors of that size, and a linear map of
            the family's makes the D numbers of the codes at a position (the same paper).
        revive_below: a code whose averaged uses fall below this share of even use (the mean of all averaged uses) is put onto one
            of the batch's vectors, and counts as having been used twice that much; 0 leaves all where they are.

    Attributes:
        codebook: [K, codebook_dim], D / heads by default.
        uses: [K], the averaged number of uses in a batch, N_k.

    Raises:
        ValueError: codes below 1; a decay or a revive_below that is not from 0 to below 1; heads that do not divide D; another
            distance.
        TypeError: in training, a codebook in half precision.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(1, 8, 8), latent_dim=3, encoder={"name": "conv", "spatial": True}, decoder="conv",
        ...     posterior={"name": "vector_quantized", "codes": 32}, prior="codes", loss="vector_quantized",
        ... )
        >>> q = vae.encode(torch.rand(5, 1, 8, 8))
        >>> q.mean.shape, q.indices.shape, bool(q.indices.max() < 32)
        (torch.Size([5, 3, 2, 2]), torch.Size([5, 2, 2]), True)
    """

    placed: Tensor
    updates: Tensor
    uses: Tensor
    sums: Tensor | None

    def __init__(
        self,
        latent_shape: Sequence[int],
        codes: int = 512,
        decay: float | None = 0.8,
        revive_below: float = 0.1,
        warm_up: bool = True,
        lloyd: int = 4,
        distance: str = "euclidean",
        heads: int = 1,
        codebook_dim: int | None = None,
    ) -> None:
        super().__init__(latent_shape)
        checked_size("codes", codes)
        self.codes = codes
        self.decay = None if decay is None else checked_number("decay", decay, least=0.0, below=1.0)
        self.revive_below = checked_number("revive_below", revive_below, least=0.0, below=1.0)
        self.warm_up, self.lloyd = checked_flag("warm_up", warm_up), checked_size("lloyd", lloyd, least=0)
        self.distance = checked_word("distance", distance, ("euclidean", "cosine"))
        self.heads, size = checked_size("heads", heads), self.latent_shape[0]
        if codebook_dim is None and size % heads:
            raise ValueError(f"the heads have to divide the {size} latents at a position, got heads={heads}")
        self.size = size // heads if codebook_dim is None else checked_size("codebook_dim", codebook_dim)
        self.outputs = self.size * heads
        self.project = None if codebook_dim is None else glorot(nn.Linear(self.outputs, size))
        start = torch.randn(codes, self.size) / codes  # near 0, for the step before codes are placed
        self.codebook: Tensor
        if decay is None:
            self.codebook = nn.Parameter(start)
            self.sums = None
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", torch.zeros_like(start))
        self.register_buffer("uses", torch.zeros(codes))
        self.register_buffer("placed", torch.zeros(codes, dtype=torch.bool))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._is_frozen = False
        self._has_begun = False  # whether codes are known to be placed; until then the device is asked, which waits for it

    def train(self, mode: bool = True) -> VectorQuantizedFamily:
        self._has_begun = False
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> VectorQuantizedFamily:
        """As of every module, and for codes that are averages too."""
        self._is_frozen = not requires_grad
        return super().requires_grad_(requires_grad)

    @property
    def is_learning(self) -> bool:
        """Whether a batch that the loss sees moves the codes: in training mode, not frozen, with gradients enabled."""
        has_frozen_weights = self.decay is None and not self.codebook.requires_grad
        return self.training and torch.is_grad_enabled() and not (self._is_frozen or has_frozen_weights)

    @property
    def has_begun(self) -> bool:
        """Whether codes are on vectors of the data; while that is not known to be so the device is asked, where it can be."""
        return self._has_begun or (not torch.compiler.is_compiling() and bool(self.placed.any()))

    @property
    def averaged_uses(self) -> Tensor:
        return self.uses[None]

    @property
    def code_shape(self) -> tuple[int, ...]:
        positions = self.latent_shape[1:]
        return positions if self.heads == 1 else (self.heads, *positions)

    @property
    def vectors(self) -> Tensor:
        """[K, codebook_dim], the codes that vectors are compared with: on the unit sphere for the cosine distance."""
        return self.codebook if self.distance == "euclidean" else F.normalize(self.codebook, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        self._has_begun = False
        state_dict.setdefault(f"{prefix}updates", torch.tensor(_WARM))  # of models that were saved before there was a warm-up
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, numbers: Tensor) -> VectorQuantized:
        if self.distance == "cosine":
            heads = numbers.unflatten(1, (self.heads, self.size))
            numbers = F.normalize(heads, dim=2).flatten(1, 2)
        return VectorQuantized(numbers, self)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The number of the code nearest to each vector: [B, outputs, *positions] -> int64 [B, *code_shape].

        Of codes that are equally near, to rounding, the lowest. A vector that is not finite has no nearest code, and gets any.
        """
        dtype = reference.compute_dtype(torch.promote_types(z.dtype, self.codebook.dtype))
        with torch.autocast(z.device.type, enabled=False):
            return self._placed(kmeans.nearest(self._rows(z).to(dtype), self.vectors.detach().to(dtype)), z)

    def quantized(self, indices: Tensor) -> Tensor:
        """The codes with these numbers, as they are before any projection: int64 [B, *code_shape] -> [B, outputs, *positions]."""
        codes: Tensor = self.vectors[indices]
        return codes.movedim(-1, 1) if self.heads == 1 else codes.movedim(-1, 2).flatten(1, 2)

    def embedded(self, indices: Tensor) -> Tensor:
        """The vectors of these codes: int64 [B, *code_shape] -> [B, D, *positions]."""
        if self.project is None:
            return self.quantized(indices)
        # By tables, so that a code has the same vector in a batch of any size, to the last bit.
        by_head = (indices,) if self.heads == 1 else indices.unbind(1)
        each = [table[of_head] for table, of_head in zip(self._projected(), by_head, strict=True)]
        return sum(each[1:], start=each[0]).movedim(-1, 1)

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes that vectors [B, D, *positions] are equal to, int64 [B, *code_shape], and whether there is one."""
        if self.project is not None and self.heads > 1:
            return super().indices_of(z)
        codes = (self.vectors if self.project is None else self._projected()[0]).detach()
        rows = z.movedim(1, -1).reshape(-1, codes.shape[1])
        # Equal, not nearest: codes may lie closer together than a distance can tell.
        found = [equal_rows(part, codes) for part in rows.split(max(_COMPARISONS_PER_CHUNK // self.codes, 1))]
        indices, is_code = (self._placed(torch.cat(parts), z) for parts in zip(*found, strict=True))
        return indices, is_code

    def _projected(self) -> list[Tensor]:
        """What the linear map makes of each code, [K, D] for each head; the first has the bias."""
        assert self.project is not None
        parts = self.project.weight.split(self.size, dim=1)
        tables = [self.vectors @ part.T for part in parts]
        return [tables[0] + self.project.bias, *tables[1:]]

    def _rows(self, z: Tensor) -> Tensor:
        """[B, outputs, *positions] -> [B * positions * heads, codebook_dim]."""
        return z.movedim(1, -1).reshape(-1, self.size)

    def _placed(self, of_rows: Tensor, z: Tensor) -> Tensor:
        """What belongs to the rows of z, as [B, *code_shape]."""
        by_position = of_rows.view(z.shape[0], *z.shape[2:], self.heads)
        return by_position.squeeze(-1) if self.heads == 1 else by_position.movedim(-1, 1)

    def _in_rows(self, of_codes: Tensor) -> Tensor:
        """[B, *code_shape], one for each of the rows: [B * positions * heads]."""
        return (of_codes if self.heads == 1 else of_codes.movedim(1, -1)).reshape(-1)

    @torch.no_grad()
    def update(self, encoded: Tensor, indices: Tensor, key: Tensor, row_start: int = 0) -> None:
        """Learn from a batch: average, and put codes that are new or too little used onto vectors of it.

        Vectors whose squared length is not finite count for nothing.

        Args:
            encoded: [B, outputs, *positions], what the encoder gave.
            indices: int64 [B, *code_shape], the codes it was given.
            key: int64 [2], the noise of the draws.
            row_start: the number of the batch's first example.

        Raises:
            TypeError: a codebook in half precision.
        """
        dtype = self.codebook.dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"a codebook in {dtype} cannot learn: its averages move by steps that are rounded away; leave the weights in "
                "float32, vae.float(), and train under torch.autocast"
            )
        positions = indices[:1].numel()
        noise = philox.uniform(key, indices.shape, dtype, row_start * positions)
        encoded, indices, noise = gathered(encoded.detach()), gathered(indices), self._in_rows(gathered(noise))
        if not indices.numel():
            return
        with torch.autocast(encoded.device.type, enabled=False):
            rows, index = self._rows(encoded).to(dtype), self._in_rows(indices)
            finite = rows.square().sum(1).isfinite()  # ignore vectors whose squared length overflows
            rows = torch.where(finite[:, None], rows, 0.0)
            error = torch.where(finite, (rows - self.vectors[index]).square().sum(1), 0.0)
            self._average(rows, index, finite)
            self._place(rows, finite, error, noise, key)

    def _average(self, rows: Tensor, index: Tensor, finite: Tensor) -> None:
        """Appendix A.1, from vectors [N, D] and their codes' numbers [N]; those that are not finite are 0 and do not count."""
        decay = torch.full_like(self.uses[0], _USES_DECAY if self.decay is None else self.decay)
        if self.warm_up:
            decay = torch.minimum(decay, (self.updates + 1.0) / (self.updates + 10.0))
            self.updates.add_(1)
        counts = torch.zeros_like(self.uses).index_add_(0, index, finite.to(rows.dtype))
        self.uses.mul_(decay).add_(counts * (1.0 - decay))
        if self.sums is not None:
            self.sums.mul_(decay).add_(torch.zeros_like(self.sums).index_add_(0, index, rows) * (1.0 - decay))
            self.codebook.copy_(torch.where((counts > 0)[:, None], self.sums / self.uses[:, None], self.codebook))

    def _place(self, rows: Tensor, finite: Tensor, error: Tensor, noise: Tensor, key: Tensor) -> None:
        """Put codes that are new or too little used onto vectors [N, D] with these squared errors and uniform numbers [N]."""
        has_begun = self.placed.any()
        even = torch.where(has_begun, self.uses.sum(), finite.sum()) / self.codes
        wanted = ~self.placed | (self.uses < self.revive_below * even)
        exponential = noise.log().abs()
        mean = (error / finite.sum().clamp(min=1)).sum()
        source = kmeans.sources(torch.where(error > 0, error + mean, 0.0), exponential, wanted)
        place, found = rows[source.clamp(min=0)], source >= 0
        can_ask = not torch.compiler.is_compiling()
        if not self._has_begun and can_ask:
            self._has_begun = bool(has_begun)
        if not self._has_begun:
            first, is_there = self._first_places(rows, finite, exponential, key)
            place, found = torch.where(has_begun, place, first), torch.where(has_begun, found, is_there)
            self._has_begun = not can_ask  # under compile, assume that codes are placed after one batch
        moved = wanted & found
        start = even * (2.0 * self.revive_below or 1.0)
        self.uses.copy_(torch.where(moved, start, self.uses))
        if self.sums is not None:
            self.sums.copy_(torch.where(moved[:, None], start * place, self.sums))
        self.codebook.copy_(torch.where(moved[:, None], place, self.codebook))
        self.placed.logical_or_(moved)

    def _first_places(self, rows: Tensor, finite: Tensor, exponential: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [K, D] by k-means over some of the rows, and which of them there are."""
        part = kmeans.order(finite.to(rows.dtype), exponential).topk(min(len(rows), _FIRST_ROWS * self.codes)).indices
        some, eligible = rows[part], finite[part]
        u = philox.uniform(philox.fold_in(key, streams.Codebook.FIRST_PLACES), (self.codes,), rows.dtype)
        first = kmeans.kmeans_plus_plus(some, eligible, u)
        places, found = some[first.clamp(min=0)], first >= 0
        return kmeans.lloyd(some, eligible, places, found, self.lloyd), found


class VectorQuantized(CertainCodes):
    """q(z | x) that is 1 for the nearest code at each position.

    Args:
        encoded: [B, D, *positions], what the encoder gives.
        family: whose codebook it is.

    Attributes:
        encoded: as given.
        indices: int64 [B, *positions], the nearest codes.
        mean: [B, D, *positions], those codes themselves, in the codebook's dtype; a gradient for it is handed on to `encoded`
            as it is, and none goes to the codebook. NaN where `encoded` is not finite.

    Example:
        >>> family = VectorQuantizedFamily((2,), codes=3)
        >>> _ = family.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]))
        >>> q = VectorQuantized(torch.tensor([[0.9, 1.2]]), family)
        >>> q.indices, q.mean, q.commitment()
        (tensor([1]), tensor([[1., 1.]]), tensor([0.0500]))
    """

    family: VectorQuantizedFamily

    def __init__(self, encoded: Tensor, family: VectorQuantizedFamily) -> None:
        indices = family.nearest(encoded)
        if family.project is None:
            super().__init__(encoded, indices, family)
            return
        codes = family.quantized(indices)
        wide = encoded.to(torch.promote_types(encoded.dtype, codes.dtype))
        straight = codes.detach() + (wide - wide.detach())
        super().__init__(family.project(straight.movedim(1, -1)).movedim(-1, 1), indices, family)
        self.encoded, self._wide, self._codes = encoded, wide, codes

    def commitment(self) -> Tensor:
        """||z_e - sg(e)||^2, a sum over all latents, with a gradient for what was encoded: [B]."""
        return squared_norm(self._wide - self._codes.detach())

    def codebook_distance(self) -> Tensor:
        """||sg(z_e) - e||^2, a sum over all latents, with a gradient for codes that are weights: [B]."""
        return squared_norm(self._wide.detach() - self._codes)

    def penalties(self) -> dict[str, Tensor]:
        """The second term of equation 3, "codebook", where the codes are weights."""
        return {"codebook": self.codebook_distance()} if self.family.decay is None else {}

    def update_codebook(self, key: Tensor, row_start: int = 0) -> None:
        """`VectorQuantizedFamily.update` by this batch."""
        self.family.update(self.encoded, self.indices, key, row_start)


def equal_rows(rows: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The first code that each of [N, D] is equal to, int64 [N], and whether there is one, bool [N]."""
    equal = torch.ones(len(rows), len(codebook), dtype=torch.bool, device=rows.device)
    for of_rows, of_codes in zip(rows.unbind(1), codebook.unbind(1), strict=True):
        equal = equal & (of_rows[:, None] == of_codes)
    return equal.int().argmax(1), equal.any(1)
