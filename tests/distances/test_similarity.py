"""MS-SSIM as a term: the metric's own numbers, closed forms, and gradients where similarities are negative."""

import pytest
import torch
from torch.testing import assert_close

from vaekit.distances import MultiScaleSSIM
from vaekit.distances.similarity import checked_range, least_side, similarity

torchmetrics = pytest.importorskip("torchmetrics.functional.image", reason="pip install 'vaekit[metrics]'")
X, MADE = (torch.rand(3, 2, 48, 44, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))


def test_of_one_scale_it_is_1_less_ssim():
    expected = torchmetrics.structural_similarity_index_measure(MADE, X, data_range=2.0, reduction="none")
    assert_close(MultiScaleSSIM(1, value_range=(-1.0, 1.0))(MADE, X), 1.0 - expected)


def test_of_constant_pictures_it_is_the_closed_form_of_their_luminance():
    """Contrast and structure are equal, so that the last scale's luminance is left, halved with its weight."""
    white, grey, c1 = 0.8, 0.5, 0.01**2
    luminance = (2 * white * grey + c1) / (white**2 + grey**2 + c1)
    x = torch.full((2, 1, 44, 44), white, dtype=torch.float64)
    assert_close(MultiScaleSSIM(1)(x * grey / white, x), torch.full((2,), 1.0 - luminance, dtype=torch.float64))
    weight = 0.3001 / (0.0448 + 0.2856 + 0.3001)
    expected = 1.0 - ((1.0 + luminance) / 2.0) ** weight
    assert_close(MultiScaleSSIM(3)(x * grey / white, x), torch.full((2,), expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_it_is_0_for_equal_pictures_and_has_a_gradient_for_opposite_ones(scales):
    distance = MultiScaleSSIM(scales)
    assert distance(X, X).abs().max() < 1e-6
    made = (1.0 - X).requires_grad_()  # contrasts are the opposite of those of x at the finest scale
    assert similarity(made.detach(), X, 1.0, 1).max() < 0
    apart = distance(made, X)
    apart.sum().backward()
    assert (apart > 0.1).all()
    assert made.grad.isfinite().all()
    assert made.grad.any()


@pytest.mark.parametrize("scales", [1, 2, 3, 4, 5])
def test_smaller_pictures_than_have_a_window_at_every_scale_are_refused(scales):
    least = least_side(scales)
    picture = torch.rand(1, 1, least, least)
    assert MultiScaleSSIM(scales)(picture, picture).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {least} pixels a side"):
        MultiScaleSSIM(scales)(picture[..., 1:], picture[..., 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": 0}, "scales has to be a whole number of at least 1, got 0"),
        ({"scales": 6}, "scales has to be 1 to 5, got 6"),
        ({"value_range": (1.0, 0.0)}, r"value_range has to be \(black, white\)"),
        ({"value_range": 1.0}, r"value_range has to be \(black, white\)"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleSSIM(**options)
    assert checked_range([-1, 1]) == (-1.0, 1.0)
