"""The mean of a discretised logistic, a sum over its levels, against SciPy's sigmoids added one by one."""

import numpy as np
import pytest
import torch
from helpers.memory import LargestTensor
from scipy.special import expit
from torch.utils._python_dispatch import TorchDispatchMode

from vaekit.likelihoods import DiscretizedLogistic

LOG_SCALES = [-60.0, -12.0, -9.0, -6.0, -5.3, -4.9, -4.6, -4.0, -3.5, -3.4, -2.85, -2.0, 0.0, 1.0, 3.0, 10.0, 60.0, 200.0]
MEANS = [-1e4, -30.0, -1.5, -1.003, -1.0, -0.997, -0.3, 0.0, 0.00392, 0.5, 0.999, 1.0, 1.01, 3.0, 1e3]


def table(dtype=torch.float32):
    """Natural parameters [N, 3, 1] of one component: each mean with each scale."""
    rows = [(0.0, mean, log_scale) for mean in MEANS for log_scale in LOG_SCALES]
    return torch.tensor(rows, dtype=dtype)[..., None].requires_grad_()


def exact(parameters, levels):
    """The mean and its derivatives by the place and the log scale, in float64: [N, 3]."""
    place, log_scale = parameters.detach().double().numpy()[:, 1:, 0].T[:, :, None]
    edges = (2.0 * np.arange(1, levels) - levels) / (levels - 1)
    distance, precision = place - edges, np.exp(-log_scale)
    with np.errstate(over="ignore", invalid="ignore"):
        inside = expit(distance * precision)
        slope = inside * expit(-distance * precision)
        by_log_scale = np.where(slope == 0.0, 0.0, -slope * distance * precision)
        terms = np.stack([inside, slope * precision, by_log_scale], -1)
    return torch.from_numpy(terms.sum(1) / (levels - 1))


@pytest.mark.parametrize("levels", [2, 5, 36, 37, 64, 256, 1024, 65536])
def test_the_mean_is_the_sum_of_the_chances_of_reaching_each_level(levels):
    parameters = table()
    got = DiscretizedLogistic(1, levels).mean(parameters)[:, 0].double()
    expected = exact(parameters, levels)[:, 0]
    # What the rounding of the scaled distance changes where a step is far larger than a scale: at most one level's chance.
    slack = 4e-7 + 1e-6 * (parameters.detach()[:, 1, 0].abs() * torch.exp(-parameters.detach()[:, 2, 0])).clamp(max=1e6) / levels
    assert ((got - expected).abs() <= slack.double()).all()


@pytest.mark.parametrize("levels", [64, 256])
def test_its_derivatives_are_those_of_the_sum(levels):
    parameters = table()
    got = torch.autograd.grad(DiscretizedLogistic(1, levels).mean(parameters).sum(), parameters)[0][:, 1:, 0].double()
    expected = exact(parameters, levels)[:, 1:]
    ordinary = parameters.detach()[:, 2, 0] > -7.0  # below, the rounding of a distance decides
    assert ordinary.any()
    torch.testing.assert_close(got[ordinary], expected[ordinary], rtol=2e-3, atol=2e-4)


def test_it_takes_no_more_passes_for_more_levels_and_no_more_memory_than_its_parameters():
    class Operations(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    parameters, counts = table().detach(), []
    for levels in (64, 256, 1024):
        with Operations() as operations, LargestTensor() as largest:
            DiscretizedLogistic(1, levels).mean(parameters)
        counts.append(operations.count)
        assert largest.elements <= parameters.numel()
    assert counts[0] == counts[1] == counts[2]
