"""Posteriors that planar or radial maps make of a diagonal Gaussian.

D. J. Rezende, S. Mohamed, "Variational Inference with Normalizing Flows", ICML 2015, arXiv:1505.05770.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_flag, checked_size, checked_sizes
from vaekit.planar import Elementary, Planar, Radial
from vaekit.posteriors.family import GaussianFamily, registry
from vaekit.posteriors.flow import FlowPosterior


class ElementaryFlowFamily(GaussianFamily):
    """What the two share: maps whose numbers the encoder gives for each example, or which are the same for all.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.
        transforms: how many maps.
        amortized: whether the encoder gives their numbers.
        logvar_bound, initial_logvar: of z_0, as for `diagonal_gaussian`.
    """

    any_positions = True
    maps: type[Elementary]

    def __init__(
        self,
        latent_shape: Sequence[int],
        transforms: int = 8,
        amortized: bool = True,
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
    ) -> None:
        size, *_ = checked_sizes("latent_shape", latent_shape)
        transforms, amortized = checked_size("transforms", transforms), checked_flag("amortized", amortized)
        per_map, _ = self.maps.layout(size)
        super().__init__(latent_shape, logvar_bound, initial_logvar, extra=transforms * per_map if amortized else 0)
        self.network = self.maps(size, transforms, is_told=amortized)

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> FlowPosterior:
        return FlowPosterior(mu, logvar, self.network, extra.flatten(1) if self.extra else None)

    @torch.no_grad()
    def start_extra(self, weight: Tensor, bias: Tensor) -> None:
        for rows in (weight, bias):
            if self.extra:
                rows.unflatten(0, (self.network.transforms, self.network.per_map))[:, self.network.moving] = 0.0


@registry.register("planar_flow")
class PlanarFlowFamily(ElementaryFlowFamily):
    """A diagonal Gaussian that planar maps have bent, one after the other.

        z = f_K(... f_1(z_0)),   f(z) = z + v tanh(w z + b),   z_0 ~ N(mu, diag(exp(logvar)))
        log q(z | x) = log N(z_0; mu, diag(exp(logvar))) - sum_k log |1 + v_k w_k (1 - tanh^2(w_k z_{k-1} + b_k))|

    (equations 10 to 13). Each map pulls the draws apart at a plane, or together there. v is held where the map can be inverted
    (`vaekit.planar.Planar` says how), and new maps are the identity: a new encoder has the diagonal Gaussian, and its draws.

    Use it for a few latents whose posteriors have a bend or two modes, where "flow" is too slow. In many dimensions a map does
    little, as it changes one direction: dozens are needed, and "flow" is stronger for the same time. There is no closed form of
    the divergence: `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example.
    It costs 2 D + 1 numbers a map from the encoder and O(D) operations for draw and density; the density of a given z takes some
    60 halvings of an interval for each map. It needs no further package.

    Latents that are kept in space, (D, *positions), have maps of their own at each position, so that the model takes any size.
    `mean`, which `reconstruct` decodes, is the base's mean carried along, not the expectation of z. Objectives that need the
    divergence or the variance of each dimension (`free_bits`, `beta_tc`, `dip_vae` of kind "ii") refuse it.

    Rezende and Mohamed, "Variational Inference with Normalizing Flows", 2015, arXiv:1505.05770, section 4.1 and appendix A.1.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.
        transforms: K, how many maps.
        amortized: True, the encoder gives the numbers of the maps for each x, as in the paper; False, they are weights, the same
            for all x.
        logvar_bound, initial_logvar: of z_0, as for `diagonal_gaussian`.

    Raises:
        TypeError, ValueError: transforms that is not a whole number of at least 1; an amortized that is neither.

    Example:
        >>> import vaekit
        >>> posterior = {"name": "planar_flow", "transforms": 4}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior)
        >>> vae(torch.rand(5, 4)).kl.shape
        torch.Size([5])
    """

    maps = Planar


@registry.register("radial_flow")
class RadialFlowFamily(ElementaryFlowFamily):
    """A diagonal Gaussian that radial maps have spread out around centres, or drawn together there.

        z = f_K(... f_1(z_0)),   f(z) = z + beta (z - c) / (alpha + |z - c|),   z_0 ~ N(mu, diag(exp(logvar)))

    (equation 14), with log |det| = (D - 1) log(1 + beta h) + log(1 + beta h - beta r h^2), h = 1 / (alpha + r), r = |z - c|.
    alpha > 0 and beta > -alpha, where the map can be inverted; new maps are the identity: a new encoder has the diagonal
    Gaussian, and its draws.

    Use it for a few latents whose posteriors have heavier tails or a sharper peak than a Gaussian; for bends take "planar_flow".
    There is no closed form of the divergence, as there.
    It costs D + 2 numbers a map from the encoder and O(D) operations for draw, density and inverse, which has a closed form. It
    needs no further package. Of positions, `mean` and objectives the page of "planar_flow" holds.

    Rezende and Mohamed, "Variational Inference with Normalizing Flows", 2015, arXiv:1505.05770, section 4.1 and appendix A.2.

    Args:
        latent_shape, transforms, amortized, logvar_bound, initial_logvar: as for "planar_flow".

    Raises:
        TypeError, ValueError: as "planar_flow".

    Example:
        >>> import vaekit
        >>> posterior = {"name": "radial_flow", "transforms": 4, "amortized": False}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior)
        >>> vae(torch.rand(5, 4)).kl.shape
        torch.Size([5])
    """

    maps = Radial
