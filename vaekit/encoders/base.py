"""What every encoder offers: x -> Posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit import autocast
from vaekit.checks import checked_size, checked_sizes
from vaekit.layers import Network, glorot
from vaekit.posteriors.base import Posterior, in_single_precision
from vaekit.posteriors.family import DiagonalGaussianFamily, Family, make_family
from vaekit.registry import Part, Registry


class Encoder(Part, Network, ABC):
    """q(z | x), or q(z | x, c): a module from a batch [B, *input_shape] to a `Posterior` over latents [B, *latent_shape].

    An encoder makes its last layer by `make_head`, which knows how many numbers a posterior takes, and hands what that gives to
    `posterior`, which makes one of them; or it returns a posterior of its own, `vaekit.DiagonalGaussian(mu, logvar)` for example.
    `vaekit.layers.precise_layer` computes such a layer in float32 where the rest of the network is in a lower precision.

    A class of one's own becomes conditional by taking the option condition_dim, which it hands on to `super().__init__`, and the
    argument condition; without them its condition_dim is 0 and it is called with x alone.

    Args:
        input_shape: the shape of one example, without the batch.
        latent_dim: the number D of latent dimensions; `latent_shape` is (D,), unless an encoder sets another one.
        condition_dim: the size of the condition c, what `vaekit.conditions` makes of an example's label or vector; 0 for none.

    Raises:
        ValueError: an empty shape, a size that is not a whole number of at least 1; a condition_dim below 0.

    Example:
        >>> import math
        >>> from vaekit.layers import with_condition
        >>> class Linear(Encoder):
        ...     def __init__(self, input_shape, latent_dim, condition_dim=0):
        ...         super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        ...         self.linear = nn.Linear(math.prod(input_shape) + condition_dim, 2 * latent_dim)
        ...
        ...     def forward(self, x, condition=None):
        ...         self.check_condition(x, condition)  # says what is wrong with it, if anything is
        ...         return self.posterior(self.linear(with_condition(x.flatten(1), condition)))
        >>> Linear((3, 4), latent_dim=2, condition_dim=10)(torch.rand(5, 3, 4), torch.rand(5, 10)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(condition_dim)
        self.input_shape = checked_sizes("input_shape", input_shape)
        if not self.input_shape:
            raise ValueError("input_shape has to have at least one dimension; a table with 13 columns has (13,)")
        self.latent_shape: tuple[int, ...] = (checked_size("latent_dim", latent_dim),)
        self.family: Family = DiagonalGaussianFamily(self.latent_shape)

    def __call__(self, *inputs: Any, **named: Any) -> Posterior:
        """`forward`; what it gives under `torch.autocast` in half precision is handed on in float32."""
        posterior, is_lower = self._computed(inputs, named)
        return in_single_precision(posterior) if is_lower and isinstance(posterior, Posterior) else posterior

    def requires_grad_(self, requires_grad: bool = True) -> Encoder:
        """As of every module, and of the family: a codebook that moves without gradients stays where it is."""
        self.family.requires_grad_(requires_grad)
        return super().requires_grad_(requires_grad)

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        """[B, *input_shape] -> a posterior over [B, *latent_shape].

        Args:
            x: the batch.
            condition: [B, condition_dim], in the dtype of x; an encoder whose condition_dim is 0 is called without it.
        """

    def numbers(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """What `posterior` makes a posterior of, [B, outputs, *positions]: what is blended where data is encoded in tiles.

        Raises:
            NotImplementedError: the encoder does not give them apart.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not give the numbers of its posteriors apart from them, which tiles are blended of; "
            "define its method numbers, and let forward hand them to self.posterior"
        )

    def make_head(
        self, posterior: str | Mapping[str, Any] | Family, layer: Callable[..., Any], features: int, **options: Any
    ) -> nn.Module:
        """The last layer, layer(features, outputs, **options), and the family of the posteriors that are made of what it gives.

        To be called once, when `latent_shape` is what it will be. Weights are drawn by Glorot's rule, unless the family starts
        them elsewhere.

        Args:
            posterior: a name from `vaekit.posteriors.names()`, {"name": ..., option: ...}, or a `vaekit.posteriors.Family`.
            layer: nn.Linear, nn.Conv2d, ...: of the positions that latents have.
            features: what the layer reads.

        Raises:
            TypeError, ValueError, UnknownNameError: a family that does not exist or does not fit.
        """
        self.family = make_family(posterior, self.latent_shape)
        head = glorot(layer(features, self.family.outputs, **options))
        with torch.no_grad():
            self.family.start(head.weight, head.bias)
        module: nn.Module = head
        return module

    def posterior(self, numbers: Tensor) -> Posterior:
        """What the last layer gives, [B, outputs, *positions], as a posterior; under `torch.autocast` a float32 one."""
        if autocast.dtype_on(numbers.device) is None:
            return self.family(numbers)
        with torch.autocast(numbers.device.type, enabled=False):
            return self.family(autocast.single(numbers))


registry: Registry[Encoder] = Registry("encoder", "vaekit.encoders", Encoder)
