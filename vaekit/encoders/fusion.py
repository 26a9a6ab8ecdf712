"""One posterior of several experts: what each modality says of z, put together."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaekit.checks import checked_flag
from vaekit.posteriors import DiagonalGaussian, Posterior
from vaekit.posteriors.mixture import GaussianMixturePosterior
from vaekit.registry import Part, Registry


class Fusion(Part, nn.Module, ABC):
    """From one Gaussian for each modality to one posterior, whichever modalities there are."""

    __call__: Callable[..., Posterior]

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, mu: Tensor, logvar: Tensor, present: Tensor) -> Posterior:
        """The posterior of each example, N(0, I) where nothing is there.

        Args:
            mu, logvar: float [B, M, D], of each of M modalities; finite ones, of no meaning, where it is missing.
            present: bool [B, M], which are there.
        """


registry: Registry[Fusion] = Registry("fusion", "vaekit.fusions", Fusion)


def product(mu: Tensor, logvar: Tensor, present: Tensor, with_prior: Tensor | bool = True) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the product of Gaussians [B, M, D], and of N(0, I) where with_prior says so: [B, D] each.

    Precisions add up, and means are weighted by them.

    Example:
        >>> mu, logvar = torch.tensor([[[2.0], [4.0]]]), torch.zeros(1, 2, 1)
        >>> product(mu, logvar, torch.ones(1, 2, dtype=torch.bool))[0].round(decimals=3)
        tensor([[2.]])
    """
    log_precision = torch.where(present.unsqueeze(2), -logvar, -torch.inf)
    own = torch.as_tensor(with_prior, device=mu.device) | ~present.any(1)
    of_prior = torch.where(own, 0.0, -torch.inf).to(mu.dtype).expand(mu.shape[0])
    total = torch.cat([log_precision, of_prior.view(-1, 1, 1).expand(-1, 1, mu.shape[2])], 1).logsumexp(1)
    return ((log_precision - total.unsqueeze(1)).exp() * mu).sum(1), -total


@registry.register("product_of_experts")
class ProductOfExperts(Fusion):
    """The product of what the modalities say, and of the prior: MVAE. A Gaussian, the surer the more there is.

    Use it where modalities know different things about an example. It costs nothing beside the networks, and its divergence is
    exact. Alone it never learns from one modality without the others: train it with the loss "mvae", or on data in which
    modalities are missing.

    M. Wu, N. Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", NeurIPS 2018, arXiv:1802.05335.

    Args:
        prior_expert: whether N(0, I) is one of the experts, as in the paper.
    """

    def __init__(self, prior_expert: bool = True) -> None:
        super().__init__()
        self.prior_expert = checked_flag("prior_expert", prior_expert)

    def forward(self, mu: Tensor, logvar: Tensor, present: Tensor) -> Posterior:
        return DiagonalGaussian(*product(mu, logvar, present, self.prior_expert))


@registry.register("mixture_of_experts")
class MixtureOfExperts(Fusion):
    """The mixture of what the modalities say, each with the same weight: MMVAE.

    Use it where each modality says by itself what an example is: every expert learns to reconstruct all modalities, so that any
    one stands for the others. It costs nothing beside the networks; its divergence is an estimate, which more draws
    (num_samples of the objective) make surer.

    Y. Shi et al., "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models", NeurIPS 2019,
    arXiv:1911.03393.
    """

    def forward(self, mu: Tensor, logvar: Tensor, present: Tensor) -> Posterior:
        nothing = ~present.any(1, keepdim=True)
        mu, logvar = (torch.where(nothing.unsqueeze(2), 0.0, value) for value in (mu, logvar))
        return GaussianMixturePosterior(mu, logvar, (present | nothing).to(mu.dtype))


@registry.register("mixture_of_products")
class MixtureOfProducts(Fusion):
    """The mixture, over all sets of the modalities that are there, of the products of each set: MoPoE.

    It has the experts alone, as "mixture_of_experts", and all of them together, as "product_of_experts", among its components.
    Use it where both matter. It costs 2^M - 1 products of M modalities, so it is for a handful of them; its divergence is an
    estimate.

    T. M. Sutter, I. Daunhawer, J. E. Vogt, "Generalized Multimodal ELBO", ICLR 2021, arXiv:2105.02470.

    Args:
        prior_expert: whether N(0, I) is one of the experts in each product.
    """

    def __init__(self, prior_expert: bool = False) -> None:
        super().__init__()
        self.prior_expert = checked_flag("prior_expert", prior_expert)

    def forward(self, mu: Tensor, logvar: Tensor, present: Tensor) -> Posterior:
        every = [chosen for chosen in itertools.product((False, True), repeat=mu.shape[1]) if any(chosen)]
        sets = torch.tensor(every, device=mu.device)  # [C, M]
        whole = (present.unsqueeze(1) | ~sets).all(2)  # [B, C]: all of the set is there
        members = sets & whole.unsqueeze(2)  # of a set that is not whole nothing, which is N(0, I) without any weight
        parts = [product(mu, logvar, members[:, number], self.prior_expert) for number in range(len(every))]
        means, logvars = (torch.stack(some, 1) for some in zip(*parts, strict=True))
        nothing = ~present.any(1, keepdim=True)
        return GaussianMixturePosterior(means, logvars, (whole | nothing).to(mu.dtype))
