"""Structural similarity, at one scale or several: the one place where it comes from torchmetrics.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
2004; Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-Scale Structural Similarity for Image Quality Assessment", 2003; as an
objective: H. Zhao, O. Gallo, I. Frosio, J. Kautz, "Loss Functions for Image Restoration with Neural Networks", 2017,
arXiv:1511.08861.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vaekit.checks import checked_size
from vaekit.distances.base import Distance, registry
from vaekit.schedules import Schedule

WINDOW = 11  # pixels, of Wang et al.
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the weights of five scales


def torchmetrics(module: str) -> Any:
    """A module of torchmetrics.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(f"torchmetrics.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("these figures are torchmetrics': pip install 'vaekit[metrics]'", name=error.name) from error


def least_side(scales: int) -> int:
    """The least height and width of pictures whose similarity has a value at so many scales.

    The window has to fit at the coarsest of them; of four torchmetrics asks for a little more.

    Example:
        >>> [least_side(scales) for scales in (1, 2, 3, 4, 5)]
        [11, 22, 44, 99, 176]
    """
    return max(1 << (scales - 1), (scales - 1) * (scales - 1)) * WINDOW


def similarity(made: Tensor, x: Tensor, span: float, scales: int = 1, *, halved: bool = False) -> Tensor:
    """SSIM of one scale, MS-SSIM of five, for each picture: [B, C, H, W] twice -> [B], 1 for equal ones.

    Args:
        made, x: the pictures.
        span: the difference of white and black.
        scales: up to 5; of fewer the weights are made a sum of 1.
        halved: take (1 + s) / 2 for each scale's s in MS-SSIM, which has a root and a gradient where s is negative; otherwise a
            negative one counts as 0.
    """
    functional = torchmetrics("functional.image")
    if scales == 1:
        one: Tensor = functional.structural_similarity_index_measure(made, x, data_range=span, reduction="none")
        return one
    betas = _BETAS[:scales]
    several: Tensor = functional.multiscale_structural_similarity_index_measure(
        made,
        x,
        data_range=span,
        reduction="none",
        betas=betas if scales == len(_BETAS) else tuple(beta / sum(betas) for beta in betas),
        normalize="simple" if halved else "relu",
    )
    return several


def checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    """(black, white) as two numbers.

    Raises:
        ValueError: they are not, or not in that order.
    """
    numbers = isinstance(value_range, Sequence) and all(isinstance(value, (int, float)) for value in value_range)
    low, high = (float(value) for value in value_range) if numbers and len(value_range) == 2 else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range has to be (black, white), two finite numbers, the first below the other, got {value_range!r}"
        )
    return low, high


@registry.register("ms_ssim")
class MultiScaleSSIM(Distance):
    """1 - MS-SSIM: how different structures are, at several scales, by windows of 11 x 11 pixels.

    Of one scale it is 1 - SSIM. Of several, each scale's similarity s counts as (1 + s) / 2, so that a negative one has a
    gradient; `vaekit.evaluation.reconstruction_quality` gives MS-SSIM as it was published. It needs no network.

    Use it where contrast and edges matter more than values, beside a likelihood that sees colours: alone it does not notice a
    shift of them. It costs five convolutions with that window for each scale. Needs torchmetrics, `pip install
    "vaekit[metrics]"`.

    Wang et al., 2003; Zhao et al., 2017, arXiv:1511.08861.

    Args:
        scales: 1 to 5, for which sides have to be at least 11, 22, 44, 99 and 176. The weights are Wang's, of fewer
            made a sum of 1.
        value_range: what black and white are in the data.
        weight: as of every distance.

    Raises:
        ValueError: other scales, or no such range; pictures that are too small, when it is used.
        ModuleNotFoundError: torchmetrics is not installed, when it is used.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 3, 44, 44)
        >>> MultiScaleSSIM(scales=3)(x, x).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self,
        scales: int = 3,
        value_range: Sequence[float] = (0.0, 1.0),
        weight: float | Schedule | Mapping[str, Any] = 1.0,
    ) -> None:
        super().__init__(weight)
        self.scales = checked_size("scales", scales)
        if self.scales > len(_BETAS):
            raise ValueError(f"scales has to be 1 to {len(_BETAS)}, got {scales}")
        self.value_range = checked_range(value_range)

    def forward(self, made: Tensor, x: Tensor) -> Tensor:
        least = least_side(self.scales)
        if x.ndim != 4 or min(x.shape[2:]) < least:
            raise ValueError(
                f"the similarity at {self.scales} scale(s) is of pictures [batch, channels, height, width] of at least {least} "
                f"pixels a side, got {list(x.shape)}; give it fewer scales"
            )
        low, high = self.value_range
        if not len(x):
            return x.new_zeros(0)
        return 1.0 - similarity(made, x, high - low, self.scales, halved=True)
