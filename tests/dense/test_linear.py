"""Laws of `vaekit.dense.Linear`: it is `torch.nn.Linear` within rounding, whichever library computes its products."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vaekit import dense
from vaekit.dense import Linear, Products, onednn

if onednn.obstacle():
    pytest.skip(f"oneDNN is not used here: {onednn.obstacle()}", allow_module_level=True)

ALL = Products(True, True, True)
EVERY = [Products(*each) for each in itertools.product((False, True), repeat=3)]


class Operators(TorchDispatchMode):
    """The names of the operators that are called; to torch they look as usual."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def products(monkeypatch):
    """How often oneDNN computed a product."""
    onednn.obstacle()  # which calls it too
    calls, own = [], onednn.product
    monkeypatch.setattr(onednn, "product", lambda *arguments: calls.append(1) or own(*arguments))
    return calls


def twins(features_in, features_out, bias=True, dtype=torch.float32):
    """The layer, and torch's with the same weights."""
    ours, theirs = Linear(features_in, features_out, bias, dtype=dtype), nn.Linear(features_in, features_out, bias, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def laid_out(shape, layout):
    """Numbers in a tensor of that shape, in memory as the word says."""
    *rows, features = shape
    if layout == "transposed":
        return torch.randn(features, *rows).movedim(0, -1)
    if layout == "every second":
        return torch.randn(*rows, 2 * features)[..., ::2]
    if layout == "expanded":
        return torch.randn(features).expand(shape)
    return torch.randn(shape)


def close(found, wanted, scale):
    """Equal but for the rounding of sums of `scale` products."""
    assert_close(found, wanted, rtol=1e-5, atol=2e-6 * (1 + scale**0.5))


shapes = st.lists(st.integers(0, 9), min_size=0, max_size=3)
layouts = st.sampled_from(["contiguous", "transposed", "every second", "expanded"])


@given(
    rows=shapes,
    features_in=st.integers(1, 70),
    features_out=st.integers(1, 70),
    layout=layouts,
    grad_layout=layouts,
    bias=st.booleans(),
    wanted=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    which=st.sampled_from(EVERY),
    transposed_weight=st.booleans(),
)
def test_value_and_gradients_are_those_of_torchs_layer(
    rows, features_in, features_out, layout, grad_layout, bias, wanted, which, transposed_weight
):
    ours, theirs = twins(features_in, features_out, bias)
    if transposed_weight:
        for layer in (ours, theirs):
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    x = laid_out((*rows, features_in), layout)
    direction = laid_out((*rows, features_out), grad_layout)
    results = []
    with dense.forced(which):
        for layer in (ours, theirs):
            input = x.detach().requires_grad_(wanted[0])
            layer.weight.requires_grad_(wanted[1])
            if bias:
                layer.bias.requires_grad_(wanted[2])
            output = layer(input)
            asked = [tensor for tensor in (input, *layer.parameters()) if tensor.requires_grad]
            assert output.requires_grad == bool(asked)
            results.append((output, *(torch.autograd.grad(output, asked, direction) if asked else ())))
    scale = max(features_in, features_out, x[..., 0].numel())
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        close(found, expected, scale)


@pytest.mark.parametrize("which", EVERY)
def test_each_product_is_by_the_library_that_was_chosen(which, products):
    layer, x = Linear(5, 3), torch.randn(4, 5, requires_grad=True)
    with dense.forced(which):
        result = layer(x)
        assert len(products) == which.forward
        result.sum().backward()
    assert len(products) == sum(which)


def test_without_gradients_the_forward_product_is_the_same_bit_for_bit(products):
    layer, x = Linear(50, 30), torch.randn(7, 50)
    with dense.forced(ALL):
        recorded = layer(x)
        with torch.no_grad():
            assert torch.equal(layer(x), recorded)
        with torch.inference_mode():
            assert torch.equal(layer(x), recorded)
    assert len(products) == 3
    assert recorded.requires_grad


def test_the_same_bits_come_again():
    def step():
        torch.manual_seed(3)
        layer = Linear(257, 129)
        x = torch.randn(33, 257, requires_grad=True)
        layer(x).square().sum().backward()
        return x.grad, layer.weight.grad, layer.bias.grad

    with dense.forced(ALL):
        for first, again in zip(step(), step(), strict=True):
            assert torch.equal(first, again)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(value):
    ours, theirs = twins(20, 30)
    x = torch.randn(5, 20)
    x[2, 3] = value
    with dense.forced(ALL):
        result = ours(x)
    assert_close(result, theirs(x), equal_nan=True, rtol=1e-5, atol=1e-5)
    assert result[[0, 1, 3, 4]].isfinite().all()


def test_backward_keeps_what_torchs_layer_keeps():
    def kept(layer, x):
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(tuple(t.shape)) or t, lambda t: t):
            layer(x)
        return sorted(shape if shape != (20, 30) else (30, 20) for shape in seen)  # torch keeps the transposed weight

    ours, theirs = twins(20, 30)
    with dense.forced(ALL):
        for needs_x, needs_weight in itertools.product((False, True), repeat=2):
            x = torch.randn(5, 20, requires_grad=needs_x)
            for layer in (ours, theirs):
                layer.weight.requires_grad_(needs_weight)
            assert kept(ours, x) == kept(theirs, x)


# --- what only torch's own operators can do ------------------------------------------------------------------------------


def test_second_derivatives_are_torchs_and_the_first_is_computed_as_before():
    ours, theirs = twins(6, 4)
    x = torch.randn(3, 6)

    def penalty(layer):
        input = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(layer(input).tanh().sum(), input, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [input, *layer.parameters()])

    with dense.forced(ALL):
        for found, expected in zip(penalty(ours), penalty(theirs), strict=True):
            assert_close(found, expected)


