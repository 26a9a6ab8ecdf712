"""How good pictures are: reconstructions beside their originals, and samples beside the data.

Distances of reconstructions and of features are torchmetrics' (https://lightning.ai/docs/torchmetrics), the extra `metrics`.

- SSIM: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
  Similarity", 2004; over several scales: Z. Wang, E. P. Simoncelli, A. C. Bovik, 2003.
- FID: M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
  arXiv:1706.08500. KID: M. Bińkowski et al., "Demystifying MMD GANs", 2018, arXiv:1801.01401.
- Precision and recall: T. Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
  arXiv:1904.06991, equation 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.data import Batch
from vaekit.distances.similarity import checked_range, least_side, similarity, torchmetrics
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.inputs import check_model, checked_batches
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.vae import VAE

Features = Callable[[Tensor], Tensor]

_AT_ONCE = 256  # pictures
_KID_SUBSET, _KID_SUBSETS = 1000, 100  # as in the paper
_DISTANCES_AT_ONCE = 1 << 22


@torch.no_grad()
def reconstruction_quality(vae: VAE, data: Any, *, value_range: tuple[float, float] = (0.0, 1.0)) -> dict[str, float]:
    """How near reconstructions are to their pictures, for the eye: the means over pictures of PSNR, SSIM and multi-scale SSIM.

    Args:
        vae: a model of pictures [C, H, W]; it stays on its device. Its reconstruction is the decoded posterior mean.
        data: what `vaekit.evaluate` takes.
        value_range: what black and white are in the data. Reconstructions are clipped to it, as they are when they are shown.

    Returns:
        "psnr" in decibels, 10 log10(range^2 / MSE) of each picture: infinity where one is reproduced exactly. "ssim", 1 for equal
        pictures, with Wang's 11 x 11 window, where both sides have 11 pixels. "ms_ssim", where both have 176, with the
        weights of its five scales.

    Raises:
        ModuleNotFoundError: torchmetrics is not installed.
        ValueError: data that are no pictures, have missing values or lie outside the range, or that does not fit the model.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("conv-mnist", seed=0)
        >>> sorted(reconstruction_quality(vae, torch.rand(8, 1, 28, 28)))
        ['psnr', 'ssim']
    """
    torchmetrics("functional.image")
    low, high = checked_range(value_range)
    _check_pictures(vae)
    side = min(vae.input_shape[1:])
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": _psnr(high - low)}
    for name, scales in (("ssim", 1), ("ms_ssim", 5)):
        if side >= least_side(scales):
            measures[name] = partial(similarity, span=high - low, scales=scales)
    sums, count = dict.fromkeys(measures, 0.0), 0
    for batch in _pictures(vae, data):
        x = _checked_values(batch.x, low, high).double()
        with evaluation_mode(vae):
            made = vae.reconstruct(batch.x, batch.condition).clamp(low, high).double()
        for name, measure in measures.items():
            sums[name] += float(measure(made, x).sum())
        count += len(x)
    return {name: total / count for name, total in sums.items()}


class SampleQuality(NamedTuple):
    """How like the data samples are.

    Attributes:
        fid: Fréchet distance of Gaussians fitted to the features: 0 for equal means and covariances. It is larger for fewer
            examples: compare figures of equal counts, in equal features.
        kid: squared maximum mean discrepancy of the features under the kernel (f . g / D + 1)^3, without bias, so that it may be
            below 0: of all, or above 1,000 examples the mean over 100 subsets of 1,000.
        precision: the share of samples that lie within the data: nearer to some example than its k-th neighbour.
        recall: the share of the data that lies within the samples.
        examples: how many, and how many samples.
    """

    fid: float
    kid: float
    precision: float
    recall: float
    examples: int


@torch.no_grad()
def sample_quality(
    vae: VAE, data: Any, *, features: Features | VAE, neighbours: int = 3, draw: bool = False, seed: int = 0
) -> SampleQuality:
    """Samples beside the data, in the features of a network: FID, KID, precision and recall.

    As many samples are drawn as there are examples, of a conditional model under the examples' conditions.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes: held-out examples as a rule.
        features: what gives [N, ...] numbers of pictures [N, *input_shape], on the model's device: a classifier without its
            last layer, for example, or `inception_features()`. A module is called in evaluation mode. A model of this library
            stands for its encoder: the means of its posteriors.
        neighbours: k of precision and recall.
        draw: draw from the likelihood as well, instead of taking its mean.
        seed: of the samples, and of the subsets.

    Raises:
        ModuleNotFoundError: torchmetrics is not installed.
        TypeError: features that are neither a function nor a model, or those of a conditional one.
        ValueError: not more examples than neighbours; features that are not finite numbers for each picture; data that does not
            fit the model.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("conv-mnist", seed=0)
        >>> sample_quality(vae, torch.rand(50, 1, 28, 28), features=lambda x: x.mean(-1).flatten(1)).examples
        50
    """
    torchmetrics("image.fid")
    network, key = _as_features(features), evaluation_key(seed).to(vae.device)
    real, made = [], []
    for number, batch in enumerate(_pictures(vae, data)):
        of_this = philox.fold_in(key, number)
        samples = vae.sample(len(batch.x), batch.condition, draw=draw, key=of_this)
        real.append(_checked_features(network(batch.x), len(batch.x)))
        made.append(_checked_features(network(samples), len(batch.x)))
    return feature_distances(torch.cat(real), torch.cat(made), neighbours=neighbours, seed=seed)


def feature_distances(real: Tensor, made: Tensor, *, neighbours: int = 3, seed: int = 0) -> SampleQuality:
    """The distances of `sample_quality` between features that are there already: real [N, D] and made [N, D].

    Raises:
        ModuleNotFoundError: torchmetrics is not installed.
        ValueError: features of other shapes, or not more of them than neighbours.

    Example:
        >>> features = torch.arange(20.0).reshape(10, 2)
        >>> same = feature_distances(features, features)
        >>> abs(same.fid) < 1e-4, same.precision, same.recall
        (True, 1.0, 1.0)
    """
    if real.ndim != 2 or real.shape != made.shape:
        raise ValueError(f"features have to be [N, D], as many made as real, got {list(real.shape)} and {list(made.shape)}")
    k, count = checked_size("neighbours", neighbours), len(real)
    if count <= k:
        raise ValueError(f"the {k} nearest neighbours of an example are among more than {k} examples, got {count}")
    real, made = real.double(), made.double()
    fid = (
        torchmetrics("image.fid").FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64).to(real.device)
    )
    subsets, size = (_KID_SUBSETS, _KID_SUBSET) if count > _KID_SUBSET else (1, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features, which are here already
        kid = torchmetrics("image.kid").KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=subsets, subset_size=size)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(made, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kernel_distance = kid.compute()[0]
    precision, recall = _share_within(made, real, k), _share_within(real, made, k)
    return SampleQuality(float(fid.compute()), float(kernel_distance), precision, recall, count)


class _Given(nn.Module):
    """What stands for Inception in torchmetrics: features are given instead of pictures."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _share_within(points: Tensor, others: Tensor, k: int) -> float:
    """The share of the points that lie in a ball around one of the others that reaches to its k-th neighbour."""
    rows = max(1, _DISTANCES_AT_ONCE // len(others))
    to_itself = 1  # its nearest neighbour is itself
    radius = torch.cat([torch.cdist(part, others).kthvalue(k + to_itself, dim=1).values for part in others.split(rows)])
    inside = [(torch.cdist(part, others) <= radius).any(1) for part in points.split(rows)]
    return float(torch.cat(inside).double().mean())


def _psnr(span: float) -> Callable[[Tensor, Tensor], Tensor]:
    def of(made: Tensor, x: Tensor) -> Tensor:
        return 10 * torch.log10(span**2 / (made - x).square().flatten(1).mean(1))

    return of


def _pictures(vae: VAE, data: Any) -> Iterator[Batch]:
    return on_device(vae, checked_batches(vae, data, _AT_ONCE))


def _check_pictures(vae: VAE) -> None:
    check_model(vae)
    if len(vae.input_shape) != 3:
        raise ValueError(
            f"pictures are [channels, height, width], but the model's examples are {list(vae.input_shape)}; "
            "vaekit.evaluation.reconstruction_error is for other data"
        )


def _checked_values(x: Tensor, low: float, high: float) -> Tensor:
    if x.isnan().any():
        raise ValueError("PSNR and SSIM need whole pictures, but some values are missing; reconstruction_error leaves them out")
    if x.min() < low or x.max() > high:
        raise ValueError(
            f"pictures have to lie in value_range, ({low:g}, {high:g}), got values from {x.min():g} to {x.max():g}; "
            "say what black and white are: value_range=(-1.0, 1.0), for example"
        )
    return x


def _as_features(features: Features | VAE) -> Features:
    if isinstance(features, VAE):
        encoder = features
        if encoder.condition is not None:
            raise TypeError(
                "features are those of pictures alone, and the encoder of a conditional model asks for a condition too"
            )

        def means(x: Tensor) -> Tensor:
            with evaluation_mode(encoder):
                return encoder.encode(x).mean.flatten(1)

        return means
    if isinstance(features, nn.Module):
        module = features

        def called(x: Tensor) -> Tensor:
            with evaluation_mode(module):
                given: Tensor = module(x)
            return given

        return called
    if not callable(features):
        raise TypeError(f"features has to be a network, a function of pictures or a VAE, got {features!r}")
    return features


def _checked_features(features: Any, count: int) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != count:
        got = f"shape {list(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features has to give a row of numbers for each of {count} pictures, [{count}, D], got {got}")
    if not features.isfinite().all():
        raise ValueError("features has to give finite numbers, got NaN or infinity")
    return features.detach().flatten(1).double()
