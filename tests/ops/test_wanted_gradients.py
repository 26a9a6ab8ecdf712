"""Which gradients backward gives, and how: those that are asked for alone, those of mu and logvar packed into one tensor."""

import pytest
import torch
from helpers.operands import calls
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import make_key, reparameterize_kl
from vaekit.ops import reference, schema
from vaekit.ops.operands import ALL, LOGVAR, MU, PRIOR_LOGVAR, PRIOR_MU, Operands

FOUR = (MU, LOGVAR, PRIOR_MU, PRIOR_LOGVAR)
BACKWARDS = {"operator": schema.backward, "reference": reference.backward}


def same_bits(a, b):
    return torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0))


@pytest.mark.parametrize("backward", BACKWARDS)
@given(o=calls(), wanted=st.integers(0, ALL), which=st.sampled_from(["both", "z", "kl"]), packed=st.booleans())
def test_what_is_wanted_has_the_bits_that_it_has_among_all(backward, o, wanted, which, packed):
    backward = BACKWARDS[backward]
    z, kl = reference.forward(*o)
    gradients = (torch.randn(z.shape).to(z.dtype) if which != "kl" else None, torch.randn_like(kl) if which != "z" else None)
    everything = backward(*gradients, *o)
    got = backward(*gradients, *o, wanted | MU | LOGVAR if packed else wanted, packed)
    if packed:
        assert got[1] is None
        assert got[0].is_contiguous()
        got = (*got[0].chunk(2, o.mu.ndim - o.event_dims), *got[2:])
        wanted |= MU | LOGVAR
    for number, have, want in zip(FOUR, got, everything, strict=True):
        assert (have is None) == (want is None or not wanted & number)
        assert have is None or same_bits(have, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 1), (200, 2), (9, 300), (70, 64), (2, 3, 4, 5)])
def test_packed_is_the_halves_bit_for_bit(shape, dtype):
    event_dims = len(shape) - 1
    sizes = (shape[0], 2 * shape[1], *shape[2:])
    numbers = torch.randn(sizes).to(dtype)
    options = {"key": make_key(3), "event_dims": event_dims}
    results = []
    for packed in (True, False):
        leaf = numbers.clone().requires_grad_()
        if packed:
            z, kl = reparameterize_kl(packed=leaf, **options)
        else:
            z, kl = reparameterize_kl(*leaf.chunk(2, 1), **options)
        (z.float().square().sum() + kl.sum()).backward()
        results.append((z, kl, leaf.grad))
    assert all(map(torch.equal, *results))
    assert results[0][2].is_contiguous()


def test_packed_gets_its_gradient_without_a_concatenation():
    """Which would be a node of the graph: the operator's own reaches the leaf."""
    leaf = torch.randn(4, 6, requires_grad=True)
    z, kl = reparameterize_kl(packed=leaf, key=make_key(0))
    ((following, _), *others) = z.grad_fn.next_functions
    assert following.variable is leaf
    assert all(function is None for function, _ in others)
    assert kl.grad_fn is z.grad_fn


