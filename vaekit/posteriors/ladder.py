"""The ladder: levels of latents whose posteriors combine what the data say with what the level above expects.

C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther, "Ladder Variational Autoencoders", NeurIPS 2016,
arXiv:1602.02282.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size, checked_sizes
from vaekit.dense import Linear
from vaekit.layers import LayerStyle, dense_layers, glorot
from vaekit.posteriors.family import GaussianFamily, bounded, registry
from vaekit.posteriors.levels import LevelsPosterior
from vaekit.top_down import Gaussian, TopDown


class LadderPath(TopDown):
    """z_1 ~ N(0, I), and z_l ~ N(mu(z_(l-1)), exp(logvar(z_(l-1)))) by a dense network; a decoder reads the last level.

    Args:
        sizes: the numbers D_l of latents of each level, from the one that is drawn first.
        hidden: the sizes of the hidden layers of each level's network.
        style: what follows each of those.
        logvar_bound: keeps the networks' logvar between -logvar_bound and logvar_bound; None for no bound.
    """

    def __init__(self, sizes: Sequence[int], hidden: Sequence[int], style: LayerStyle, logvar_bound: float | None) -> None:
        super().__init__([(size,) for size in sizes], features_shape=(sizes[-1],))
        self.logvar_bound = logvar_bound
        networks = []
        for above, size in itertools.pairwise(sizes):
            layers = dense_layers((above, *hidden), style)
            networks.append(nn.Sequential(*layers, glorot(Linear((above, *hidden)[-1], 2 * size))))
        self.networks = nn.ModuleList(networks)

    def start(self, like: Tensor) -> Tensor:
        return like.new_zeros(like.shape[0], 0)

    def prior(self, level: int, h: Tensor) -> Gaussian | None:
        if not level:
            return None
        mu, logvar = self.networks[level - 1](h).chunk(2, 1)
        return Gaussian(mu, logvar if self.logvar_bound is None else bounded(logvar, self.logvar_bound))

    def posterior(self, level: int, h: Tensor, prior: Gaussian | None, numbers: Tensor) -> Gaussian:
        """The two estimates of z_l weighted by their precisions (equations 12 to 14)."""
        of_data = Gaussian(*(self.split(half)[level] for half in numbers.chunk(2, 1)))
        if prior is None:
            return of_data
        share = torch.sigmoid(prior.logvar - of_data.logvar)  # of the data in the sum of the precisions
        mu = prior.mu + share * (of_data.mu - prior.mu)
        return Gaussian(mu, -torch.logaddexp(-prior.logvar, -of_data.logvar))

    def after(self, level: int, h: Tensor, z: Tensor) -> Tensor:
        return z


@registry.register("ladder")
class LadderFamily(GaussianFamily):
    """Several levels of latents, the upper ones for what the lower ones have in common: the ladder VAE.

    The encoder gives a mean and a variance of every latent of every level, from x alone; going down, each level's posterior is
    the precision-weighted mean of that and of the prior p(z_l | z_(l-1)), a dense network of the level above:

        1 / s_q^2 = 1 / s_x^2 + 1 / s_p^2,    mu_q = s_q^2 (mu_x / s_x^2 + mu_p / s_p^2)

    so that a level of which the data say nothing costs nothing.

    When to use it: with the prior "top_down", where one Gaussian is too simple a prior. With the decoder "mlp" all levels are
    read; with "top_down" the last one alone, as in the paper, whose upper levels collapse without a warm-up: raise beta from 0
    over some hundred or thousand steps. Level 1 is the top here; the paper counts from the data.
    Cost: a dense network for each level below the first, two passes more for a density. `mean`, which `reconstruct` decodes, are
    the means given the means above. Latents that are kept in space have the encoder "top_down".

    C. K. Sønderby et al., "Ladder Variational Autoencoders", 2016, arXiv:1602.02282.

    Args:
        latent_shape: (D,), all levels together; the encoder fills it in.
        levels: how many latents each level has, from the one that is drawn first, (8, 16, 32) for example, D together; or a
            number of levels, which share D as evenly as they can.
        hidden: the sizes of the hidden layers between two levels.
        activation: between those: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group.
        logvar_bound: keeps the logvar of x's estimate, and of the priors, between -logvar_bound and logvar_bound.
        initial_logvar: what the logvar of x's estimate starts from, for every x; None for random values around 0.

    Raises:
        ValueError: levels that are not D latents together, or more levels than latents; latents with positions.

    Example:
        >>> import vaekit
        >>> ladder = {"name": "ladder", "levels": (2, 4)}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=6, posterior=ladder, prior="top_down")
        >>> z = vae.encode(torch.rand(5, 4)).rsample()
        >>> [level.shape for level in vae.split_levels(z)]
        [torch.Size([5, 2]), torch.Size([5, 4])]
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        levels: int | Sequence[int] = 2,
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        normalization: str = "none",
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
    ) -> None:
        super().__init__(latent_shape, logvar_bound, initial_logvar)
        if len(self.latent_shape) > 1:
            raise ValueError(
                f"a ladder has levels of D numbers, not latents with positions like {self.latent_shape}; leave spatial out, or "
                "take the encoder 'top_down'"
            )
        sizes = _sizes_of(levels, self.latent_shape[0])
        self.path: LadderPath = LadderPath(
            sizes, checked_sizes("hidden", hidden), LayerStyle(activation, normalization), logvar_bound
        )

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> LevelsPosterior:
        return LevelsPosterior(self.path, torch.cat((mu, logvar), 1))


def _sizes_of(levels: int | Sequence[int], latents: int) -> tuple[int, ...]:
    """The numbers of latents of each level.

    Raises:
        ValueError: they are not `latents` together.

    Example:
        >>> _sizes_of(3, 8), _sizes_of((2, 6), 8)
        ((2, 3, 3), (2, 6))
    """
    if isinstance(levels, (list, tuple)):
        sizes = checked_sizes("levels", levels)
        if sum(sizes) != latents:
            raise ValueError(
                f"levels={sizes} are {sum(sizes)} latents together, but latent_dim={latents}; make one fit the other, "
                f"latent_dim={sum(sizes)} for example"
            )
        return sizes
    count = checked_size("levels", levels)  # type: ignore[arg-type]
    if count > latents:
        raise ValueError(
            f"levels={count} need at least {count} latents, but latent_dim={latents}; give fewer levels, or more latents"
        )
    each, rest = divmod(latents, count)
    return tuple(each + (number >= count - rest) for number in range(count))
