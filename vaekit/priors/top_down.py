"""The prior over several levels of latents, each given those above it.

C. K. Sønderby et al., "Ladder Variational Autoencoders", NeurIPS 2016, arXiv:1602.02282, equations 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number, checked_size
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry
from vaekit.priors.gaussians import log_normal
from vaekit.top_down import Gaussian, TopDown, path_of


@registry.register("top_down")
class TopDownPrior(Prior):
    """p(z_1) prod p(z_l | z_<l): the levels one after the other, each by a network that reads those above it.

    The networks are those of the encoder's top-down path, which the posterior reads as well: training moves one with the other,
    and the prior has no weights of its own.

    Use it with the posterior "ladder" or the encoder "top_down", whose levels it is for. With the standard normal in its place
    the levels would have to be independent of each other, and the divergence would be a noisy estimate; this one's is exact in
    each level, given the draw of those above. It costs nothing besides the posterior's own pass.

    C. K. Sønderby et al., "Ladder Variational Autoencoders", 2016, arXiv:1602.02282, equations 1 and 2; the temperature:
    A. Vahdat, J. Kautz, "NVAE", 2020, arXiv:2007.03898, section 4.

    Args:
        temperature: what every level's standard deviation is multiplied by: one number, or one for each level, from the one that
            is drawn first. Below 1 draws are nearer to what is usual: `vae.sample(16, prior=TopDownPrior(0.7))`.

    Raises:
        TypeError, ValueError: a temperature that is not a positive number; in a model whose encoder has no levels, or another
            number of them.

    Example:
        >>> import vaekit
        >>> ladder = {"name": "ladder", "levels": (2, 4)}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=6, posterior=ladder, prior="top_down")
        >>> terms = vae(torch.rand(8, 4))
        >>> torch.allclose(terms.extras["kl_level_1"] + terms.extras["kl_level_2"], terms.kl)
        True
        >>> vae.sample(3, prior=TopDownPrior(temperature=(1.0, 0.5))).shape
        torch.Size([3, 4])
    """

    def __init__(self, temperature: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        several = isinstance(temperature, (list, tuple))
        numbers = temperature if isinstance(temperature, (list, tuple)) else (temperature,)
        checked = tuple(checked_number("temperature", number, above=0.0) for number in numbers)
        self.temperature: float | tuple[float, ...] = checked if several else checked[0]
        self._paths: list[TopDown] = []  # in a list: its weights are the encoder's, not the prior's

    def attach(self, encoder: nn.Module) -> None:
        path = path_of(encoder)
        if path is None:
            raise ValueError(
                f"a top_down prior is one over several levels of latents, but those of {type(encoder).__name__} have a single "
                "one; make it with posterior='ladder', take the encoder 'top_down', or another prior"
            )
        if isinstance(self.temperature, tuple) and len(self.temperature) != len(path.level_shapes):
            raise ValueError(
                f"temperature names {len(self.temperature)} level(s), but the latents have {len(path.level_shapes)}; give one "
                "number, or one for each level"
            )
        if self._paths and self._paths[0] is not path:
            raise ValueError("this top_down prior belongs to another model; make a new one")
        self._paths = [path]

    @property
    def path(self) -> TopDown:
        """The encoder's top-down path.

        Raises:
            RuntimeError: the prior is not that of a model yet.
        """
        if not self._paths:
            raise RuntimeError("a top_down prior is made of an encoder's networks: compose a vaekit.VAE with it first")
        return self._paths[0]

    def conditional(self, level: int, h: Tensor) -> Gaussian | None:
        """p(z_l | z_<l) of the path's state at a level, the first being 0; None for N(0, I)."""
        gaussian = self.path.prior(level, h)
        temperature = self.temperature[level] if isinstance(self.temperature, tuple) else self.temperature
        if temperature == 1.0:
            return gaussian
        if gaussian is None:
            zeros = h.new_zeros(h.shape[0], *self.path.level_shapes[level])
            gaussian = Gaussian(zeros, zeros)
        return gaussian._replace(logvar=gaussian.logvar + 2.0 * math.log(temperature))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *latent_shape] -> [B]; float64 for float64, otherwise float32."""
        given, elements = self.path.split(z), []

        def pick(level: int, h: Tensor) -> Tensor:
            elements.append(log_density(given[level], self.conditional(level, h)))
            return given[level]

        self.path.walk(z, pick)
        return torch.stack(elements).sum(0)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        eps = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:]))
        return self.from_noise(eps.to(dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        return self._drawn(self.path.split(noise), ())

    def below(self, z: Tensor, kept: int, *, key: Tensor, row_start: int = 0) -> Tensor:
        """The first levels of z as they are, and draws of those below given them.

        Args:
            z: [B, *latent_shape].
            kept: how many levels stay, from the one that is drawn first; with 0 all of z is drawn.
            key, row_start: as of `sample`.

        Returns:
            [B, *latent_shape].

        Raises:
            ValueError: kept below 0, or above the number of levels.

        Example:
            >>> import vaekit
            >>> ladder = {"name": "ladder", "levels": (2, 4)}
            >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=6, posterior=ladder, prior="top_down")
            >>> z = torch.zeros(3, 6)
            >>> drawn = vae.prior.below(z, 1, key=vaekit.make_key(0))
            >>> bool((drawn[:, :2] == 0).all()), bool((drawn[:, 2:] == 0).any())
            (True, False)
        """
        if checked_size("kept, the number of levels that stay,", kept, least=0) > len(self.path.level_shapes):
            raise ValueError(f"kept={kept}, but there are {len(self.path.level_shapes)} levels")
        size = math.prod(z.shape[1:])
        eps = philox.normal(key, z.shape, reference.compute_dtype(z.dtype), row_start * size).to(z.dtype)
        return self._drawn(self.path.split(eps), self.path.split(z)[:kept])

    def _drawn(self, noise: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        def pick(level: int, h: Tensor) -> Tensor:
            if level < len(kept):
                return kept[level]
            gaussian = self.conditional(level, h)
            if gaussian is None:
                return noise[level]
            return gaussian.mu + torch.exp(0.5 * gaussian.logvar) * noise[level]

        return self.path.packed(self.path.walk(noise[0], pick)[1])


def log_density(z: Tensor, gaussian: Gaussian | None) -> Tensor:
    """log N(z; mu, exp(logvar)) in nats, [N, *S] -> [N]; of N(0, I) where there is none."""
    zeros = z.new_zeros(())
    mu, logvar = (zeros, zeros) if gaussian is None else gaussian
    return log_normal(z, mu, logvar).flatten(1).sum(1)
