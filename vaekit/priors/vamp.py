"""The VampPrior: a mixture of posteriors.

J. M. Tomczak, M. Welling, "VAE with a VampPrior", AISTATS 2018, arXiv:1705.07120.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from vaekit.batch_norm import BATCH_NORMALIZATIONS
from vaekit.checks import checked_number, checked_size, checked_sizes
from vaekit.latents import LatentKind
from vaekit.ops import philox, streams
from vaekit.priors.base import Prior, registry
from vaekit.priors.gaussians import choose


class Mixed(Protocol):
    """What the prior asks of the encoder's posteriors."""

    def log_prob(self, z: Tensor) -> Tensor: ...

    def rsample(self, *, key: Tensor, row_start: int) -> Tensor: ...


@registry.register("vamp")
class Vamp(Prior):
    """1/K sum_k q(z | u_k): the average posterior of K learned pseudo-inputs u_k.

    The prior that maximises the bound is the average of the posteriors of all examples; this is an approximation of it by K of
    them, which needs no parameters in the latent space and cannot be far from what the encoder gives.

    Use it where the simple prior leaves latents unused, or its draws look like nothing in the data. There is no closed form of
    the divergence: `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example. It costs a pass
    of the K pseudo-inputs through the encoder in every step, and [B, K, D] numbers of memory.

    Tomczak and Welling, "VAE with a VampPrior", 2018, arXiv:1705.07120, equation 9.

    Args:
        input_shape: the shape of what the encoder reads of one example; `vaekit.create_vae` fills it in.
        components: K, 500 in the paper.
        mean, std: of the Gaussian from which pseudo-inputs are drawn at first, in the units of what the encoder reads.
            `start_from` makes them examples instead.

    The posterior has to be one whose `log_prob` takes z [B, 1, *S] for a batch of K, and the model one without a condition.

    Raises:
        ValueError: a size below 1; a std that is not positive; when composed, an encoder that reads another shape or a
            condition, or has batch normalisation.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian", prior="vamp")
        >>> vae.prior.start_from(torch.randn(1000, 4))
        >>> vae.sample(5).shape
        torch.Size([5, 4])
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, input_shape: Sequence[int], components: int = 500, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        mean, std = checked_number("mean", mean), checked_number("std", std, above=0.0)
        shape = (checked_size("components", components), *checked_sizes("input_shape", input_shape))
        self.pseudo_inputs = nn.Parameter(mean + std * torch.randn(shape))
        self._encoder: list[nn.Module] = []  # in a list: its weights are the model's, not the prior's

    def attach(self, encoder: nn.Module) -> None:
        shape, read = tuple(self.pseudo_inputs.shape[1:]), getattr(encoder, "input_shape", None)
        if shape != read:
            raise ValueError(f"the prior's pseudo-inputs have the shape {shape}, but the encoder reads {read}")
        if getattr(encoder, "condition_dim", 0):
            raise ValueError(
                "a vamp prior is made of posteriors given x alone, but the encoder reads a condition; "
                "make the encoder with condition_dim=0, or take another prior"
            )
        if any(isinstance(module, BATCH_NORMALIZATIONS) for module in encoder.modules()):
            raise ValueError(
                "a vamp prior encodes its pseudo-inputs in every step, whose averages batch normalisation would mix with those "
                "of the data; make the encoder with normalization='layer' or 'group'"
            )
        if self._encoder and self._encoder[0] is not encoder:
            raise ValueError("this vamp prior belongs to another model; make a new one")
        self._encoder = [encoder]

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Make the pseudo-inputs K examples, evenly spaced in x.

        Args:
            x: [N, *input_shape], N of at least K, as the encoder reads it: `likelihood.encoder_input(x)`.

        Raises:
            ValueError: another shape, or too few.
        """
        count, *shape = self.pseudo_inputs.shape
        if list(x.shape[1:]) != shape or len(x) < count:
            raise ValueError(f"start_from takes at least {count} examples of the shape {tuple(shape)}, got {tuple(x.shape)}")
        self.pseudo_inputs.copy_(x[(torch.arange(count) * len(x)).div(count, rounding_mode="floor").to(x.device)])

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *S] -> [B]."""
        by_component = self._posterior(self.pseudo_inputs).log_prob(z.unsqueeze(1))
        return by_component.logsumexp(1) - math.log(len(self.pseudo_inputs))

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        chosen_key = philox.fold_in(key, streams.Sample.COMPONENT)
        chosen = choose(self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)), shape[0], chosen_key, row_start)
        return self._posterior(self.pseudo_inputs[chosen]).rsample(key=key, row_start=row_start).to(dtype)

    def _posterior(self, inputs: Tensor) -> Mixed:
        if not self._encoder:
            raise RuntimeError("a vamp prior is made of a model's posteriors: compose a vaekit.VAE with it first")
        posterior: Mixed = self._encoder[0](inputs)
        return posterior
