"""The ways into the operator give the same, with torch's private names and without; every layer has the operands in one order."""

import contextlib
import re
from pathlib import Path

import pytest
import torch

from vaekit import make_key, reparameterize_kl
from vaekit.ops import dispatch, schema
from vaekit.ops.operands import Operands

ROOT = Path(__file__).parents[2]


def all_derivatives():
    """z, kl, their gradients, and those gradients' own."""
    torch.manual_seed(0)
    leaves = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    results = reparameterize_kl(*leaves[:2], key=make_key(1), prior=tuple(leaves[2:]), num_samples=2)
    first = torch.autograd.grad([r.square().sum() for r in results], leaves, create_graph=True)
    second = torch.autograd.grad([g.square().sum() for g in first], leaves)
    return [*results, *first, *second]


def per_example_gradients():
    mu, logvar = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(1, -2, 12).reshape(3, 4)
    return torch.func.vmap(torch.func.grad(lambda m, v: reparameterize_kl(m, v, key=make_key(1))[0].sin().sum(), (0, 1)))(
        mu, logvar
    )


SUBSTITUTES = {
    "the look at transforms": ("transforms_are_active", lambda: True),
    "below autograd": ("below_autograd", contextlib.nullcontext),
    "the forward mode's level": ("forward_ad", object()),
    "apply": ("_apply_eagerly", dispatch._EagerForward.apply),
}


@pytest.mark.parametrize("gone", SUBSTITUTES)
def test_without_a_private_name_everything_is_the_same(monkeypatch, gone):
    expected, expected_mapped = all_derivatives(), per_example_gradients()
    monkeypatch.setattr(dispatch, *SUBSTITUTES[gone])
    assert all(map(torch.equal, all_derivatives(), expected))
    # Where forward mode may be on, a transform takes the formula's own operations.
    torch.testing.assert_close(per_example_gradients(), expected_mapped, rtol=2e-6, atol=2e-6)
    with torch.no_grad():
        mu = torch.randn(3, 4)
        assert not reparameterize_kl(mu, mu, key=make_key(0))[0].requires_grad


def test_every_layer_has_the_operands_in_one_order():
    names = list(Operands._fields)
    assert [a.name for a in schema.forward._schema.arguments] == names
    assert [a.name for a in schema.backward._schema.arguments] == ["grad_z", "grad_kl", *names, "wanted", "packed"]
    struct = re.search(r"struct Arguments \{(.*?)\};", (ROOT / "csrc/operator.h").read_text(), re.S)[1]
    assert re.findall(r"(\w+)(?=[,;])", struct) == names
