"""The steps of a fused Adam without what surrounds its kernel are those of torch's own `step`, bit for bit."""

import copy
import itertools
import math

import pytest
import torch
from helpers.small_runs import fit, model, weights

from vaekit.training.optimizers import direct
from vaekit.training.optimizers.direct import DirectAdam

GOOD, BAD = torch.tensor(False), torch.tensor(True)


def parameters(dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=draws, dtype=dtype)) for shape in ((3, 5), (5,), (), (0,))]


def set_gradients(both, step, without=()):
    draws = torch.Generator().manual_seed(1 + step)
    for number, (own, other) in enumerate(zip(*both, strict=True)):
        gradient = torch.randn(own.shape, generator=draws, dtype=own.dtype)
        own.grad, other.grad = (None, None) if number in without else (gradient, gradient.clone())


def assert_same(both, optimizers):
    assert all(torch.equal(own, other) for own, other in zip(*both, strict=True))
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9)}, {"amsgrad": True, "maximize": True, "lr": 1}]
)
def test_every_step_is_the_optimizers_own(kind, options, dtype):
    both = parameters(dtype), parameters(dtype)
    optimizers = [
        kind([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "eps": 1e-3}], **{"lr": 0.01, **options, "fused": True})
        for p in both
    ]
    taker, taken = DirectAdam(optimizers[1]), []
    for step in range(8):
        set_gradients(both, step, without=[(), (1,), (0, 1)][step % 3])
        optimizers[0].param_groups[0]["lr"] = optimizers[1].param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizers[0].step()
        taken.append(taker.step(GOOD))
        if not taken[-1]:
            optimizers[1].step()
        assert_same(both, optimizers)
    assert taken[0] is False
    assert taken[-1] is True


def test_a_bad_step_leaves_everything():
    held = parameters()
    optimizer = torch.optim.Adam(held, fused=True)
    taker = DirectAdam(optimizer)
    set_gradients((held, held), 0)
    optimizer.step()
    before, state = [p.detach().clone() for p in held], copy.deepcopy(optimizer.state_dict())
    held[0].grad[0, 0] = math.nan
    assert taker.step(BAD)
    assert all(map(torch.equal, held, before))
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


def test_a_state_that_was_loaded_is_gone_on_from():
    both = parameters(), parameters()
    optimizers = [torch.optim.Adam(p, fused=True) for p in both]
    taker = DirectAdam(optimizers[1])
    for step in range(3):
        set_gradients(both, step)
        optimizers[0].step()
        if not taker.step(GOOD):
            optimizers[1].step()
    loaded = copy.deepcopy(optimizers[0].state_dict())
    for step in range(3, 6):
        set_gradients(both, step)
        if step == 4:
            for optimizer in optimizers:
                optimizer.load_state_dict(copy.deepcopy(loaded))
        optimizers[0].step()
        assert taker.step(GOOD)
        assert_same(both, optimizers)


@pytest.mark.parametrize("why", ["class", "subclass", "not fused", "hook", "patched", "rate", "complex", "first step"])
def test_what_the_kernel_alone_would_not_do_is_left_to_the_optimizer(why):
    class Own(torch.optim.Adam):
        pass

    held = parameters(torch.complex64 if why == "complex" else torch.float32)
    kind = {"class": torch.optim.NAdam, "subclass": Own}.get(why, torch.optim.Adam)
    options = {} if why in ("class", "not fused", "complex") else {"fused": True}
    optimizer = kind(held, lr=torch.tensor(0.1) if why == "rate" else 0.1, **options)
    taker = DirectAdam(optimizer)
    set_gradients((held, held), 0)
    if why != "first step":
        optimizer.step()
    if why == "hook":
        optimizer.register_step_post_hook(lambda *_: None)
    if why == "patched":
        torch.optim.lr_scheduler.ConstantLR(optimizer)
    before = [p.detach().clone() for p in held]
    assert not taker.step(GOOD)
    assert all(map(torch.equal, held, before))


def test_without_the_kernels_every_step_is_the_optimizers_own(monkeypatch):
    direct._kernels_take_their_arguments.cache_clear()
    monkeypatch.setattr(direct, "_KERNELS", {False: None, True: None})
    try:
        held = parameters()
        optimizer = torch.optim.Adam(held, fused=True)
        set_gradients((held, held), 0)
        optimizer.step()
        assert not DirectAdam(optimizer).step(GOOD)
    finally:
        direct._kernels_take_their_arguments.cache_clear()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_fit_takes_these_steps_and_ends_where_it_would_have_without(optimizer, monkeypatch):
    count, ends = itertools.count(), []
    step = DirectAdam.step
    for is_allowed in (True, False):
        monkeypatch.setattr(
            DirectAdam, "step", lambda self, bad, allowed=is_allowed: allowed and step(self, bad) and next(count) >= 0
        )
        vae = model()
        fit(vae, optimizer=optimizer)
        ends.append(weights(vae))
    assert torch.equal(*ends)
    assert next(count) == 2 * 4 - 1  # all but the first
