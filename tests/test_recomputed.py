"""What normalisation gives is not kept for backward: less memory, the same gradients to the last bit."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from vaekit.layers import ACTIVATIONS, CONVOLUTIONS, Layers, LayerStyle

KEEP_ALL = (lambda tensor: tensor, lambda tensor: tensor)
NEEDS_ITS_INPUT = ("elu", "gelu", "leaky_relu", "silu", "softplus")  # for its derivative; others their output


def block(activation="silu", normalization="group", rank=2, dtype=torch.float32):
    torch.manual_seed(0)
    style, sizes, convolution = LayerStyle(activation, normalization), (6, 5, 4)[:rank], CONVOLUTIONS[rank]
    layers = Layers(
        *style.after(8, sizes), convolution(8, 12, 3, padding=1),
        *style.conditioned(12, 3), *style.after(12, sizes), convolution(12, 8, 3, padding=1),
    ).to(dtype)  # fmt: skip
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return layers, torch.randn(2, 8, *sizes, dtype=dtype, requires_grad=True), torch.randn(2, 3, dtype=dtype)


def gradients(layers, x, condition, **precision):
    with torch.autocast("cpu", enabled=bool(precision), **precision):
        y = layers(x, condition)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layers.parameters()])]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["group", "layer"])
@pytest.mark.parametrize("precision", [{}, {"dtype": torch.bfloat16}], ids=["single", "half"])
def test_nothing_changes_beside_keeping_all(activation, normalization, precision):
    given = block(activation, normalization)
    ours = gradients(*given, **precision)
    with saved_tensors_hooks(*KEEP_ALL):
        theirs = gradients(*given, **precision)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_derivatives_of_both_orders_are_those_of_finite_differences(rank):
    layers, x, condition = block(rank=rank, dtype=torch.float64)

    def of(x):
        return layers(x, condition).sum((2, *range(3, x.ndim)))

    assert torch.autograd.gradcheck(of, x)
    assert torch.autograd.gradgradcheck(of, x)


def kept(layers, x, condition):
    """Bytes that are there after the forward pass and were not before."""
    layers(x, condition)  # what torch makes once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        y = layers(x, condition)
    assert y.requires_grad
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_normalised_is_not_kept(activation):
    layers, x, condition = block(activation)
    with saved_tensors_hooks(*KEEP_ALL):
        everything = kept(layers, x, condition)
    normalized = (8 + 12) * 2 * 6 * 5 * 4  # channels, examples, positions, bytes
    assert everything - kept(layers, x, condition) == (normalized if activation in NEEDS_ITS_INPUT else 0)


def test_backward_twice_and_weights_that_changed_are_as_everywhere():
    layers, x, condition = block()
    y = layers(x, condition).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    assert torch.equal(x.grad, 2 * first)
    y = layers(x, condition).sum()
    with torch.no_grad():
        layers[0].weight += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_hooks_are_called_once_and_what_they_change_counts():
    layers, x, condition = block()
    seen = []
    layers[0].register_forward_hook(lambda module, inputs, output: seen.append(1) or 2.0 * output)
    ours = gradients(layers, x, condition)
    assert len(seen) == 1
    with saved_tensors_hooks(*KEEP_ALL):
        theirs = gradients(layers, x, condition)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_transforms_and_frozen_layers():
    layers, x, condition = block()
    by_transform = torch.func.grad(lambda x: layers(x, condition).square().sum())(x)
    torch.testing.assert_close(by_transform, gradients(layers, x, condition)[1])
    each = torch.func.vmap(lambda x, c: layers(x[None], c[None])[0])(x, condition)
    torch.testing.assert_close(each, layers(x, condition))
    frozen = layers.requires_grad_(False)(x.detach(), condition)
    assert not frozen.requires_grad


@pytest.mark.parametrize("save", [torch.utils.checkpoint.checkpoint, None], ids=["checkpoint", "save_on_cpu"])
def test_hooks_of_others_go_first(save):
    layers, x, condition = block()
    plain = gradients(layers, x, condition)
    if save is None:
        with torch.autograd.graph.save_on_cpu():
            y = layers(x, condition)
    else:
        y = save(layers, x, condition, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), [x, *layers.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, plain[1:], strict=True))


@pytest.mark.compile
def test_it_compiles_in_one_graph():
    layers, x, condition = block()
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x, condition).square().sum(), [x, *layers.parameters()])
    torch.testing.assert_close(found, tuple(gradients(layers, x, condition)[1:]))


def test_an_unknown_normalisation_is_kept():
    class Own(nn.GroupNorm):
        def forward(self, x):
            return super().forward(x) + 1.0

    layers, x, condition = block()
    layers[0] = Own(2, 8)
    ours = gradients(layers, x, condition)
    with saved_tensors_hooks(*KEEP_ALL):
        theirs = gradients(layers, x, condition)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
