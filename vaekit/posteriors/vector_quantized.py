"""The vector-quantised bottleneck: each latent is the nearest entry of a codebook.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number, checked_size
from vaekit.gathering import gathered
from vaekit.ops import dispatch, philox, reference, streams
from vaekit.posteriors.codes import CodeFamily, CodePosterior, squared_norm
from vaekit.posteriors.family import registry

_SCORES_PER_CHUNK = 1 << 22  # of vectors against codes, to bound the memory
_USES_DECAY = 0.99  # of the averaged uses of codes that are weights
_FIRST_ROWS = 16  # vectors per code that k-means++ looks at


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
    little is put onto a vector of the batch again, drawn with a probability in proportion to the squared distance from its code:
    the random restarts of P. Dhariwal et al., "Jukebox", 2020, arXiv:2005.00341, section 3.1, weighted as by A. Łańcucki et al.,
    "Robust Training of Vector Quantized Bottleneck Models", 2020, arXiv:2005.08520. Without these, a code that is far from the
    data never moves. All draws are a function of the step's key.

    Van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937; moving averages also
    in A. Razavi, A. van den Oord, O. Vinyals, 2019, arXiv:1906.00446, section 3.1.

    Args:
        latent_shape: (D, *positions) of one example's latents: one code of D numbers at each position, or one alone for (D,). The
            encoder fills it in.
        codes: K.
        decay: of the moving averages, from 0 (the last batch's means: a step of k-means) to below 1; None for codes that are
            weights, trained by the second term of equation 3.
        revive_below: a code whose averaged uses fall below this share of even use (the mean of all averaged uses) is put onto one
            of the batch's vectors, and counts as having been used twice that much; 0 leaves all where they are.

    Attributes:
        codebook: [K, D].
        uses: [K], the averaged number of uses in a batch, N_k.

    Raises:
        ValueError: codes below 1; a decay or a revive_below that is not from 0 to below 1.
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
    uses: Tensor
    sums: Tensor | None

    def __init__(
        self, latent_shape: Sequence[int], codes: int = 512, decay: float | None = 0.99, revive_below: float = 0.1
    ) -> None:
        super().__init__(latent_shape)
        checked_size("codes", codes)
        self.codes = codes
        self.decay = None if decay is None else checked_number("decay", decay, least=0.0, below=1.0)
        self.revive_below = checked_number("revive_below", revive_below, least=0.0, below=1.0)
        start = torch.randn(codes, self.latent_shape[0])
        self.codebook: Tensor
        if decay is None:
            self.codebook = nn.Parameter(start)
            self.sums = None
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", torch.zeros_like(start))
        self.register_buffer("uses", torch.zeros(codes))
        self.register_buffer("placed", torch.zeros(codes, dtype=torch.bool))
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
    def averaged_uses(self) -> Tensor:
        return self.uses[None]

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._has_begun = False
        super()._load_from_state_dict(*arguments, **options)

    def forward(self, numbers: Tensor) -> VectorQuantized:
        return VectorQuantized(numbers, self)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The number of the code nearest to each vector: [B, D, *positions] -> int64 [B, *positions].

        Of codes that are equally near, to rounding, the lowest. A vector that is not finite has no nearest code, and gets any.
        """
        dtype = reference.compute_dtype(torch.promote_types(z.dtype, self.codebook.dtype))
        with torch.autocast(z.device.type, enabled=False):
            codes = self.codebook.detach().to(dtype)
            middle = codes.sort(0).values[self.codes // 2]  # far from 0, ||e||^2 - 2 z e would cancel
            codes = codes - middle
            half_square = 0.5 * (codes * codes).sum(1)
            rows = _rows(z).to(dtype) - middle
            # What is recorded would keep the number of parts.
            parts = (rows,) if dispatch.is_recorded() else rows.split(max(_SCORES_PER_CHUNK // self.codes, 1))
            chosen = [(half_square - part @ codes.T).argmin(1) for part in parts]
        return torch.cat(chosen).view(z.shape[0], *z.shape[2:])

    def embedded(self, indices: Tensor) -> Tensor:
        """The codes with these numbers: int64 [B, *positions] -> [B, D, *positions]."""
        codes: Tensor = self.codebook[indices]
        return codes.movedim(-1, 1)

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes that vectors [B, D, *positions] are equal to, int64 [B, *positions], and whether there is one."""
        codebook, rows = self.codebook.detach(), _rows(z)
        # Equal, not nearest: codes may lie closer together than a distance can tell.
        found = [_equal(part, codebook) for part in rows.split(max(_SCORES_PER_CHUNK // self.codes, 1))]
        indices, is_code = (torch.cat(parts).view(z.shape[0], *z.shape[2:]) for parts in zip(*found, strict=True))
        return indices, is_code

    @torch.no_grad()
    def update(self, encoded: Tensor, indices: Tensor, key: Tensor, row_start: int = 0) -> None:
        """Learn from a batch: average, and put codes that are new or too little used onto vectors of it.

        Vectors whose squared length is not finite count for nothing.

        Args:
            encoded: [B, D, *positions], what the encoder gave.
            indices: int64 [B, *positions], the codes it was given.
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
        encoded, indices, noise = gathered(encoded.detach()), gathered(indices), gathered(noise).flatten()
        if not indices.numel():
            return
        with torch.autocast(encoded.device.type, enabled=False):
            rows, index = _rows(encoded).to(dtype), indices.flatten()
            finite = rows.square().sum(1).isfinite()  # ignore vectors whose squared length overflows
            rows = torch.where(finite[:, None], rows, 0.0)
            error = torch.where(finite, (rows - self.codebook[index]).square().sum(1), 0.0)
            self._average(rows, index, finite)
            self._place(rows, finite, error, noise, key)

    def _average(self, rows: Tensor, index: Tensor, finite: Tensor) -> None:
        """Appendix A.1, from vectors [N, D] and their codes' numbers [N]; those that are not finite are 0 and do not count."""
        decay = _USES_DECAY if self.decay is None else self.decay
        counts = torch.zeros_like(self.uses).index_add_(0, index, finite.to(rows.dtype))
        self.uses.mul_(decay).add_(counts, alpha=1.0 - decay)
        if self.sums is not None:
            self.sums.mul_(decay).add_(torch.zeros_like(self.sums).index_add_(0, index, rows), alpha=1.0 - decay)
            self.codebook.copy_(torch.where((counts > 0)[:, None], self.sums / self.uses[:, None], self.codebook))

    def _place(self, rows: Tensor, finite: Tensor, error: Tensor, noise: Tensor, key: Tensor) -> None:
        """Put codes that are new or too little used onto vectors [N, D] with these squared errors and uniform numbers [N]."""
        has_begun = self.placed.any()
        even = torch.where(has_begun, self.uses.sum(), finite.sum()) / self.codes
        wanted = ~self.placed | (self.uses < self.revive_below * even)
        exponential = noise.log().abs()
        source = _sources(error, exponential, wanted)
        can_ask = not torch.compiler.is_compiling()
        if not self._has_begun and can_ask:
            self._has_begun = bool(has_begun)
        if not self._has_begun:
            part = _order(finite.to(rows.dtype), exponential).topk(min(len(rows), _FIRST_ROWS * self.codes)).indices
            first = kmeans_plus_plus(
                rows[part],
                finite[part],
                philox.uniform(philox.fold_in(key, streams.Codebook.FIRST_PLACES), (self.codes,), rows.dtype),
            )
            source = torch.where(has_begun, source, torch.where(first >= 0, part[first.clamp(min=0)], -1))
            self._has_begun = not can_ask  # under compile, assume that codes are placed after one batch
        moved = wanted & (source >= 0)
        place = rows[source.clamp(min=0)]
        start = even * (2.0 * self.revive_below or 1.0)
        self.uses.copy_(torch.where(moved, start, self.uses))
        if self.sums is not None:
            self.sums.copy_(torch.where(moved[:, None], start * place, self.sums))
        self.codebook.copy_(torch.where(moved[:, None], place, self.codebook))
        self.placed.logical_or_(moved)


class VectorQuantized(CodePosterior):
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
        super().__init__(encoded, family.nearest(encoded), family)

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


@torch.library.custom_op("vaekit::kmeans_plus_plus", mutates_args=())
def kmeans_plus_plus(rows: Tensor, eligible: Tensor, u: Tensor) -> Tensor:
    """K rows, far apart: each is drawn in proportion to its squared distance from the nearest of those before it.

    D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007. One operator, so that `torch.compile`
    does not unroll its K rounds.

    Args:
        rows: [N, D], finite.
        eligible: bool [N], which of them may be drawn.
        u: [K], uniform numbers in (0, 1], one for each draw.

    Returns:
        int64 [K]; -1 where no row is left that is not among them already.

    Example:
        >>> rows = torch.tensor([[0.0], [0.0], [9.0]])
        >>> kmeans_plus_plus(rows, torch.ones(3, dtype=torch.bool), torch.tensor([0.5, 0.5, 0.5]))
        tensor([ 1,  2, -1])
    """
    weights, drawn = eligible.to(rows.dtype), []
    for number, share in enumerate(u):
        below = weights.cumsum(0)
        row = torch.searchsorted(below, (share * below[-1]).reshape(1)).clamp(max=len(rows) - 1)
        drawn.append(torch.where(weights[row] > 0, row, -1))
        distance = torch.where(eligible, (rows - rows[row]).square().sum(1), 0.0)
        weights = distance if number == 0 else torch.minimum(weights, distance)
    return torch.cat(drawn)


@kmeans_plus_plus.register_fake
def _(rows: Tensor, eligible: Tensor, u: Tensor) -> Tensor:
    return u.new_empty(u.shape, dtype=torch.int64)


def _sources(weights: Tensor, exponential: Tensor, wanted: Tensor) -> Tensor:
    """Rows for the codes that are wanted, drawn without replacement in proportion to weights [N]: int64 [K], -1 for none."""
    order, rows = _order(weights, exponential).topk(min(len(weights), len(wanted)))
    turn = (wanted.cumsum(0) - 1).clamp(min=0)
    last = turn.clamp(max=len(rows) - 1)
    return torch.where(wanted & (turn < len(rows)) & (order[last] > 0), rows[last], -1)


def _order(weights: Tensor, exponential: Tensor) -> Tensor:
    """[N] whose largest are a draw without replacement in proportion to weights [N]; 0 for what cannot be drawn.

    weight / Exp(1): P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    return torch.where(weights > 0, weights / exponential, 0.0)


def _rows(z: Tensor) -> Tensor:
    """[B, D, *positions] -> [B * positions, D]."""
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def _equal(rows: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The first code that each of [N, D] is equal to, int64 [N], and whether there is one, bool [N]."""
    equal = torch.ones(len(rows), len(codebook), dtype=torch.bool, device=rows.device)
    for of_rows, of_codes in zip(rows.unbind(1), codebook.unbind(1), strict=True):
        equal = equal & (of_rows[:, None] == of_codes)
    return equal.int().argmax(1), equal.any(1)
