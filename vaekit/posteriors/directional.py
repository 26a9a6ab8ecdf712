"""Posteriors over directions, unit vectors: von Mises-Fisher and power spherical.

T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf, J. M. Tomczak, "Hyperspherical Variational Auto-Encoders", UAI 2018,
arXiv:1804.00891; N. De Cao, W. Aziz, "The Power Spherical distribution", 2020, arXiv:2006.04437.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vaekit import directions
from vaekit.checks import checked_number, checked_sizes
from vaekit.directions import Law, Moments, PowerSphericalLaw, VonMisesFisherLaw
from vaekit.divergences import exact
from vaekit.latents import LatentKind
from vaekit.ops import philox, reference, streams
from vaekit.ops.draw import Draw
from vaekit.ops.precision import wide
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import Family, registry
from vaekit.priors.sphere import UniformSphere


class Directional(Posterior):
    """A distribution on the unit sphere of R^D around a mean direction, at each position.

    A draw is (1 - v) m + sqrt(v (2 - v)) t: t is uniform among the unit vectors across the mean direction m, v of the `law`. Its
    gradient is exact for m and kappa. Densities are over the surface of the sphere, and half precision computes in float32.

    Args:
        mean: float [B, D, *positions], the mean directions, of length 1; D at least 2.
        concentration: float [B, 1, *positions], kappa, at least 0; at 0 all directions are alike.

    Raises:
        ValueError: shapes that do not fit each other, or D below 2.
    """

    law: ClassVar[Law]

    def __init__(self, mean: Tensor, concentration: Tensor) -> None:
        if mean.ndim < 2 or mean.shape[1] < 2 or concentration.shape != (mean.shape[0], 1, *mean.shape[2:]):
            raise ValueError(
                "mean and concentration have to have the shapes [batch, D, positions...], D at least 2, and [batch, 1, "
                f"positions...], got {tuple(mean.shape)} and {tuple(concentration.shape)}"
            )
        self.mean, self.concentration = mean, concentration

    @property
    def size(self) -> int:
        """D."""
        return self.mean.shape[1]

    def divergence_from_uniform(self) -> Tensor:
        """KL(q || uniform) in nats, [B]; float64 for float64, otherwise float32."""
        return self._moments.divergence.sum(-1).to(self._dtype)

    def _rsample(self, draw: Draw) -> Tensor:
        return self._drawn(draw)[0]

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        z, v = self._drawn(draw)
        if not stop_parameters:
            return z, self._log_density(v)
        log_density = self._log_density(v).detach()
        # v = 1 - m z: its slope in z is -m, with the parameters constant.
        slope = (self._kappa * self.law.slope(v)).detach()
        moved = (z - z.detach()).to(self._dtype) * self.mean.detach().to(self._dtype)  # value 0; carries the gradient through z
        return z, log_density - (slope * moved.sum(self._channels).reshape(v.shape)).sum(-1).to(self._dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`, of unit vectors; float64 for float64, otherwise float32."""
        return self._log_density(self._away(z))

    @property
    def _channels(self) -> int:
        """Where D is, from the end."""
        return 1 - self.mean.ndim

    @property
    def _dtype(self) -> torch.dtype:
        return reference.compute_dtype(self.mean.dtype)

    @property
    def _kappa(self) -> Tensor:
        """[B, P], as wide as the device computes."""
        return self.concentration.flatten(1).to(wide(self.device))

    @functools.cached_property
    def _moments(self) -> Moments:
        return directions.moments(self.law, self._kappa, self.size)

    def _away(self, z: Tensor) -> Tensor:
        """v = 1 - m z as half the squared distance, which keeps its digits: z [..., B, D, *positions] -> [..., B, P]."""
        dtype = wide(self.device)
        squares = 0.5 * (z.to(dtype) - self.mean.to(dtype)).square().sum(self._channels)
        return squares.unsqueeze(-1) if self.mean.ndim == 2 else squares.flatten(2 - self.mean.ndim)

    def _log_density(self, v: Tensor) -> Tensor:
        """log q of draws at v [..., B, P], [..., B]."""
        each = self._kappa * self.law.statistic(v) - self._moments.log_normalizer - directions.log_area(self.size - 1)
        return each.sum(-1).to(self._dtype)

    def _drawn(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """z [*draw.shape, B, D, *positions] and v [*draw.shape, B, P]."""
        mean, kappa = self.mean.to(self._dtype), self._kappa
        places = torch.arange(draw.num_samples or 1, device=self.device) * philox.SAMPLE_STRIDE
        keys = philox.fold_in(torch.stack((draw.key[0].expand_as(places), draw.key[1] + places), 1), streams.Step.HEIGHT)
        v = directions.heights(self.law, kappa.detach(), self.size, keys, self._dtype, draw.row_start)
        if kappa.requires_grad and torch.is_grad_enabled():
            slopes = directions.height_slopes(self.law, kappa.detach(), self.size, v, self._moments.statistic.detach())
            v = v + slopes * (kappa - kappa.detach())  # the same value, and that slope
        v = v.reshape(*draw.shape, *kappa.shape)
        noise = draw.noise(mean)
        across = noise - (noise * mean).sum(self._channels, keepdim=True) * mean
        across = across / torch.linalg.vector_norm(across, dim=self._channels, keepdim=True)
        along = v.reshape(*draw.shape, len(mean), 1, *mean.shape[2:])
        sine = torch.sqrt((along * (2.0 - along)).clamp(min=torch.finfo(along.dtype).tiny))
        z = (1.0 - along).to(mean.dtype) * mean + sine.to(mean.dtype) * across
        return z.to(self.mean.dtype), v


class VonMisesFisher(Directional):
    """The density is proportional to exp(kappa m z): the normal distribution's counterpart on a sphere.

    Arguments as of `Directional`.

    Example:
        >>> q = VonMisesFisher(torch.eye(3)[:2], torch.tensor([[0.0], [100.0]]))
        >>> z, kl = q.rsample_kl(UniformSphere((3,)), num_samples=4)
        >>> z.shape, [round(value, 3) for value in kl.tolist()]
        (torch.Size([4, 2, 3]), [0.0, 4.298])
    """

    law = VonMisesFisherLaw()


class PowerSpherical(Directional):
    """The density is proportional to (1 + m z)^kappa.

    Arguments as of `Directional`.

    Example:
        >>> q = PowerSpherical(torch.eye(3)[:2], torch.tensor([[0.0], [100.0]]))
        >>> z, kl = q.rsample_kl(UniformSphere((3,)), num_samples=4)
        >>> z.shape, [round(value, 3) for value in kl.tolist()]
        (torch.Size([4, 2, 3]), [0.0, 3.625])
    """

    law = PowerSphericalLaw()


@exact(Directional, UniformSphere)
def _(posterior: Directional, prior: UniformSphere, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    return posterior._rsample(draw), posterior.divergence_from_uniform()


class DirectionalFamily(Family):
    """What the two share: D numbers whose direction is the mean's, and one more of which kappa is made.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents, D at least 2; the encoder fills it in.
        least_concentration: what kappa is at least.
    """

    latents = LatentKind.DIRECTIONS
    any_positions = True
    posterior: type[Directional]

    def __init__(self, latent_shape: Sequence[int], least_concentration: float = 1.0) -> None:
        super().__init__(latent_shape)
        checked_sizes("latent_shape", latent_shape)
        if self.latent_shape[0] < 2:
            raise ValueError(f"directions are unit vectors of at least 2 dimensions, got latent_shape={self.latent_shape}")
        self.least_concentration = checked_number("least_concentration", least_concentration, least=0.0)
        self.outputs = self.latent_shape[0] + 1

    def forward(self, numbers: Tensor) -> Directional:
        direction, concentration = numbers.split((self.latent_shape[0], 1), dim=1)
        length = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        first = torch.zeros_like(direction)
        first[:, 0] = 1.0
        mean = torch.where(length > 0.0, direction / torch.where(length > 0.0, length, 1.0), first)
        return self.posterior(mean, self.least_concentration + softplus(concentration))


@registry.register("von_mises_fisher")
class VonMisesFisherFamily(DirectionalFamily):
    """Directions around a mean direction, with density proportional to exp(kappa m z): S-VAE.

        z = (1 - v) m + sqrt(v (2 - v)) t,    m = f(x) / |f(x)|,    kappa = least_concentration + softplus(g(x))
        KL = kappa E[m z] + log C_D(kappa) + log(2 pi^(D/2) / Gamma(D/2)),
        C_D(kappa) = kappa^(D/2 - 1) / ((2 pi)^(D/2) I_{D/2 - 1}(kappa))

    N(0, I) draws all codes to one centre, and in many dimensions to a shell; a sphere has none, so that classes need not lie
    beside each other around the origin, and few dimensions are well used. v is drawn by rejection, with a gradient for kappa by
    the implicit function, exact where the paper's has a correction term. In the place of the Bessel function I its integral is
    computed, which does not overflow.

    Use it with the prior "uniform_sphere", from which the divergence is exact, for data with directions or classes and up to some
    tens of dimensions; beyond, a single kappa for all of them binds. Objectives that need the divergence or the variance of each
    dimension refuse it, and so do priors over R^D. `mean`, which `reconstruct` decodes, is m.
    Cost: D + 1 numbers from the encoder; rejections wait for the device, and torch.compile breaks its graph there. Each draw and
    divergence is a sum of 192 numbers. "power_spherical" costs the same here.

    Davidson et al., "Hyperspherical Variational Auto-Encoders", 2018, arXiv:1804.00891, section 3 and appendix A.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents, D at least 2; the encoder fills it in. Each position has
            a direction.
        least_concentration: what kappa is at least, 1 in the authors' code.

    Raises:
        TypeError, ValueError: a concentration that is not a number of at least 0; D = 1.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3, posterior="von_mises_fisher", prior="uniform_sphere")
        >>> z = vae.encode(torch.rand(5, 4)).rsample()
        >>> torch.allclose(z.norm(dim=1), torch.ones(5))
        True
    """

    posterior = VonMisesFisher


@registry.register("power_spherical")
class PowerSphericalFamily(DirectionalFamily):
    """Directions around a mean direction, with density proportional to (1 + m z)^kappa.

        z = (1 - v) m + sqrt(v (2 - v)) t,    m = f(x) / |f(x)|,    kappa = least_concentration + softplus(g(x))
        KL = -H + log(2 pi^(D/2) / Gamma(D/2)),    H = log N(kappa) - kappa (log 2 + psi(a) - psi(a + b)),

    with a = (D - 1) / 2 + kappa, b = (D - 1) / 2 and N(kappa) = 2^(a + b) pi^b Gamma(a) / Gamma(a + b) (equations 5 to 10). It
    looks like "von_mises_fisher" with half the kappa, and was made to be drawn without rejection, as 1 - v is 2 Beta(a, b) - 1;
    here both are drawn alike, by a rejection of v with the gradient of the implicit function.

    Use it as "von_mises_fisher": where the two differ is taste; its tail towards -m falls to 0.
    Cost: as there.

    De Cao and Aziz, "The Power Spherical distribution", 2020, arXiv:2006.04437.

    Args:
        latent_shape, least_concentration: as for "von_mises_fisher".

    Raises:
        TypeError, ValueError: as there.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3, posterior="power_spherical", prior="uniform_sphere")
        >>> vae(torch.rand(5, 4)).kl.shape
        torch.Size([5])
    """

    posterior = PowerSpherical
