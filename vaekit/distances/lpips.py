"""LPIPS, the distance of a classifier's features with weights that were fitted to people's judgements.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
2018, arXiv:1801.03924.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from vaekit.checks import checked_word
from vaekit.distances.base import Distance, registry
from vaekit.distances.frozen import Frozen
from vaekit.distances.similarity import checked_range
from vaekit.schedules import Schedule

_OWN = 'or give a network of your own: {"name": "features", "network": ...}'


@registry.register("lpips")
class LPIPS(Distance):
    """LPIPS, by its authors' package: features of a network that was trained on ImageNet, weighted as people judge.

    Use it for photographs, of at least 32 pixels a side. It costs two passes of the batch through that network and one back.

    The package (`pip install "vaekit[perceptual]"`) has the weights of the judgements; those of the network, 10 to 500 MB, come
    from download.pytorch.org when it is first used, and stay in torch's cache. They are neither trained nor saved with the model.

    Zhang et al., 2018, arXiv:1801.03924.

    Args:
        network: "vgg", which latent diffusion trains with, "alex" or "squeeze".
        value_range: what black and white are in the data. Grey pictures are shown as colours.
        weight: as of every distance.

    Raises:
        ValueError: another word; pictures of other than 1 or 3 channels, when it is first used.
        ModuleNotFoundError, OSError: when it is first used, the package or the network's weights are not there.

    Example:
        >>> LPIPS(network="alex", value_range=(-1.0, 1.0)).network
        'alex'
    """

    def __init__(
        self,
        network: str = "vgg",
        value_range: Sequence[float] = (0.0, 1.0),
        weight: float | Schedule | Mapping[str, Any] = 1.0,
    ) -> None:
        super().__init__(weight)
        self.network = checked_word("network", network, ("vgg", "alex", "squeeze"))
        self.value_range = checked_range(value_range)
        self._frozen = Frozen(self._load)

    def forward(self, made: Tensor, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS is for grey or colour pictures [batch, 1 or 3, height, width], got {list(x.shape)}")
        network = self._frozen.for_data(x)
        low, high = self.value_range
        shown = [(2.0 * (one - low) / (high - low) - 1.0).expand(-1, 3, -1, -1) for one in (made, x)]
        apart: Tensor = network(*shown)
        return apart.flatten()

    def _load(self) -> nn.Module:
        try:
            package = importlib.import_module("lpips")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the distance 'lpips' is its authors' package: pip install 'vaekit[perceptual]'; {_OWN}", name=error.name
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchvision's, of the package's way to name weights
                network: nn.Module = package.LPIPS(net=self.network, verbose=False)
        except (URLError, ConnectionError, TimeoutError) as error:
            raise OSError(
                f"the weights of LPIPS's network {self.network!r} are not in {torch.hub.get_dir()}/checkpoints and could not be "
                f"downloaded ({error}); put the file there that torchvision names, run this once with a network, {_OWN}"
            ) from error
        return network
