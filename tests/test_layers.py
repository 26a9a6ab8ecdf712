"""Laws of the shared building blocks: what follows a layer, residual blocks, attention."""

import math

import pytest
import torch
from helpers.memory import LargestTensor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from vaekit.dense import Linear
from vaekit.layers import (
    NORMALIZATIONS,
    AddedCondition,
    BatchNorm,
    Layers,
    LayerStyle,
    dense_layers,
    group_count,
    halved_resolutions,
    with_condition,
)
from vaekit.residual import ResidualBlock, SelfAttention

positions = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def perturbed(module):
    """The module with no parameter at the value it starts from."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


@given(features=st.integers(1, 2048))
def test_groups_divide_the_features_are_at_most_32_and_never_of_one_two_or_three_where_more_can_be_had(features):
    groups = group_count(features)
    assert features % groups == 0
    assert groups <= 32
    assert features // groups >= min(features, 4)
    assert not [n for n in range(groups + 1, 33) if features % n == 0 and features // n >= 4]


@given(features=st.integers(2, 12), sizes=positions, batch=st.integers(2, 4))
@pytest.mark.parametrize("name", ["batch", "layer", "group"])
def test_a_normalised_layer_has_mean_0_and_variance_1_over_what_it_says(name, features, sizes, batch):
    (norm,) = LayerStyle("relu", name).normalized(features, sizes)
    x = 3.0 + 5.0 * torch.randn(batch, features, *sizes, dtype=torch.float64)
    y = norm.double()(x).detach()
    if name == "batch":
        sets = y.transpose(0, 1).flatten(1)
        given_sets = x.transpose(0, 1).flatten(1)
    else:
        groups = 1 if name == "layer" else group_count(features)
        sets, given_sets = y.reshape(batch * groups, -1), x.reshape(batch * groups, -1)
    standard = given_sets.std(1, correction=0)
    assert_close(sets.mean(1), torch.zeros(len(sets), dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(sets.std(1, correction=0), standard / (standard**2 + 1e-5).sqrt())


@given(sizes=positions)
def test_batch_normalisation_in_evaluation_mode_is_the_running_averages(sizes):
    norm = BatchNorm(3)
    x = 2.0 + torch.randn(5, 3, *sizes)
    norm(x)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, training=False)
    assert_close(norm.eval()(x), expected)
    assert_close(norm(x[:1]), expected[:1])  # one example suffices then
    assert (norm.running_mean > 0).all()


def test_batch_normalisation_of_one_vector_is_refused_with_what_to_do_and_an_empty_batch_changes_nothing():
    norm = BatchNorm(3)
    with pytest.raises(
        ValueError, match=r'batch of \(1, 3\) has one value .* no variance; train with larger .*"layer" or "group"'
    ):
        norm(torch.rand(1, 3))
    norm(torch.rand(1, 3, 2))
    before = norm.running_mean.clone(), norm.running_var.clone()
    assert norm(torch.rand(0, 3)).shape == (0, 3)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("name", ["layer", "group"])
def test_normalising_a_single_value_is_refused(name):
    with pytest.raises(ValueError, match=f"normalization='{name}'.*one value"):
        LayerStyle("relu", name).after(1)
    LayerStyle("relu", name).after(1, (2,))


def test_dropout_leaves_out_its_share_in_training_and_nothing_in_evaluation():
    *_, dropout = LayerStyle("relu", dropout=0.3).after(4)
    x = torch.ones(100_000)
    y = dropout(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=6 * math.sqrt(0.3 * 0.7 / len(x)))
    assert_close(y[y > 0].unique(), torch.tensor([1 / 0.7]))
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (("rleu",), "activation .*'elu', 'gelu'.* 'rleu'; did you mean 'relu'"),
        (("relu", "bach"), "normalization .*'none', 'batch', 'layer', 'group'.* 'bach'; did you mean 'batch'"),
        (("relu", None), "normalization .* None"),
        (("relu", "none", 1.0), r"dropout.* at least 0 and below 1, got 1\.0"),
        (("relu", "none", -0.1), "dropout"),
        (("relu", "none", math.nan), "dropout"),
        (("relu", "none", True), "dropout"),
        (("relu", "none", "0.1"), "dropout"),
    ],
)
def test_a_style_that_is_none_is_refused(style, message):
    with pytest.raises((TypeError, ValueError), match=message):
        LayerStyle(*style)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_dense_layers_are_linear_normalised_activated_and_dropped_in_this_order(name):
    layers = dense_layers((6, 8), LayerStyle("tanh", name, 0.5))
    kinds = [type(layer) for layer in layers]
    norm = {"none": [], "batch": [BatchNorm], "layer": [nn.GroupNorm], "group": [nn.GroupNorm]}[name]
    assert kinds == [Linear, *norm, nn.Tanh, nn.Dropout]
    assert (layers[0].bias is None) == (name == "batch")  # which would subtract it again


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=3), halvings=st.integers(0, 5))
def test_halvings_round_up(sizes, halvings):
    assert halved_resolutions(sizes, halvings) == [tuple(math.ceil(s / 2**n) for s in sizes) for n in range(halvings + 1)]


# Conditions.


@given(features=st.integers(1, 6), sizes=positions, batch=st.integers(0, 3), condition_dim=st.integers(1, 5))
def test_a_condition_is_mapped_linearly_and_added_at_every_position(features, sizes, batch, condition_dim):
    added = AddedCondition(features, condition_dim).double()
    x = torch.randn(batch, features, *sizes, dtype=torch.float64)
    condition = torch.randn(batch, condition_dim, dtype=torch.float64)
    difference = (added(x, condition) - x).reshape(batch, features, math.prod(sizes))
    expected = torch.einsum("fe,be->bf", added.linear.weight, condition)
    assert_close(difference, expected[:, :, None].expand_as(difference))
    assert [name for name, _ in added.named_parameters()] == ["linear.weight"]


def test_layers_hand_the_condition_to_those_that_take_it_and_to_no_other():
    added = AddedCondition(3, 2)
    block = perturbed(ResidualBlock(3, 3, (4,), LayerStyle("tanh"), condition_dim=2))
    x, condition = torch.randn(2, 3, 4), torch.randn(2, 2)
    assert torch.equal(
        Layers(nn.Tanh(), added, nn.ReLU(), block)(x, condition), block(added(x.tanh(), condition).relu(), condition)
    )
    assert torch.equal(Layers(nn.Tanh())(x), x.tanh())


def test_a_condition_stands_behind_a_dense_input():
    x, condition = torch.randn(2, 3), torch.randn(2, 4)
    both = with_condition(x, condition)
    assert torch.equal(both[:, :3], x)
    assert torch.equal(both[:, 3:], condition)
    assert with_condition(x, None) is x


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_only_one_feature_normalised_by_itself_would_lose_its_condition(name):
    x, condition = torch.randn(3, 2, 4), torch.randn(3, 5)
    style = LayerStyle("tanh", name)
    layers = Layers(*style.conditioned(2, 5), *style.after(2, (4,)))
    assert not torch.allclose(layers(x, condition), layers(x, -condition))
    assert style.conditioned(1, 0) == style.conditioned(2, 0) == []
    if name in ("layer", "group"):
        lost = Layers(AddedCondition(1, 5), *style.after(1, (4,)))
        assert_close(lost(x[:, :1], condition), lost(x[:, :1], -condition), rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match=f"normalization='{name}'.*one channel.*more channels"):
            style.conditioned(1, 5)
    else:
        assert len(style.conditioned(1, 5)) == 1


# Residual blocks and attention.


@given(channels=st.tuples(st.integers(2, 6), st.integers(2, 6)), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_new_residual_block_is_its_shortcut_and_a_trained_one_is_not(name, channels, sizes):
    block = ResidualBlock(*channels, sizes, LayerStyle("silu", name))
    x = torch.randn(3, channels[0], *sizes)
    expected = x if channels[0] == channels[1] else block.shortcut(x)
    assert torch.equal(block(x), expected)
    assert perturbed(block)(x).shape == (3, channels[1], *sizes)
    assert not torch.allclose(block(x), block.shortcut(x))


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: math.prod(s) > 1), seed=st.integers(0, 99))
def test_attention_permutes_its_results_as_its_positions_are_permuted_and_looks_at_all_of_them(sizes, seed):
    attention = perturbed(SelfAttention(8, sizes, LayerStyle("silu", "group"))).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 8, math.prod(sizes), dtype=torch.float64, generator=generator)
    order = torch.randperm(math.prod(sizes), generator=generator)

    def attend(x):
        return attention(x.reshape(2, 8, *sizes)).flatten(2)

    assert_close(attend(x[..., order]), attend(x)[..., order])
    elsewhere = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attend(elsewhere)[0, :, 0].sum(), elsewhere)
    assert (gradient[0].abs().amax(0) > 0).all()
    assert (gradient[1] == 0).all()  # of its own example


def attention_by_the_formula(attention, x):
    """x + f(x) with the softmax over all pairs of positions written out."""
    weight, bias = attention.query_key_value.weight.flatten(1), attention.query_key_value.bias
    seen = attention.normalization(x).flatten(2)
    q, k, v = (torch.einsum("oc,bcn->bon", weight, seen) + bias[:, None]).chunk(3, dim=1)
    shares = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), dim=-1)
    return x + attention.out(torch.einsum("bij,bcj->bci", shares, v).reshape(x.shape))


@pytest.mark.parametrize("sizes", [(6,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("channels", [3, 4, 8, 20])
@pytest.mark.parametrize("name", ["none", "group"])
def test_attention_is_the_formula_in_value_and_gradient(name, channels, sizes):
    attention = perturbed(SelfAttention(channels, sizes, LayerStyle("silu", name))).double()
    x = torch.randn(2, channels, *sizes, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(x.shape, dtype=torch.float64)
    wanted = [x, *attention.parameters()]
    result, expected = attention(x), attention_by_the_formula(attention, x)
    assert_close(result, expected)
    for got, right in zip(
        torch.autograd.grad(result, wanted, direction), torch.autograd.grad(expected, wanted, direction), strict=True
    ):
        assert_close(got, right)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("channels", [4, 6, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_attention_never_holds_all_pairs_of_positions(dtype, channels, memory_format):
    sizes = (8, 16, 8) if memory_format == torch.channels_last_3d else (32, 32)
    attention = perturbed(SelfAttention(channels, sizes, LayerStyle("silu", "group"))).to(dtype)
    x = torch.randn(1, channels, *sizes, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    with LargestTensor() as largest:
        attention(x).sum().backward()
    assert largest.elements <= 3 * max(channels, 8) * math.prod(sizes)
    if dtype == torch.float32:
        assert_close(attention(x), attention_by_the_formula(attention, x))


def test_attention_over_a_series_never_holds_all_pairs_of_positions():
    attention = perturbed(SelfAttention(8, (1024,), LayerStyle("silu", "group")))
    with LargestTensor() as largest:
        attention(torch.randn(1, 8, 1024, requires_grad=True)).sum().backward()
    assert largest.elements <= 3 * 8 * 1024


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("channels", [6, 8, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_on_a_gpu_holds_less_than_all_pairs_of_positions(dtype, channels):
    attention = SelfAttention(channels, (128, 64), LayerStyle("silu", "group")).to("cuda", dtype)
    x = torch.randn(1, channels, 128, 64, dtype=dtype, device="cuda", requires_grad=True)
    attention(x).sum().backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(x).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < max(8192**2, 32 * channels * 8192) * x.element_size()


def test_attention_has_second_and_forward_derivatives_by_torchs_plain_formula():
    attention = perturbed(SelfAttention(4, (3, 2), LayerStyle("silu", "group"))).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(attention, x)
        _, slope = torch.func.jvp(attention, (x.detach(),), (torch.ones_like(x),))
    step = 1e-6 * torch.ones_like(x)
    assert_close(slope, (attention(x + step) - attention(x - step)) / 2e-6, rtol=1e-5, atol=1e-6)


def test_attention_over_one_position_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"\(1, 1\).*one position.*fewer channels"):
        SelfAttention(8, (1, 1), LayerStyle("silu", "group"))


@given(channels=st.tuples(st.integers(2, 6), st.integers(2, 6)), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["none", "layer", "group"])
def test_a_conditional_block_is_the_one_whose_first_convolution_has_the_bias_b_plus_v_c(name, channels, sizes):
    style = LayerStyle("silu", name)
    block = perturbed(ResidualBlock(*channels, sizes, style, condition_dim=5)).double()
    plain = ResidualBlock(*channels, sizes, style).double()
    x, condition = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, channels[0], *sizes), (3, 5)))
    (added,) = [module for module in block.modules() if isinstance(module, AddedCondition)]
    values = [value for key, value in block.named_parameters() if not key.endswith(".linear.weight")]
    for row in range(3):
        with torch.no_grad():
            for own, value in zip(plain.parameters(), values, strict=True):
                own.copy_(value)
            first = next(module for module in plain.residual if hasattr(module, "kernel_size"))
            first.bias += added.linear.weight @ condition[row]
        assert_close(block(x, condition)[row], plain(x)[row])
