"""The networks of the presets as a person writes them in PyTorch, for the bare loop and for pythae."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DENSE: dict[str, tuple[tuple[int, int], int, type[nn.Module]]] = {
    "dense-mnist": ((2000, 256), 2, nn.ReLU),
    "burda-mnist": ((200, 200), 50, nn.Tanh),
}


def bodies(model: str) -> tuple[nn.Module, int, nn.Module]:
    """The encoder up to its last layer, the features that this has, and the decoder: examples [B, N] to parameters [B, N]."""
    if model == "colour-64":
        return colour_bodies()
    if model in DENSE:
        (first, second), latent, kind = DENSE[model]
        encoder = nn.Sequential(nn.Linear(784, first), kind(), nn.Linear(first, second), kind())
        decoder = nn.Sequential(nn.Linear(latent, second), kind(), nn.Linear(second, first), kind(), nn.Linear(first, 784))
        return encoder, second, decoder
    features = {"keras-mnist": 16, "conv-mnist": 256}[model]
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(3136, features), nn.ReLU()),
    )
    dense = (
        [nn.Linear(2, 3136), nn.ReLU()]
        if model == "keras-mnist"
        else [nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 3136), nn.ReLU()]
    )
    decoder = nn.Sequential(
        *dense,
        nn.Unflatten(1, (64, 7, 7)),
        *(nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 1, 3, padding=1), nn.Flatten()),
    )
    return encoder, features, decoder


def colour_bodies() -> tuple[nn.Module, int, nn.Module]:
    """Of 64 x 64 colour images, with group normalisation in groups of at least four channels."""

    def normalised(layer: nn.Module, channels: int) -> list[nn.Module]:
        return [layer, nn.GroupNorm(min(32, channels // 4), channels), nn.LeakyReLU()]

    encoder: list[nn.Module] = [nn.Unflatten(1, (3, 64, 64))]
    for before, channels in zip((3, 32, 64, 128), (32, 64, 128, 256), strict=True):
        encoder += normalised(nn.Conv2d(before, channels, 3, stride=2, padding=1), channels)
    decoder = [*normalised(nn.Linear(128, 4096), 4096), nn.Unflatten(1, (256, 4, 4))]
    for before, channels in zip((256, 256, 128, 64), (256, 128, 64, 32), strict=True):
        decoder += normalised(nn.ConvTranspose2d(before, channels, 3, stride=2, padding=1, output_padding=1), channels)
    return nn.Sequential(*encoder, nn.Flatten()), 4096, nn.Sequential(*decoder, nn.Conv2d(32, 3, 3, padding=1), nn.Flatten())


def negative_binomial(log_mean: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    """-log p of each count by the textbook's formula, as scvi-tools has it."""
    theta = log_theta.exp()
    log_sum = torch.log(theta + log_mean.exp() + 1e-8)
    choices = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return -(choices + theta * (log_theta - log_sum) + x * (log_mean - log_sum))


class BareVAE(nn.Module):
    """The textbook's model: encode, draw with randn_like, decode; the loss is the negative ELBO, a mean over the batch."""

    def __init__(self, encoder: nn.Module, features: int, latent: int, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.decoder = encoder, nn.Linear(features, 2 * latent), decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.head(self.encoder(x)).chunk(2, dim=1)
        return mu, logvar

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The sum over the batch, in nats."""
        return F.binary_cross_entropy_with_logits(parameters, x, reduction="sum")

    def named(self, parameters: Tensor) -> dict[str, Tensor]:
        """The likelihood's parameters by name, as problems.py takes them."""
        return {"logits": parameters}

    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (self.nll(self.decoder(z).float(), x) + kl) / len(x)


class BareTable(BareVAE):
    """Two numbers with a learned variance each, a class of three and a count [B, 4]."""

    def __init__(self) -> None:
        encoder = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 7))
        super().__init__(encoder, 64, 8, decoder)
        self.logvar = nn.Parameter(torch.zeros(2))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = [x[:, :2], F.one_hot(x[:, 2].long(), 3).to(x), torch.log1p(x[:, 3:])]
        return super().encode(torch.cat(seen, 1))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        p = self.named(parameters)
        squares = (x[:, :2] - p["mean"]) ** 2 * torch.exp(-self.logvar) + self.logvar + math.log(2 * math.pi)
        return (
            0.5 * squares.sum()
            + F.cross_entropy(p["logits"], x[:, 2].long(), reduction="sum")
            + negative_binomial(p["log_mean"], p["log_theta"], x[:, 3]).sum()
        )

    def named(self, parameters: Tensor) -> dict[str, Tensor]:
        p = parameters
        return {"mean": p[:, :2], "logvar": self.logvar, "logits": p[:, 2:5], "log_mean": p[:, 5], "log_theta": p[:, 6]}


class BareCells(BareVAE):
    """Counts of 2,000 genes with a mean and a dispersion for each gene in each cell."""

    def __init__(self) -> None:
        encoder = nn.Sequential(nn.Linear(2000, 128), nn.LayerNorm(128), nn.ReLU(), nn.Dropout(0.1))
        decoder = nn.Sequential(nn.Linear(10, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 4000))
        super().__init__(encoder, 128, 10, decoder)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode(torch.log1p(x))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return negative_binomial(*parameters.chunk(2, 1), x).sum()

    def named(self, parameters: Tensor) -> dict[str, Tensor]:
        log_mean, log_theta = parameters.chunk(2, 1)
        return {"log_mean": log_mean, "log_theta": log_theta}


class BareColour(BareVAE):
    """Pixels with a normal, whose variance is learned and one for all."""

    def __init__(self) -> None:
        encoder, features, decoder = colour_bodies()
        super().__init__(encoder, features, 128, decoder)
        self.logvar = nn.Parameter(torch.zeros(()))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        squares = (x - parameters) ** 2 * torch.exp(-self.logvar) + self.logvar + math.log(2 * math.pi)
        return 0.5 * squares.sum()


def bare(model: str) -> BareVAE:
    if model == "colour-64":
        return BareColour()
    if model == "table":
        return BareTable()
    if model == "single-cell":
        return BareCells()
    encoder, features, decoder = bodies(model)
    return BareVAE(encoder, features, DENSE[model][1] if model in DENSE else 2, decoder)
