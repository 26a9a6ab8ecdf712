"""Weights from a seed: every way to draw gives what torch.manual_seed gives, and leaves the global generator alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vaekit.seeding import drawing_from

ONES = torch.ones(40)
DRAWS = {
    "rand": lambda: torch.rand(5),
    "randn": lambda: torch.randn(5, dtype=torch.float64),
    "randint": lambda: torch.randint(0, 9, (5,)),
    "randperm": lambda: torch.randperm(9),
    "normal": lambda: torch.normal(0.0, 1.0, (5,)),
    "rand_like": lambda: torch.rand_like(ONES),
    "randn_like": lambda: torch.randn_like(ONES),
    "randint_like": lambda: torch.randint_like(ONES, 9),
    "bernoulli": lambda: torch.bernoulli(0.5 * ONES),
    "multinomial": lambda: torch.multinomial(ONES, 3),
    "poisson": lambda: torch.poisson(3 * ONES),
    "uniform_": lambda: torch.empty(5).uniform_(),
    "exponential_": lambda: torch.empty(5).exponential_(),
    "dropout": lambda: F.dropout(ONES),
    "nn.Dropout": lambda: nn.Dropout(0.5)(ONES),
    "alpha_dropout": lambda: F.alpha_dropout(ONES, training=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(ONES),
    "rrelu": lambda: F.rrelu(-ONES, training=True),
    "gamma": lambda: torch.distributions.Gamma(ONES, ONES).sample(),
    "dirichlet": lambda: torch.distributions.Dirichlet(ONES).sample(),
    "orthogonal_": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "trunc_normal_": lambda: nn.init.trunc_normal_(torch.empty(9)),
    "kaiming_normal_": lambda: nn.init.kaiming_normal_(torch.empty(4, 4)),
    "layers": lambda: torch.cat(
        [p.flatten() for p in nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5), nn.Conv2d(1, 2, 3)).parameters()]
    ),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_draw_is_that_of_manual_seed_and_the_global_generator_stays(draw):
    torch.manual_seed(3)
    expected = [draw(), torch.rand(2), draw()]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with drawing_from(3):
        drawn = [draw(), torch.rand(2), draw()]
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_that_is_given_is_used():
    generator = torch.Generator().manual_seed(5)
    with drawing_from(3):
        drawn = torch.rand(4, generator=generator)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_names_of_one_device_share_a_generator():
    with drawing_from(3):
        drawn = [torch.rand(2, device="cpu:0"), torch.rand(2, device="cpu"), torch.empty(2).uniform_()]
    torch.manual_seed(3)
    assert torch.equal(torch.cat(drawn), torch.cat([torch.rand(2) for _ in drawn]))


def test_an_error_within_leaves_the_generators_as_they_were():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="probability"), drawing_from(3):  # noqa: PT012 (something is drawn before)
        F.dropout(ONES, p=0.5)
        torch.multinomial(-ONES, 3)
    assert torch.equal(torch.get_rng_state(), before)
