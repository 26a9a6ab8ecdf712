"""Ways through the latent space: from one example to another, and along the difference between two groups of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.checks import checked_number, checked_word
from vaekit.plots.drawing import draw_example, new_figure, value_limits
from vaekit.plots.models import conditions_of, in_evaluation_mode, on_device_of
from vaekit.plots.pictures import check_continuous
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 12
_MOST_STEPS = 100
PATHS = ("line", "great circle")


@in_evaluation_mode
def interpolations(
    vae: VAE, first: Tensor, second: Tensor, condition: Any = None, *, steps: int = 9, path: str = "line"
) -> Figure:
    """What lies between two examples: the decoded codes on the way from one's posterior mean to the other's, a row for each pair.

    Each row begins and ends with the examples themselves, beside their reconstructions.

    Args:
        vae: a model whose latents have a density.
        first, second: [N, *input_shape], N from 1 to 12: each row goes from first[i] to second[i].
        condition: of each pair, for a conditional model; one value stands for all.
        steps: how many codes, both ends included, 2 to 100.
        path: "line", or "great circle" (K. Shoemake, 1985; T. White, "Sampling Generative Networks", 2016, arXiv:1609.04468,
            section 2.1): under a normal prior a line between two codes of many dimensions passes nearer to the origin than
            draws ever come, a circle does not.

    Raises:
        ValueError: no pairs, too many, or not as many first as second; codes from a codebook; a number of steps out of range;
            another path.

    Example:
        >>> import vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), torch.rand(4, 1, 8, 8)
        >>> len(interpolations(vae, x[:2], x[2:], steps=5).axes)  # and the two examples of each row
        14
    """
    _check(vae, "interpolations", steps)
    if not 1 <= len(first) == len(second) <= _MOST_ROWS:
        raise ValueError(
            f"interpolations goes from as many examples as it goes to, 1 to {_MOST_ROWS}, got {len(first)} and {len(second)}"
        )
    checked_word("path", path, PATHS)
    first, second = on_device_of(vae, first), on_device_of(vae, second)
    start, end = vae.encode(first, condition).mean, vae.encode(second, condition).mean
    between = _line if path == "line" else _great_circle
    way = between(start, end, torch.linspace(0, 1, steps).to(start))
    title = f"from one example to another, along a {path}"
    return _rows(vae, way, condition, title, [f"{i / (steps - 1):.2f}" for i in range(steps)], first, second)


@in_evaluation_mode
def differences(
    vae: VAE, x: Tensor, having: Tensor, lacking: Tensor, condition: Any = None, *, steps: int = 7, most: float = 1.5
) -> Figure:
    """Latent arithmetic: examples moved along the difference between two groups, what one has and the other lacks.

    The direction is the mean code of `having` less that of `lacking` (A. B. L. Larsen et al., "Autoencoding beyond pixels using a
    learned similarity metric", 2016, arXiv:1512.09300, section 4.1): smiling faces less others, for example.

    Args:
        vae: a model whose latents have a density.
        x: [N, *input_shape], N from 1 to 12: a row for each.
        having, lacking: [M, *input_shape], the groups, of any sizes.
        condition: one value for all examples, for a conditional model.
        steps: how many multiples of the difference are added, 2 to 100, from -most to most.
        most: the largest multiple.

    Raises:
        ValueError: no examples, too many in x, or an empty group; codes from a codebook; a number of steps out of range.

    Example:
        >>> import vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), torch.rand(9, 1, 8, 8)
        >>> len(differences(vae, x[:2], x[2:5], x[5:], steps=3).axes)  # and the example of each row
        8
    """
    _check(vae, "differences", steps)
    if not 1 <= len(x) <= _MOST_ROWS:
        raise ValueError(f"differences draws 1 to {_MOST_ROWS} examples, one below the other, got {len(x)}; x[:5] for example")
    if not (len(having) and len(lacking)):
        raise ValueError(f"both groups need examples, got {len(having)} that have it and {len(lacking)} that lack it")
    checked_number("most", most, above=0.0)
    x = on_device_of(vae, x)
    means = [vae.encode(on_device_of(vae, group), condition).mean.mean(0) for group in (having, lacking)]
    multiples = torch.linspace(-most, most, steps).to(means[0])
    codes = vae.encode(x, condition).mean
    way = codes[:, None] + _along(multiples, codes) * (means[0] - means[1])
    title = "examples, and the difference between the groups so many times"
    return _rows(vae, way, condition, title, [f"{multiple:+.2f}" for multiple in multiples.tolist()], x)


def _line(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """start, end [N, *S], share [K] -> [N, K, *S]."""
    return torch.lerp(start[:, None], end[:, None], _along(share, start))


def _great_circle(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """start, end [N, *S], share [K] -> [N, K, *S]; a line where the codes point in one direction, or in opposite ones."""
    a, b = start.flatten(1).double(), end.flatten(1).double()
    angle = torch.acos((torch.cosine_similarity(a, b, dim=1)).clamp(-1, 1))[:, None, None]
    t = share.double()[:, None]
    sine = angle.sin()
    is_straight = sine < 1e-6
    sine = torch.where(is_straight, 1.0, sine)
    first = torch.where(is_straight, 1 - t, ((1 - t) * angle).sin() / sine)
    second = torch.where(is_straight, t, (t * angle).sin() / sine)
    way = first * a[:, None] + second * b[:, None]
    return way.to(start.dtype).reshape(len(start), len(share), *start.shape[1:])


def _along(share: Tensor, codes: Tensor) -> Tensor:
    """[K] with axes for those of a code: [K, 1, ...]."""
    return share.reshape(-1, *(1 for _ in codes.shape[1:]))


def _rows(vae: VAE, way: Tensor, condition: Any, title: str, ticks: list[str], *examples: Tensor) -> Figure:
    """The decoded codes [N, K, *S] of each row between its examples; the second, where there is one, at the end."""
    count, steps = way.shape[:2]
    conditions = conditions_of(vae, condition, count)
    conditions = None if conditions is None else conditions.repeat_interleave(steps, 0)
    decoded = vae.decode(way.flatten(0, 1), conditions).reshape(count, steps, *vae.input_shape)
    support = vae.likelihood.support
    limits = value_limits(support.lowest, support.highest, decoded, *examples)
    columns = steps + len(examples)
    figure = new_figure(max(1.1 * columns, 4.0), 1.15 * count + 1.0)
    panels = figure.subplots(count, columns, squeeze=False)
    for number, row in enumerate(panels):
        shown = [examples[0][number], *decoded[number], *(end[number] for end in examples[1:])]
        for axes, example in zip(row, shown, strict=True):
            draw_example(axes, example, limits)
    labels = ["example", *ticks, *("example" for _ in examples[1:])]
    for axes, label in zip(panels[-1], labels, strict=True):
        axes.set_xlabel(label)
    figure.suptitle(title)
    return figure


def _check(vae: VAE, picture: str, steps: int) -> None:
    check_continuous(vae, picture)
    if not 2 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps has to be between 2 and {_MOST_STEPS}, got {steps}")
