"""What adversarial objectives share: a discriminator of their own, its logits with and without its gradient, and its losses.

I. Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661; the hinge: J. H. Lim, J. C. Ye, "Geometric GAN", 2017,
arXiv:1705.02894. The weight by gradients: P. Esser, R. Rombach, B. Ommer, "Taming Transformers for High-Resolution Image
Synthesis", 2021, arXiv:2012.09841, equation 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import relu, softplus

from vaekit.checks import checked_number
from vaekit.discriminators import Discriminator
from vaekit.discriminators import registry as discriminators
from vaekit.gathering import rows_of_all, summed
from vaekit.losses.base import Loss
from vaekit.losses.draws import batch_mean
from vaekit.ops import reference

_LEAST = 1e-6  # delta of equation 7
_LARGEST = 1e4  # of the weight, as in the authors' code


class AdversarialLoss(Loss):
    """An objective with a discriminator, which it trains on `LossTerms.auxiliary` with options of the optimizer.

    Args:
        discriminator: a registered name, {"name": ..., option: ...}, or a `vaekit.discriminators.Discriminator`; None for none.
        shown: the shape of what it is shown.
        learning_rate: the discriminator's; None for that of the rest of the model.
        betas: Adam's for the discriminator.

    Raises:
        TypeError, ValueError, UnknownNameError: no such discriminator, or one for another shape; options that Adam does not take.
    """

    def __init__(
        self,
        discriminator: str | Mapping[str, Any] | Discriminator | None,
        shown: Sequence[int] | None,
        learning_rate: float | None,
        betas: Sequence[float],
    ) -> None:
        super().__init__()
        offers = {} if shown is None else {"input_shape": tuple(shown)}
        self.discriminator = None if discriminator is None else discriminators.build(discriminator, offers)
        if self.discriminator is not None and shown is not None and self.discriminator.input_shape != tuple(shown):
            raise ValueError(
                f"the discriminator is one for the shape {self.discriminator.input_shape}, but it is shown {tuple(shown)}; make "
                f"it with input_shape={tuple(shown)}"
            )
        rate = "learning_rate of the discriminator"
        self.learning_rate = None if learning_rate is None else checked_number(rate, learning_rate, above=0.0)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ValueError(f"betas has to be two numbers from 0 to below 1, (0.5, 0.9) for example, got {betas!r}")
        first, second = (checked_number("every entry of betas", beta, least=0.0, below=1.0) for beta in betas)
        self.betas = (first, second)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The discriminator's."""
        if self.discriminator is None:
            return []
        rate = {} if self.learning_rate is None else {"lr": self.learning_rate}
        return [{"params": list(self.discriminator.parameters()), **rate, "betas": self.betas}]

    def as_opponent(self, x: Tensor) -> list[Tensor]:
        """The discriminator's layers, its logits last, of what the model made; its weights are constants."""
        return self._layers(x, {name: weight.detach() for name, weight in self._weights().items()})

    def as_judge(self, x: Tensor) -> Tensor:
        """The discriminator's logits [B, *places]; x is a constant."""
        return self._layers(x.detach(), self._weights())[-1]

    def _weights(self) -> dict[str, Tensor]:
        assert self.discriminator is not None
        return dict(self.discriminator.named_parameters())

    def _layers(self, x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
        assert self.discriminator is not None
        layers: list[Tensor] = functional_call(self.discriminator, weights, (x,))
        return [layer.to(reference.compute_dtype(layer.dtype)) for layer in layers]


def mean_of_places(logits: Tensor) -> Tensor:
    """[B, *places] -> [B].

    Example:
        >>> mean_of_places(torch.ones(2, 3, 3))
        tensor([1., 1.])
    """
    return logits if logits.ndim == 1 else logits.flatten(1).mean(1)


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The hinge loss of a discriminator, by its logits [B, *places] of the data and of what a model made: scalar.

    1/2 mean of max(0, 1 - real) + 1/2 mean of max(0, 1 + made).

    Example:
        >>> hinge(torch.tensor([[2.0], [0.0]]), torch.tensor([[-3.0], [1.0]]))
        tensor(0.7500)
    """
    return 0.5 * (batch_mean(mean_of_places(relu(1.0 - real))) + batch_mean(mean_of_places(relu(1.0 + made))))


def logistic(real: Tensor, *made: Tensor) -> Tensor:
    """-log D of the data minus log(1 - D) of each batch that a model made, means over examples, by logits [B, *places]: scalar.

    Example:
        >>> round(float(logistic(torch.zeros(3, 1), torch.zeros(3, 1))), 4)  # 2 log 2
        1.3863
    """
    fakes = [batch_mean(mean_of_places(softplus(logits))) for logits in made]
    return sum(fakes, start=batch_mean(mean_of_places(softplus(-real))))


def weight_by_gradients(kept: Tensor, adversarial: Tensor, weight: Tensor | None, decoded: Tensor, examples: int) -> Tensor:
    """|d kept / d weight| / (|d adversarial / d weight| + 1e-6), at most 1e4: scalar, a constant.

    With it both terms pull at the decoder's last layer alike, whatever their units. In a run of several processes the gradients
    are those of the whole batch.

    Args:
        kept, adversarial: scalars, sums over this process's examples.
        weight: the last layer's. Without one, or where it is frozen or not the one that decoded, decoded stands for it.
        decoded: what the decoder gives.
        examples: how many this process has.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> weight_by_gradients((w * w).sum(), w.sum(), w, w, examples=1)
        tensor(7.0711)
    """
    gradients = [_gradient(value, weight) for value in (kept, adversarial)]
    if any(gradient is None for gradient in gradients):
        squares = [summed(_wide(_gradient(value, decoded)).square().sum()) for value in (kept, adversarial)]
    else:
        squares = [summed(_wide(gradient)).square().sum() for gradient in gradients]
    of_kept, of_adversarial = (square.sqrt() / max(rows_of_all(examples), 1) for square in squares)
    return (of_kept / (of_adversarial + _LEAST)).clamp(max=_LARGEST)


def _gradient(value: Tensor, at: Tensor | None) -> Tensor | None:
    """That of the value; None where it does not depend on it."""
    if at is None or not at.requires_grad:
        return None
    gradient: Tensor | None = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)[0]
    return gradient


def _wide(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to(reference.compute_dtype(gradient.dtype))
