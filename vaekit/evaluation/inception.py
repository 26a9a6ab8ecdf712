"""The features of Inception, in which FID and KID are published: torchmetrics' network, behind the extra `inception`.

C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015, arXiv:1512.00567, with the weights of
M. Heusel et al., 2017, arXiv:1706.08500, as torch-fidelity (https://github.com/toshas/torch-fidelity) has them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.distances.similarity import checked_range, torchmetrics

LAYERS = ("64", "192", "768", "2048")
_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_HASH = "6726825d"  # with which its SHA-256 begins
_INSTEAD = "or give `features` a network of your own"


def inception_features(
    layer: int = 2048,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    weights: str | os.PathLike[str] | None = None,
) -> Callable[[Tensor], Tensor]:
    """What gives pictures the features of Inception: `features` of `sample_quality`, whose FID and KID then are torchmetrics'.

    It is for photographs: what it learned to tell apart are a thousand things of ImageNet. Pictures become bytes and are resized
    to 299 x 299; grey ones are shown as colours, and values outside the range are clipped.

    Args:
        layer: of how many numbers, 64, 192, 768 or 2048. FID is published with 2048, and needs more pictures than numbers.
        value_range: what black and white are in the data.
        weights: a file of them; by default the one in torch's cache, where it is downloaded to once, 91 MB.

    Returns:
        A function of pictures [N, 1 or 3, H, W] -> [N, layer], on their device.

    Raises:
        ModuleNotFoundError: torchmetrics or torch-fidelity is not installed.
        OSError: the weights are not there and cannot be downloaded.
        ValueError: another layer; pictures of other than 1 or 3 channels, when it is called.

    Example:
        >>> vae = vaekit.load("run/best")  # doctest: +SKIP
        >>> vaekit.evaluation.sample_quality(vae, photographs, features=inception_features())  # doctest: +SKIP
    """
    name = checked_word("layer", str(layer), LAYERS)
    low, high = checked_range(value_range)
    module = torchmetrics("image.fid")
    try:
        importlib.import_module("torch_fidelity")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Inception is torch-fidelity's: pip install 'vaekit[inception]', {_INSTEAD}", name=error.name
        ) from error
    network = module.NoTrainInceptionV3("inception-v3-compat", [name], str(_weights_file(weights)))

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"Inception is for grey or colour pictures [batch, 1 or 3, height, width], got {list(x.shape)}; give `features` "
                "another network"
            )
        shown = ((x - low) / (high - low)).clamp(0.0, 1.0).expand(-1, 3, -1, -1)
        found: Tensor = network.to(x.device)((shown * 255).byte())  # as torchmetrics makes bytes of pictures in [0, 1]
        return found

    return features


def _weights_file(given: str | os.PathLike[str] | None) -> Path:
    """The file, which holds tensors alone: torch-fidelity reads it as a pickle that may run anything."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(_URL).name
    file = cached if given is None else Path(given)
    if given is None and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(_URL, str(file), hash_prefix=_HASH)
        except OSError as error:
            raise OSError(
                f"the weights of Inception are not at {file} and could not be downloaded ({error}); put the file there that "
                f"{_URL} is, name another by weights=, {_INSTEAD}"
            ) from error
    torch.load(file, map_location="meta", weights_only=True)
    return file
