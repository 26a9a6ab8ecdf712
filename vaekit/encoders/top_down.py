"""An encoder for images whose latents have several resolutions, with the top-down path that prior and posterior share.

A. Vahdat, J. Kautz, "NVAE: A Deep Hierarchical Variational Autoencoder", NeurIPS 2020, arXiv:2007.03898; R. Child, "Very Deep
VAEs Generalize Autoregressive Models and Can Outperform Them on Images", ICLR 2021, arXiv:2011.10650.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size, checked_sizes
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import CONVOLUTIONS, Layers, LayerStyle, checked_rank, glorot, halved_resolutions, precise_layer, upsampling
from vaekit.posteriors import Family, LevelsPosterior, Posterior
from vaekit.residual import ResidualBlock, halving
from vaekit.top_down import Gaussian, TopDown


class _Group(nn.Module):
    """The networks of one level, at a resolution [*sizes] with C channels; D latents at each position.

    Args:
        channels, latents: C and D.
        sizes: the resolution.
        style: of the layers.
        below: the channels and sizes of the level below; None for the last one, behind which the decoder comes.
    """

    def __init__(
        self, channels: int, latents: int, sizes: tuple[int, ...], style: LayerStyle, below: tuple[int, tuple[int, ...]] | None
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(sizes)]

        def head(channels_in: int) -> nn.Sequential:
            last = convolution(channels, 2 * latents, 1)
            for parameter in last.parameters():  # the posterior begins as the prior, and that as N(0, I)
                nn.init.zeros_(parameter)
            return nn.Sequential(ResidualBlock(channels_in, channels, sizes, style), *style.after(channels, sizes), last)

        self.prior, self.posterior = head(channels), head(2 * channels)
        if below is None:
            return
        self.read = glorot(convolution(latents, channels, 1))
        layers: list[nn.Module] = [ResidualBlock(channels, channels, sizes, style)]
        if below[1] != sizes:
            layers += [upsampling(sizes, below[1], "nearest"), glorot(convolution(channels, below[0], 3, padding=1))]
        self.down = nn.Sequential(*layers)


class _Head(nn.Module):
    """What the encoder says at a resolution: normalisation, activation and a 1x1 convolution, the last one in float32."""

    def __init__(self, before: Sequence[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.before, self.last = nn.Sequential(*before), last

    def forward(self, features: Tensor) -> Tensor:
        return precise_layer(self.last, self.before(features))


class ConvolutionalPath(TopDown):
    """Groups of latents from the lowest resolution to higher ones: the state h [N, C, *sizes] grows with them.

    p(z_l | z_<l) is of h; q(z_l | z_<l, x) of h beside the encoder's features of that resolution, relative to it (NVAE, equation
    2): mu = mu_p + delta mu, logvar = logvar_p + delta logvar. h then gains a linear map of z and passes a residual block.

    Args:
        latents: D, at each position of each group.
        groups: of each in turn, from the lowest resolution, its channels and its sizes.
        style: of the layers.
    """

    def __init__(self, latents: int, groups: Sequence[tuple[int, tuple[int, ...]]], style: LayerStyle) -> None:
        last_channels, last_sizes = groups[-1]
        features_shape = (last_channels + latents, *last_sizes)
        super().__init__([(latents, *sizes) for _, sizes in groups], features_shape)
        self.first = nn.Parameter(torch.zeros(groups[0][0], *groups[0][1]))
        self.groups = nn.ModuleList(
            _Group(channels, latents, sizes, style, below)
            for (channels, sizes), below in zip(groups, [*groups[1:], None], strict=True)
        )
        self.scales = list(dict.fromkeys(groups))  # the features that the encoder gives, side by side in one row
        self.numbers = [math.prod((channels, *sizes)) for channels, sizes in self.scales]
        self._scale_of = [self.scales.index(group) for group in groups]

    def start(self, like: Tensor) -> Tensor:
        return self.first.expand(like.shape[0], *self.first.shape)

    def prior(self, level: int, h: Tensor) -> Gaussian:
        mu, logvar = self._group(level).prior(h).chunk(2, 1)
        return Gaussian(mu, logvar)

    def posterior(self, level: int, h: Tensor, prior: Gaussian | None, numbers: Tensor) -> Gaussian:
        assert prior is not None
        features = numbers.split(self.numbers, 1)[self._scale_of[level]].view(h.shape)
        mu, logvar = self._group(level).posterior(torch.cat((h, features), 1)).chunk(2, 1)
        return Gaussian(prior.mu + mu, prior.logvar + logvar)

    def after(self, level: int, h: Tensor, z: Tensor) -> Tensor:
        group = self._group(level)
        below: Tensor = group.down(h + group.read(z))
        return below

    def _group(self, level: int) -> _Group:
        group = self.groups[level]
        assert isinstance(group, _Group)
        return group

    def features_of(self, h: Tensor, z: Tensor) -> Tensor:
        return torch.cat((h, z), 1)


class ConvolutionalPathFamily(Family):
    """The posteriors of a `ConvolutionalPath`, of the features of all its resolutions in one row [B, F]."""

    def __init__(self, path: ConvolutionalPath) -> None:
        super().__init__(path.latent_shape)
        self.path: ConvolutionalPath = path
        self.outputs = sum(path.numbers)

    def forward(self, numbers: Tensor) -> LevelsPosterior:
        return LevelsPosterior(self.path, numbers)


@registry.register("top_down")
class TopDownEncoder(Encoder):
    """Latents of several resolutions, drawn from the lowest one down to higher ones: what NVAE and VDVAE are, made small.

    Residual blocks go up to lower resolutions. Then, from the lowest one on, a top-down path draws a group of latents after the
    other, each with the prior that the path expects and a posterior that sees the encoder's features of that resolution beside
    it. Coarse groups decide what the picture is, fine ones where its strokes are.

    The path belongs to the encoder; the prior "top_down" and the decoder "top_down" read it. Data are series, images or volumes.

    Args:
        input_shape: (channels, length), (channels, height, width) or (channels, depth, height, width).
        latent_dim: D, of each group at each of its positions; `latent_shape` is (D, positions of all groups together), and
            `VAE.split_levels` takes them apart.
        channels: of each resolution, from the input's side; every size is halved between two, rounding up.
        groups: how many groups of latents there are at each of these resolutions, at the last one at least one.
        blocks: residual blocks at each resolution on the way up.
        activation: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of features that are left out in training, in each block before its second convolution.
        condition_dim: of a condition, which the blocks on the way up read; 0 for none. The prior is not told.

    Raises:
        ValueError: an input_shape of another rank; no channels; numbers of groups that do not fit them.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(1, 28, 28),
        ...     latent_dim=2,
        ...     encoder={"name": "top_down", "channels": (8, 16, 16), "groups": (0, 1, 2)},
        ...     prior="top_down",
        ...     decoder={"name": "top_down", "decoder": {"name": "resnet", "channels": (16, 8), "blocks": 1}},
        ... )
        >>> vae.latent_levels
        ((2, 7, 7), (2, 7, 7), (2, 14, 14))
        >>> vae(torch.rand(3, 1, 28, 28)).extras["kl_level_3"].shape
        torch.Size([3])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        channels: Sequence[int] = (32, 64, 64),
        groups: Sequence[int] = (0, 1, 2),
        blocks: int = 1,
        activation: str = "silu",
        normalization: str = "group",
        dropout: float = 0.0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        rank = checked_rank(self.input_shape, (1, 2, 3), "'top_down'")
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one resolution, (32, 64, 64) for example")
        counts = [checked_size("groups", count, least=0) for count in groups]
        if len(counts) != len(channels) or not counts[-1]:
            raise ValueError(
                f"groups has to have a number for each of the {len(channels)} resolutions that channels={tuple(channels)} names, "
                f"the last one at least 1, got {tuple(counts)}"
            )
        style, convolution = LayerStyle(activation, normalization, dropout), CONVOLUTIONS[rank]
        resolutions = halved_resolutions(self.input_shape[1:], len(channels) - 1)
        self.first = glorot(convolution(self.input_shape[0], channels[0], 3, padding=1))
        scales, heads, size_in = [], [], channels[0]
        for level, (size, resolution, count) in enumerate(zip(channels, resolutions, counts, strict=True)):
            layers = halving(size_in, rank, "both") if level else []
            for _ in range(checked_size("blocks", blocks)):
                layers.append(ResidualBlock(size_in, size, resolution, style, condition_dim))
                size_in = size
            scales.append(Layers(*layers))
            last = replace(style, dropout=0.0).after(size, resolution)
            heads.append(_Head(last, glorot(convolution(size, size, 1))) if count else None)
        self.scales = nn.ModuleList(scales)
        self.heads = nn.ModuleDict({str(number): head for number, head in enumerate(heads) if head is not None})
        below = [
            (size, resolution)
            for size, resolution, count in zip(channels, resolutions, counts, strict=True)
            for _ in range(count)
        ]
        self.family: ConvolutionalPathFamily = ConvolutionalPathFamily(
            ConvolutionalPath(latent_dim, below[::-1], replace(style, dropout=0.0))
        )
        self.latent_shape = self.family.latent_shape

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        self.check_condition(x, condition)
        features, rows = self.first(x), []
        for number, scale in enumerate(self.scales):
            features = scale(features, condition)
            if str(number) in self.heads:
                rows.append(self.heads[str(number)](features).flatten(1))
        return self.posterior(torch.cat(rows[::-1], 1))
