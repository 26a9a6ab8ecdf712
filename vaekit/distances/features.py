"""Distances of the features that a network gives of two pictures.

- J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", 2016,
  arXiv:1603.08155, equation 2; in a VAE: X. Hou, L. Shen, K. Sun, G. Qiu, "Deep Feature Consistent Variational Autoencoder",
  2017, arXiv:1610.00291.
- Of features of unit length: R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep
  Features as a Perceptual Metric", 2018, arXiv:1801.03924, equation 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.checks import checked_flag, checked_word
from vaekit.distances.base import Distance, registry
from vaekit.distances.frozen import Frozen
from vaekit.schedules import Schedule

_LEAST_LENGTH = 1e-10  # of a feature vector that is made one of length 1, as in the authors' code


class FeatureDistance(Distance):
    """The distance of the features that a frozen network gives of the reconstruction and of the original.

    A class of one's own gives `make_network`, where it loads weights from wherever they are; registered, a model that has it can
    be saved, by its options, and loaded. The network is made when it is first needed. Its weights are neither trained nor saved.

    Args:
        weight: as of every `vaekit.distances.Distance`.
        unit_length: make each feature vector, the channels at one position, one of length 1, as LPIPS does: the squares are then
            summed over channels, and the distance does not depend on how strong features are. Otherwise they are means, as in
            Johnson et al.
        norm: "l2", the squares of differences, or "l1", their absolute values.

    Raises:
        TypeError, ValueError: invalid options.

    Example:
        >>> import torch, vaekit
        >>> @vaekit.distances.register("differences")
        ... class Differences(FeatureDistance):
        ...     "Of the differences of neighbours."
        ...     def __init__(self, weight=1.0):
        ...         super().__init__(weight, unit_length=False)
        ...     def make_network(self):
        ...         return lambda x: [x.diff(dim=-1), x.diff(dim=-2)]
        >>> Differences()(torch.zeros(1, 1, 2, 2), torch.eye(2).view(1, 1, 2, 2))
        tensor([2.])
    """

    def __init__(self, weight: float | Schedule | Mapping[str, Any] = 1.0, *, unit_length: bool = True, norm: str = "l2") -> None:
        super().__init__(weight)
        self.unit_length = checked_flag("unit_length", unit_length)
        self.norm = checked_word("norm", norm, ("l2", "l1"))
        self._network = Frozen(self.make_network)

    @abstractmethod
    def make_network(self) -> Callable[[Tensor], Tensor | Sequence[Tensor]]:
        """The network: of pictures [B, *S] one feature map [B, channels, *positions], or several; called once."""

    def forward(self, made: Tensor, x: Tensor) -> Tensor:
        network = self._network.for_data(x)
        with torch.no_grad():
            wanted = _maps(network(x), len(x))
        given = _maps(network(made), len(x))
        distances = [self._of_maps(one, other) for one, other in zip(given, wanted, strict=True)]
        return torch.stack(distances).sum(0)

    def _of_maps(self, made: Tensor, wanted: Tensor) -> Tensor:
        if self.unit_length:
            made, wanted = (F.normalize(features, dim=1, eps=_LEAST_LENGTH) for features in (made, wanted))
        difference = made - wanted
        apart = difference.square() if self.norm == "l2" else difference.abs()
        apart = apart.sum(1, keepdim=True) if self.unit_length else apart
        return apart.flatten(1).mean(1)


def _maps(features: Any, rows: int) -> list[Tensor]:
    maps = [features] if isinstance(features, Tensor) else list(features) if isinstance(features, (list, tuple)) else []
    if not maps or any(not isinstance(one, Tensor) or one.ndim < 2 or len(one) != rows for one in maps):
        raise ValueError(
            f"a network of features has to give one tensor [{rows}, channels, ...] of {rows} pictures, or a list of them, got "
            f"{[tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in maps] or type(features).__name__}"
        )
    return maps


@registry.register("features")
class Features(FeatureDistance):
    """The distance of the features of a network that is given: a perceptual loss.

    Pixels that differ everywhere by a little are far apart for a squared error, and the same for the eye; features of a network
    that was trained to recognise something see what the eye sees.

    Use it with a network that was trained on pictures like yours: a classifier's layers before the last, or those of another
    autoencoder. It costs two passes of the batch through that network and one back. torch.compile traces it.

    A network is an object, and a model with one cannot be saved by its options: `vaekit.distances.FeatureDistance` is what to
    extend, and register, for one that can.

    Johnson et al., 2016, arXiv:1603.08155; Zhang et al., 2018, arXiv:1801.03924.

    Args:
        network: a torch module, of which a frozen copy in evaluation mode is used, or a function: of pictures [B, *S] one feature
            map [B, channels, *positions], or several.
        weight, unit_length, norm: as of `vaekit.distances.FeatureDistance`.

    Raises:
        TypeError: a network that cannot be called.

    Example:
        >>> import torch
        >>> network = torch.nn.Conv2d(1, 4, 3)
        >>> distance, x = Features(network, unit_length=False), torch.rand(2, 1, 8, 8)
        >>> expected = (network(0.5 * x) - network(x)).square().flatten(1).mean(1)
        >>> torch.allclose(distance(0.5 * x, x), expected)
        True
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor | Sequence[Tensor]],
        weight: float | Schedule | Mapping[str, Any] = 1.0,
        unit_length: bool = True,
        norm: str = "l2",
    ) -> None:
        if not callable(network):
            raise TypeError(f"network has to be a torch module or a function of pictures, got {network!r}")
        super().__init__(weight, unit_length=unit_length, norm=norm)
        self._given = (network,)  # in a tuple: its weights are not the model's

    def make_network(self) -> Callable[[Tensor], Tensor | Sequence[Tensor]]:
        return self._given[0]