def test_packed_with_a_prior_eps_and_samples_is_the_halves():
    numbers, prior = torch.randn(4, 6, requires_grad=True), (torch.randn(3, requires_grad=True), torch.randn(4, 1))
    for options in ({"key": make_key(2)}, {"eps": torch.randn(5, 4, 3)}):
        options |= {"num_samples": 5, "prior": prior, "reduce": "none"}
        results = []
        for call in ({"packed": numbers}, dict(zip(("mu", "logvar"), numbers.chunk(2, -1), strict=True))):
            z, kl = reparameterize_kl(**call, **options)
            results.append((z, kl, *torch.autograd.grad(z.sin().sum() + kl.sum(), (numbers, prior[0]))))
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize("num_samples", [None, 2])
def test_packed_has_the_derivatives_of_its_halves(num_samples):
    numbers = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(3, dtype=torch.float64, requires_grad=True), torch.randn(3, dtype=torch.float64, requires_grad=True)

    def operator(numbers, *prior):
        return reparameterize_kl(packed=numbers, prior=prior, key=make_key(1), num_samples=num_samples)

    assert torch.autograd.gradcheck(operator, (numbers, *prior), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(operator, (numbers, *prior), check_fwd_over_rev=True)


def test_packed_under_torch_func_is_a_loop():
    numbers, keys = torch.randn(5, 6), torch.stack([make_key(seed) for seed in range(5)])

    def loss(numbers, key):
        z, kl = reparameterize_kl(packed=numbers, key=key)
        return z.sin().sum() + kl

    mapped = torch.func.vmap(torch.func.grad(loss))(numbers, keys)
    for row, key, got in zip(numbers, keys, mapped, strict=True):
        torch.testing.assert_close(got, torch.func.grad(loss)(row, key))


@pytest.mark.compile
def test_packed_compiles_in_one_graph():
    def loss(numbers):
        z, kl = reparameterize_kl(packed=numbers, key=make_key(5))
        return (z.sin().sum(-1) + kl).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    numbers = torch.randn(4, 6, requires_grad=True)
    values = [(value := f(numbers), *torch.autograd.grad(value, numbers)) for f in (loss, compiled)]
    torch.testing.assert_close(*values, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("arguments", [(ALL, True), (MU | LOGVAR, False), (LOGVAR | PRIOR_MU, False), (PRIOR_LOGVAR, False)])
def test_opcheck_of_what_is_wanted(arguments):
    tensors = [torch.randn(3, 4).requires_grad_() for _ in range(4)]
    o = Operands(*tensors[:2], make_key(1), None, *tensors[2:])
    gradients = torch.randn(3, 4).requires_grad_(), torch.randn(3).requires_grad_()
    torch.library.opcheck(schema.backward, (*gradients, *o, *arguments))


# Which of the four need a gradient, and what then is asked of the operator.
NEEDS = [
    ((True, True, False, False), MU | LOGVAR),
    ((False, True, False, False), LOGVAR),
    ((True, False, False, False), MU),
    ((False, False, True, False), PRIOR_MU),
    ((True, True, True, True), ALL),
]


@pytest.mark.parametrize(("needs", "wanted"), NEEDS)
def test_no_gradient_is_computed_that_nobody_needs(monkeypatch, needs, wanted):
    asked = []

    def recorded(*arguments):
        asked.append(arguments[-2:])
        return original(*arguments)

    original = schema.backward
    monkeypatch.setattr(schema, "backward", recorded)
    tensors = [torch.randn(4, 3, requires_grad=need) for need in needs]
    z, kl = reparameterize_kl(*tensors[:2], prior=tuple(tensors[2:]), key=make_key(0))
    (z.sum() + kl.sum()).backward()
    assert asked == [(wanted, False)]
    assert [t.grad is not None for t in tensors] == list(needs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"packed": torch.zeros(2, 5)}, ValueError, r"halves of dimension -1, but that has 5 elements; its shape is \(2, 5\)"),
        ({"packed": torch.zeros(2, 3, 4), "event_dims": 2}, ValueError, "halves of dimension -2, but that has 3 elements"),
        ({"packed": torch.zeros(4), "event_dims": 2}, ValueError, "between 1 and the 1 dimensions of packed"),
        ({"packed": torch.zeros(2, 4, dtype=torch.int32)}, TypeError, r"packed has to be a floating-point .* packed.float\(\)"),
        ({"packed": [0.0, 1.0]}, TypeError, "packed has to be a tensor, got list"),
        ({"packed": torch.zeros(2, 4), "mu": torch.zeros(2, 2)}, TypeError, "packed holds mu and logvar; give it without them"),
        ({"packed": torch.zeros(2, 4), "eps": torch.zeros(2, 4)}, ValueError, r"shape \(2, 2\), got \(2, 4\)"),
        ({"mu": torch.zeros(2, 2)}, TypeError, "have to be tensors, got Tensor and NoneType"),
        ({}, TypeError, "have to be tensors, got NoneType and NoneType"),
    ],
)
def test_mistakes_with_packed_are_told(arguments, error, message):
    with pytest.raises(error, match=message):
        vaekit.reparameterize_kl(**arguments)
