"""Linear models with Gaussian noise, of which everything has a closed form."""

import torch
from torch.distributions import MultivariateNormal

import vaekit


def linear_gaussian(dtype=torch.float64, sigma=0.8, missing="refuse"):
    """x = W z + b + sigma noise, z from N(0, I), [5] from [2]: a model, and its p(x) = N(b, W W' + sigma^2 I).

    The encoder is not the best one: its means are too small, and its variances too large.
    """
    vae = vaekit.create_vae(
        input_shape=(5,),
        latent_dim=2,
        encoder={"name": "mlp", "hidden": ()},
        decoder={"name": "mlp", "hidden": ()},
        likelihood={"name": "gaussian", "sigma": sigma, "missing": missing},
        seed=3,
    ).to(dtype)
    with torch.no_grad():
        weight, variance = vae.decoder.head.weight, sigma**2
        precision = torch.eye(2, dtype=dtype) + weight.mT @ weight / variance
        covariance = torch.linalg.inv(precision)
        vae.encoder.head.weight[:2] = covariance @ weight.mT / variance * 0.9
        vae.encoder.head.weight[2:] = 0.0
        vae.encoder.head.bias[2:] = torch.log(1.3 * covariance.diagonal())
    marginal = MultivariateNormal(
        vae.decoder.head.bias.detach(), weight.detach() @ weight.detach().mT + variance * torch.eye(5, dtype=dtype)
    )
    return vae, marginal


def conditional(marginal: MultivariateNormal, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the covariance of the missing values of one x [F], NaN, given the others."""
    missing, mean, covariance = x.isnan(), marginal.mean, marginal.covariance_matrix
    across = covariance[missing][:, ~missing] @ torch.linalg.inv(covariance[~missing][:, ~missing])
    return (
        mean[missing] + across @ (x - mean)[~missing],
        covariance[missing][:, missing] - across @ covariance[~missing][:, missing],
    )
