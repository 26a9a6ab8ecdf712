"""Laws of encoders and decoders with a condition: what it adds, to whom, and that without one nothing is different."""

import inspect

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit import decoders, encoders
from vaekit.layers import AddedCondition
from vaekit.residual import ResidualBlock

B, D, E, P = 3, 2, 4, 2
NAMES = ["conv", "conv1d", "conv3d", "mlp", "resnet"]
CONVOLUTIONAL = {1: "conv1d", 2: "conv", 3: "conv3d"}
ENCODERS = {
    "mlp": ((2, 5), {"hidden": (7, 6)}),
    "mlp linear": ((2, 5), {"hidden": ()}),
    "mlp normalised": ((2, 5), {"hidden": (8,), "normalization": "group"}),
    "conv1d": ((2, 7), {"channels": (4, 6), "hidden": (7,)}),
    "conv": ((2, 7, 5), {"channels": (4, 6), "hidden": ()}),
    "conv spatial": ((2, 7, 5), {"channels": (4, 6), "spatial": True, "normalization": "layer"}),
    "conv3d spatial": ((1, 3, 4, 5), {"channels": (4,), "spatial": True}),
    "resnet": ((2, 7, 5), {"channels": (4, 6), "blocks": 1}),
    "resnet spatial": ((2, 7), {"channels": (4, 6), "spatial": True, "attention": True}),
}
DECODERS = {
    "mlp": ((2, 5), {"hidden": (7, 6)}),
    "mlp linear": ((2, 5), {"hidden": ()}),
    "mlp spatial": ((2, 5), {"latent_dim": (D, 3, 2), "hidden": (7,), "normalization": "layer"}),
    "conv1d": ((2, 7), {"channels": (6, 4), "hidden": (7,)}),
    "conv": ((2, 7, 5), {"channels": (6, 4), "upsample": "bilinear"}),
    "conv spatial": ((2, 7, 5), {"latent_dim": (D, 2, 2), "channels": (6, 4), "normalization": "group"}),
    "conv3d spatial": ((1, 3, 4, 5), {"latent_dim": (D, 2, 2, 3), "channels": (4,)}),
    "resnet": ((2, 7, 5), {"channels": (6, 4), "blocks": 1}),
    "resnet spatial": ((2, 7), {"latent_dim": (D, 4), "channels": (6, 4), "attention": True}),
}
NETWORKS = [("encoder", case) for case in ENCODERS] + [("decoder", case) for case in DECODERS]
every_network = pytest.mark.parametrize(("kind", "case"), NETWORKS, ids=" ".join)