def test_second_derivatives_in_double_precision_are_finite_differences(products):
    layer = Linear(4, 3, dtype=torch.float64)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    with dense.forced(ALL):
        assert torch.autograd.gradgradcheck(
            lambda x, w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,)),
            (
                x,
                layer.weight,
                layer.bias,
            ),
        )
    assert not products


def test_transforms_see_torchs_operators(products):
    ours, theirs = twins(6, 4)
    x, tangent = torch.randn(5, 3, 6), torch.randn(5, 3, 6)
    parameters = dict(theirs.named_parameters())

    def loss(layer, given, row):
        return torch.func.functional_call(layer, given, (row,)).square().sum()

    with dense.forced(ALL):
        assert_close(torch.vmap(ours)(x), theirs(x))
        assert_close(torch.func.jvp(ours, (x,), (tangent,))[1], F.linear(tangent, theirs.weight))
        found = torch.vmap(torch.func.grad(lambda given, row: loss(ours, given, row)), (None, 0))(parameters, x)
        expected = torch.vmap(torch.func.grad(lambda given, row: loss(theirs, given, row)), (None, 0))(parameters, x)
        assert_close(found, expected)
        with torch.autograd.forward_ad.dual_level():
            dual = ours(torch.autograd.forward_ad.make_dual(x, tangent))
            assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, F.linear(tangent, theirs.weight))
    assert not products


def test_many_gradients_of_one_recorded_call_are_those_of_each():
    ours, theirs = twins(6, 4)
    x = torch.randn(3, 6, requires_grad=True)
    directions = torch.randn(7, 3, 4)
    with dense.forced(ALL):
        found = torch.autograd.grad(ours(x), [x, ours.weight, ours.bias], directions, is_grads_batched=True)
    expected = torch.autograd.grad(theirs(x), [x, theirs.weight, theirs.bias], directions, is_grads_batched=True)
    assert_close(found, expected)


@pytest.mark.parametrize("mode", ["modes", "autocast", "trace", "fake", "precision", "off"])
def test_whoever_listens_or_asks_for_something_else_gets_torchs_operators(mode, products, monkeypatch):
    ours, theirs = twins(6, 4)
    x = torch.randn(3, 6)
    with dense.forced(ALL):
        if mode == "modes":
            with Operators() as called, FlopCounterMode(display=False) as counted:
                ours(x).sum().backward()
            assert not [name for name in called.names if "mkldnn" in name]
            assert counted.get_total_flops() == 2 * 2 * 3 * 6 * 4
        elif mode == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                assert ours(x).dtype == torch.bfloat16
        elif mode == "trace":
            assert torch.equal(torch.jit.trace(ours, x, check_trace=False)(x), theirs(x))
        elif mode == "fake":
            assert ours.to("meta")(x.to("meta")).shape == (3, 4)
        elif mode == "precision":
            earlier = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("medium")
            try:
                ours(x)
            finally:
                torch.set_float32_matmul_precision(earlier)
        else:
            with torch.backends.mkldnn.flags(enabled=False):
                ours(x)
    assert not products


def test_whoever_listens_to_backward_alone_hears_torchs_operators():
    with dense.forced(ALL):
        result = Linear(6, 4)(torch.randn(3, 6, requires_grad=True)).sum()
    with Operators() as called, FlopCounterMode(display=False) as counted:
        result.backward()
    assert not [name for name in called.names if "mkldnn" in name]
    assert counted.get_total_flops() == 2 * 2 * 3 * 6 * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_torchs(dtype, products):
    ours, theirs = twins(6, 4, dtype=dtype)
    x = torch.randn(3, 6, dtype=dtype)
    with dense.forced(ALL):
        assert torch.equal(ours(x), theirs(x))
    assert not products


def test_what_torch_refuses_is_refused_in_its_words():
    ours, theirs = twins(6, 4)
    for x in (torch.randn(3, 5), torch.randn(3, 6, dtype=torch.float64), torch.tensor(1.0)):
        with pytest.raises(RuntimeError) as expected:
            theirs(x)
        with dense.forced(ALL), pytest.raises(RuntimeError) as found:
            ours(x)
        assert str(found.value) == str(expected.value)


@pytest.mark.compile
def test_compiled_and_exported_it_is_one_graph_of_torchs_operators():
    ours, theirs = twins(6, 4)
    x = torch.randn(3, 6)
    with dense.forced(ALL):
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=True)
        compiled(x).sum().backward()
        found = ours.weight.grad
        theirs(x).sum().backward()
        assert_close(found, theirs.weight.grad)
        batch = torch.export.Dim("batch")
        exported = torch.export.export(ours, (x,), dynamic_shapes=({0: batch},))
    assert "mkldnn" not in str(exported.graph)
    assert_close(exported.module()(torch.ones(9, 6)), theirs(torch.ones(9, 6)))


# --- it is torch's layer -------------------------------------------------------------------------------------------------


def test_it_has_torchs_names_and_looks_and_can_be_copied():
    ours, theirs = twins(6, 4)
    assert isinstance(ours, nn.Linear)
    assert repr(ours) == repr(theirs)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {"weight": (4, 6), "bias": (4,)}
    x = torch.randn(3, 6)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(again) is Linear
        assert torch.equal(again(x), ours(x))


def test_weights_of_ones_own_are_used(products):
    layer = nn.utils.parametrizations.weight_norm(Linear(6, 4))
    x = torch.randn(3, 6)
    expected = F.linear(x, layer.weight, layer.bias)
    with dense.forced(ALL):
        result = layer(x)
    assert products
    assert_close(result, expected)
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
