"""Batch normalisation of a batch that several processes hold is PyTorch's of the whole batch."""

import copy

import pytest
import torch
from helpers.ranks import process_group, results
from torch import distributed, nn

from vaekit.batch_norm import BatchNorm, normalising_over_all_processes
from vaekit.data import share
from vaekit.gathering import Ranks

LAYERS = {
    "vectors": (nn.BatchNorm1d(3), (7, 3)),
    "series": (nn.BatchNorm1d(3, momentum=None), (7, 3, 5)),
    "images": (nn.BatchNorm2d(3, affine=False), (7, 3, 4, 2)),
    "volumes": (nn.BatchNorm3d(3, track_running_stats=False), (1, 3, 2, 2, 2)),
    "no averages, evaluated": (nn.BatchNorm1d(3, track_running_stats=False).eval(), (7, 3)),
    "averages, evaluated": (nn.BatchNorm1d(3).eval(), (7, 3)),
    "ours": (BatchNorm(3, eps=0.1, momentum=0.3), (7, 3, 2)),
    "bfloat16": (nn.BatchNorm1d(3), (7, 3, 50)),
}


def passed(name, ranks):
    """What two passes of a process's rows gave, with gradients."""
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    generator = torch.Generator().manual_seed(2)
    batches = 3.0 + 2.0 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    slopes = torch.randn(shape, dtype=torch.float64, generator=generator)
    if name == "bfloat16":
        layer, batches = layer.float(), batches.bfloat16()
    own = share(shape[0], ranks.rank, ranks.world)
    kind = type(layer)
    with normalising_over_all_processes(layer):
        for x in batches:
            x = x[own].requires_grad_()
            with ranks.holding([len(slopes[share(shape[0], rank, ranks.world)]) for rank in range(ranks.world)]):
                y = layer(x)
            (y * slopes[own]).sum().backward()
    assert type(layer) is kind
    weights = [p.grad for p in layer.parameters()]
    for gradient in weights:
        ranks.add_up(gradient)
    return {"rows": [y.detach(), x.grad], "all": [*weights, *layer.buffers()]}


def work():
    with process_group():
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
        seen = {name: passed(name, ranks) for name in LAYERS}
        with ranks.holding((1, 0)), pytest.raises(ValueError, match=r"a batch of \(1, 3\) has one value for each feature"):
            BatchNorm(3)(torch.zeros(1 - ranks.rank, 3))
        return seen


@pytest.fixture(scope="module")
def seen():
    return results(work, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_normalises_by_the_whole_batch(name, seen):
    whole = passed(name, Ranks())
    each = [of_rank[name] for of_rank in seen]
    close = {"rtol": 0.02, "atol": 0.02} if name == "bfloat16" else {"rtol": 1e-10, "atol": 1e-10}
    for number, value in enumerate(whole["rows"]):
        torch.testing.assert_close(torch.cat([one["rows"][number] for one in each]), value, **close)
    for one in each:
        torch.testing.assert_close(one["all"], whole["all"], **close)


def test_a_batch_normalisation_of_a_strangers_is_refused():
    class Strange(nn.BatchNorm1d):
        pass

    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(Strange(3)))
    with pytest.raises(TypeError, match="1.0 is a Strange, which would normalise by the rows of one process alone"):
        with normalising_over_all_processes(model):
            pass
    assert type(model[0]) is nn.BatchNorm1d