def made(kind, case, condition_dim=E, **more):
    """The network in double precision; what starts at 0, and holds others back, does not."""
    name = case.split()[0]
    if kind == "encoder":
        shape, options = ENCODERS[case]
        network = encoders.create(
            name, **{"input_shape": shape, "latent_dim": D, "condition_dim": condition_dim, **options, **more}
        )
    else:
        shape, options = DECODERS[case]
        options = {"latent_dim": D, "parameters_per_element": P, "condition_dim": condition_dim, **options, **more}
        network = decoders.create(name, output_shape=shape, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.double()


def inputs(network, n=B):
    shape = network.input_shape if isinstance(network, vaekit.Encoder) else network.latent_shape
    return torch.randn(n, *shape, dtype=torch.float64), torch.randn(n, E, dtype=torch.float64)


def output(network, *arguments):
    result = network(*arguments)
    return result if isinstance(result, torch.Tensor) else torch.cat((result.mu, result.logvar), 1)


@torch.no_grad()
def unconditional(kind, case, network, condition):
    """The network without a condition whose biases are what `network` makes of one condition [E]: b + V c."""
    plain, values = made(kind, case, 0), []
    for name, parameter in network.named_parameters():
        if name.endswith(".linear.weight"):  # of an AddedCondition, after the weight and the bias of its convolution
            values[-1] = values[-1] + parameter @ condition
        else:
            values.append(parameter)
    for number, (own, value) in enumerate(zip(plain.parameters(), values, strict=True)):
        if own.shape != value.shape:  # a dense layer, whose bias comes next
            value, columns = value.split((own.shape[1], E), dim=1)
            values[number + 1] = values[number + 1] + columns @ condition
        own.copy_(value)
    return plain


# What a condition does.


@every_network
def test_one_condition_for_all_is_the_unconditional_network_with_other_biases(kind, case):
    network = made(kind, case)
    x, condition = inputs(network)
    expected = output(unconditional(kind, case, network, condition[0]), x)
    assert_close(output(network, x, condition[:1].expand(B, E)), expected)
    assert not torch.allclose(output(network, x, condition[1:2].expand(B, E)), expected)


@every_network
def test_a_condition_of_zeros_is_the_unconditional_network_with_the_same_weights(kind, case):
    network = made(kind, case)
    x, condition = inputs(network)
    same = unconditional(kind, case, network, torch.zeros(E, dtype=torch.float64))
    assert_close(output(network, x, torch.zeros_like(condition)), output(same, x))


@every_network
def test_gradients_reach_each_number_of_the_condition_and_every_weight_and_each_example_sees_its_own(kind, case):
    network = made(kind, case)
    x, condition = inputs(network)
    condition.requires_grad_()
    result = output(network, x, condition)
    weight = torch.randn_like(result)
    gradients = torch.autograd.grad((weight * result).sum(), [condition, *network.parameters()], retain_graph=True)
    assert (gradients[0] != 0).all()
    assert all(gradient.any() for gradient in gradients)
    (gradient,) = torch.autograd.grad((weight * result)[1].sum(), condition)
    assert gradient[1].all()
    assert not gradient[[0, 2]].any()


def test_linear_networks_are_their_closed_form():
    encoder, decoder = made("encoder", "mlp linear"), made("decoder", "mlp linear")
    for network, inputs_of_x in ((encoder, 10), (decoder, D)):
        (x, condition), head = inputs(network), network.head
        w, v = head.weight[:, :inputs_of_x], head.weight[:, inputs_of_x:]
        expected = x.flatten(1) @ w.T + condition @ v.T + head.bias
        assert v.shape[1] == E
        assert_close(output(network, x, condition).flatten(1), expected)


@pytest.mark.parametrize(
    ("kind", "case", "wider"),
    [("encoder", "mlp", "input_shape"), ("decoder", "mlp", "latent_dim"), ("decoder", "conv1d", "latent_dim")],
)
def test_a_dense_network_is_the_unconditional_one_on_the_concatenation(kind, case, wider):
    network = made(kind, case)
    x, condition = inputs(network)
    size = x[0].numel() + E
    plain = made(kind, case, 0, **{wider: (size,)})
    plain.load_state_dict(network.state_dict())
    both = torch.cat((x.flatten(1), condition), 1)
    assert torch.equal(output(network, x, condition), output(plain, both))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_gets_what_planes_of_constants_would_give_it_but_for_the_border(rank):
    shape, options = (2, *(8, 10, 6)[:rank]), {"latent_dim": D, "channels": (5,), "spatial": True}
    planes = encoders.create(CONVOLUTIONAL[rank], input_shape=(2 + E, *shape[1:]), **options).double()
    network = encoders.create(CONVOLUTIONAL[rank], input_shape=shape, condition_dim=E, **options).double()
    kernel = planes.convolutions[0].weight
    with torch.no_grad():
        for own, value in zip(
            network.parameters(),
            [kernel[:, :2], planes.convolutions[0].bias, kernel[:, 2:].flatten(2).sum(2), *planes.head.parameters()],
            strict=True,
        ):
            own.copy_(value)
    x, condition = inputs(network)
    constant = condition.reshape(B, E, *(1,) * rank).expand(B, E, *shape[1:])
    result, expected = output(network, x, condition), output(planes, torch.cat((x, constant), 1))
    inside = (..., *(slice(1, None),) * rank)  # even sizes: only a first position looks beyond the border
    assert_close(result[inside], expected[inside])
    assert not torch.allclose(result, expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_decoder_of_spatial_latents_is_the_unconditional_one_with_more_latents(rank):
    shape, options = (1, *(8, 5, 6)[:rank]), {"channels": (5,)}
    positions = tuple(-(-size // 2) for size in shape[1:])
    network = decoders.create(
        CONVOLUTIONAL[rank], latent_dim=(D, *positions), output_shape=shape, condition_dim=E, **options
    ).double()
    planes = decoders.create(CONVOLUTIONAL[rank], latent_dim=(D + E, *positions), output_shape=shape, **options).double()
    with torch.no_grad():
        first, added, *_ = network.body
        columns = added.linear.weight.reshape(5, E, *(1,) * rank)
        for own, value in zip(
            planes.parameters(),
            [torch.cat((first.weight, columns), 1), first.bias, *network.convolutions.parameters()],
            strict=True,
        ):
            own.copy_(value)
    z, condition = inputs(network)
    constant = condition.reshape(B, E, *(1,) * rank).expand(B, E, *positions)
    assert_close(output(network, z, condition), output(planes, torch.cat((z, constant), 1)))


def test_a_new_residual_encoder_sees_its_condition_after_one_step_and_a_new_decoder_at_once():
    options = {"channels": (4,), "condition_dim": E}
    encoder = encoders.create("resnet", input_shape=(2, 6), latent_dim=D, **options)
    decoder = decoders.create("resnet", output_shape=(2, 6), latent_dim=D, **options)
    x, z, condition = torch.randn(B, 2, 6), torch.randn(B, D), torch.randn(B, E)
    assert torch.equal(output(encoder, x, condition), output(encoder, x, -condition))
    assert not torch.allclose(decoder(z, condition), decoder(z, -condition))
    output(encoder, x, condition).square().sum().backward()
    torch.optim.SGD(encoder.parameters(), lr=1e-3).step()
    assert not torch.equal(output(encoder, x, condition), output(encoder, x, -condition))


def test_logvar_starts_where_it_is_told_for_every_condition():
    for case, (shape, options) in ENCODERS.items():
        encoder = encoders.create(
            case.split()[0],
            input_shape=shape,
            latent_dim=D,
            posterior={"name": "diagonal_gaussian", "initial_logvar": -3.0},
            condition_dim=E,
            **options,
        )
        q = encoder(torch.randn(B, *shape), 10.0 * torch.randn(B, E))
        assert_close(q.logvar, torch.full_like(q.logvar, -3.0))


# Precisions, memory formats, compilation, small batches.


@every_network
def test_bfloat16_weights_and_autocast_are_close_to_double_precision(kind, case):
    network = made(kind, case)
    x, condition = inputs(network)
    expected = output(network, x, condition)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = output(network.float(), x.float(), condition.float())
        again = output(network, x.float(), condition.bfloat16())  # as a linear layer under autocast hands it on
    low = output(network.bfloat16(), x.bfloat16(), condition.bfloat16())
    assert low.dtype == torch.bfloat16
    for result in (mixed, again, low):
        assert torch.cosine_similarity(result.double().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("case", ["conv spatial", "resnet", "conv3d spatial"])
def test_channels_last_stays_channels_last(case):
    network = made("encoder", case)
    x, condition = inputs(network)
    expected = output(network, x, condition)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    strides = []
    for module in network.modules():
        if isinstance(module, AddedCondition):
            module.register_forward_hook(lambda module, given, result: strides.append((given[0].stride(), result.stride())))
    network, x = network.to(memory_format=layout), x.to(memory_format=layout)
    assert_close(output(network, x, condition), expected)
    assert strides
    assert all(before == after for before, after in strides)
    assert x.ndim == 5 or all(before[1] == 1 for before, _ in strides)  # torch's own convolution of volumes changes the format


@pytest.mark.compile
@every_network
def test_every_network_compiles_into_one_graph(kind, case):
    """As it does without a condition: tests/encoders/test_networks.py."""
    network = made(kind, case)
    x, condition = inputs(network)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: output(network, *arguments), fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, condition), output(network, x, condition))
    with pytest.raises(Exception, match="the shape"):
        compiled(x, condition[:, :2])


@every_network
@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch_and_one_example_have_conditions_too(kind, case, n):
    network = made(kind, case)
    assert len(output(network, *inputs(network, n))) == n


@pytest.mark.parametrize(("kind", "case"), [("encoder", "mlp"), ("encoder", "conv spatial"), ("decoder", "resnet")])
def test_batch_normalisation_and_a_condition_go_together(kind, case):
    network = made(kind, case, normalization="batch")
    x, condition = inputs(network)
    assert not torch.allclose(output(network, x, condition), output(network, x, condition.flip(0)))
    network.eval()
    one = output(network, x[1:2], condition[1:2])
    assert_close(output(network, x, condition)[1:2], one)


# What the option is, and what is refused.


@pytest.mark.parametrize("registry", [encoders, decoders], ids=["encoders", "decoders"])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_the_option_off_and_tells_of_it(registry, name):
    page = registry.describe(name)
    assert page.options["condition_dim"] == 0
    assert "condition_dim" in page.documentation


@every_network
def test_networks_know_their_condition_and_without_one_have_no_weights_for_it(kind, case):
    network, plain = made(kind, case), made(kind, case, 0)
    assert (network.condition_dim, plain.condition_dim) == (E, 0)
    assert sum(p.numel() for p in network.parameters()) > sum(p.numel() for p in plain.parameters())
    assert not [module for module in plain.modules() if isinstance(module, AddedCondition)]


@pytest.mark.parametrize(("kind", "case"), [network for network in NETWORKS if "resnet" in network[1]], ids=" ".join)
def test_every_residual_block_sees_the_condition(kind, case):
    blocks = [module for module in made(kind, case).modules() if isinstance(module, ResidualBlock)]
    for block in blocks:
        assert [isinstance(module, AddedCondition) for module in block.residual].count(True) == 1
    assert len(blocks) == (4 if case == "resnet" else 6)  # in two levels, and the two at the lowest resolution


@every_network
def test_conditions_that_do_not_fit_are_refused_with_what_to_do(kind, case):
    network, plain = made(kind, case), made(kind, case, 0)
    x, condition = inputs(network)
    with pytest.raises(ValueError, match=rf"{type(network).__name__}.*condition_dim=4.*\[batch, 4\]"):
        network(x)
    with pytest.raises(ValueError, match=rf"{type(plain).__name__}.*no condition.*condition_dim"):
        plain(x, condition)
    for wrong in (condition[:2], condition[:, :3], condition[0], condition[None], condition[:1]):
        with pytest.raises(ValueError, match=rf"\(3, 4\).*condition_dim=4.*\({wrong.shape[0]}"):
            network(x, wrong)
    for wrong, given in ((condition.long(), "torch.int64"), ([0, 1, 2], "list")):
        with pytest.raises(TypeError, match=rf"\[batch, 4\].*{given}.*vaekit\.conditions"):
            network(x, wrong)


@pytest.mark.parametrize("size", [-1, True, 2.0, None, "4"])
@pytest.mark.parametrize(("kind", "case"), [("encoder", "mlp"), ("decoder", "conv")])
def test_a_condition_dim_is_a_whole_number(kind, case, size):
    with pytest.raises(ValueError, match=f"condition_dim.*whole number.*{size!r}"):
        made(kind, case, size)


@pytest.mark.parametrize("normalization", ["layer", "group"])
@pytest.mark.parametrize(("kind", "case"), [("encoder", "conv"), ("encoder", "resnet"), ("decoder", "conv spatial")])
def test_a_condition_that_normalisation_would_subtract_again_is_refused(kind, case, normalization):
    channels = {"channels": (1, 1) if kind == "decoder" else (1, 4), "normalization": normalization}
    with pytest.raises(ValueError, match=f"normalization='{normalization}'.*one channel"):
        made(kind, case, **channels)
    made(kind, case, 0, **channels)
    made(kind, case, **{**channels, "normalization": "batch"})


def test_classes_of_ones_own_need_to_know_nothing_of_conditions():
    class Silent(vaekit.Encoder):
        def __init__(self):
            super().__init__((3,), 2)
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            return self.posterior(self.linear(x))

    class Mute(vaekit.Decoder):
        def __init__(self):
            super().__init__(2, (3,))
            self.linear = nn.Linear(2, 3)

        def forward(self, z):
            return self.linear(z)[:, None]

    assert Silent.condition_dim == Mute.condition_dim == Silent().condition_dim == Mute().condition_dim == 0
    vae = vaekit.VAE(Silent(), Mute(), likelihood=vaekit.likelihoods.create("gaussian"))
    assert vae(torch.rand(5, 3)).total.isfinite()
    for base in (vaekit.Encoder, vaekit.Decoder):
        assert inspect.signature(base.forward).parameters["condition"].default is None
