"""What every registered part does, whatever its name: forward, backward, save and load, both precisions, small batches."""

import copy

import pytest
import torch
from helpers.densities import OF_SEVERAL, REQUIRED, data_in_support

import vaekit
from vaekit import conditions, decoders, encoders, likelihoods, losses, posteriors, priors
from vaekit.inferred import InferredLabels
from vaekit.multimodal import specs_of

IMAGE = (1, 9, 7)
WHERE_FROM = [
    ("gaussian", "variance"),
    ("laplace", "scale"),
    ("student_t", "scale"),
    ("student_t", "freedom"),
    ("negative_binomial", "dispersion"),
    ("zero_inflated_negative_binomial", "dispersion"),
]
SHAPES = {"conv1d": (2, 9), "conv3d": (1, 5, 4, 3), "columns": (3,)}  # of the parts that take no images
MODALITIES = specs_of({"a": {"shape": (3,), "likelihood": "gaussian"}, "b": {"shape": (1, 2, 2), "encoder": {"hidden": (8,)}}})
SHAPES["modalities"] = MODALITIES.pop("input_shape")
SHAPES["autoregressive"] = (5,)
SMALL = {"resnet": {"channels": (4, 8), "attention": True}, "top_down": {"channels": (4, 8), "groups": (1, 2)}}
VQ = {"posterior": "vector_quantized", "prior": "codes", "loss": "vector_quantized"}  # which go with each other only
CODES = (
    {"name": "finite_scalar", "levels": 65},
    "lookup_free",
    {"name": "residual_vector_quantized", "codes": 4},
)  # go with these too; levels so fine that not all are 0
OF_CODES = {"codes", "autoregressive_codes", "pixel_cnn"}
LADDER = {"posterior": {"name": "ladder", "hidden": (4,), "activation": "tanh"}, "prior": "top_down"}
SPATIAL = {"encoder": {"name": "conv", "spatial": True}, "decoder": {"name": "conv"}}
PARTS = [
    *({"encoder": {"name": name, **SMALL.get(name, {})}} for name in encoders.names() if name not in OF_SEVERAL),
    *({"decoder": {"name": name, **SMALL.get(name, {})}} for name in decoders.names() if name not in {"top_down", *OF_SEVERAL}),
    *({"encoder": {"name": name, "channels": (4,), "spatial": True}} for name in ("conv", "conv1d", "conv3d", "resnet")),
    {"encoder": {"name": "conv", "spatial": True}, "decoder": {"name": "conv"}},
    *({"encoder": {"name": "mlp", "normalization": n, "dropout": 0.5}} for n in ("layer", "group")),
    {"posterior": {"name": "diagonal_gaussian", "logvar_bound": 8.0, "initial_logvar": -2.0}},
    *({"decoder": {"name": "conv", "upsample": u}} for u in ("transpose", "nearest", "bilinear")),
    *({"likelihood": {"name": name, **REQUIRED.get(name, {})}} for name in likelihoods.names() if name not in OF_SEVERAL),
    *(
        {"likelihood": {"name": name, option: how}}
        for name, option in WHERE_FROM
        for how in ("fixed", "shared", "feature", "element")
    ),
    *(
        {"likelihood": {"name": name, "missing": "ignore", **REQUIRED.get(name, {})}}
        for name in likelihoods.names()
        if name not in OF_SEVERAL
    ),
    *({"prior": name} for name in priors.names() if name not in OF_CODES | {"top_down", "uniform_sphere", "wrapped_normal"}),
    LADDER,
    {**LADDER, "decoder": {"name": "top_down", "decoder": {"name": "mlp", "hidden": (8,)}}, "loss": {"name": "iwae"}},
    {
        "encoder": {"name": "top_down", **SMALL["top_down"]},
        "prior": {"name": "top_down", "temperature": (1.0, 0.8, 1.2)},
        "decoder": {"name": "top_down", "decoder": {"name": "resnet", "channels": (8,), "blocks": 1}},
    },
    {"posterior": {"name": "gumbel_softmax", "codes": 4}, "prior": "codes"},
    {**VQ, **SPATIAL, "prior": {"name": "autoregressive_codes", "width": 8, "layers": 1, "dropout": 0.0}},
    {**VQ, **SPATIAL, "prior": {"name": "pixel_cnn", "width": 8, "layers": 2, "dropout": 0.0}},
    {**VQ, "posterior": {"name": "vector_quantized", "codes": 4, "heads": 2, "codebook_dim": 3, "distance": "cosine"}},
    *({"loss": name} for name in losses.names() if name not in (*VQ.values(), "autoencoder", "semi_supervised", "mvae")),
    {"posterior": "point", "loss": {"name": "autoencoder", "beta": 0.5, "l2": 1e-3}},
    {"posterior": "point", "loss": "wae"},
    {"posterior": "full_gaussian", "encoder": {"name": "conv", "channels": (4,), "spatial": True}},
    {"posterior": {"name": "flow", "context": 2}},
    {"posterior": {"name": "flow", "kind": "nsf"}, "prior": "flow"},
    {"posterior": {"name": "flow", "context": 1}, "loss": {"name": "iwae", "gradient": "doubly_reparameterized"}},
    {"posterior": {"name": "planar_flow", "transforms": 2}},
    {"posterior": {"name": "radial_flow", "amortized": False}},
    {"posterior": {"name": "planar_flow", "transforms": 1}, "loss": {"name": "iwae", "gradient": "doubly_reparameterized"}},
    *({"posterior": name, "prior": "uniform_sphere"} for name in ("von_mises_fisher", "power_spherical")),
    {"posterior": "power_spherical", "prior": "uniform_sphere", "loss": "iwae"},
    {"posterior": "wrapped_normal", "prior": "wrapped_normal"},
    {"posterior": {"name": "committed_gaussian", "rate": 0.5}},
    VQ,
    *({**VQ, "posterior": posterior} for posterior in CODES),
    {**VQ, "encoder": {"name": "conv", "spatial": True}, "decoder": {"name": "conv"}},
    {"condition": {"name": "labels", "classes": 3}},
    {"condition": {"name": "labels", "classes": 3, "dim": 2}},
    {"condition": {"name": "vector", "size": 2, "dim": 2}},
    {"condition": {"name": "several", "parts": [{"name": "labels", "classes": 3}, {"name": "vector", "size": 2}]}},
    {"loss": {"name": "iwae", "gradient": "doubly_reparameterized"}, "encoder": {"name": "conv", "spatial": True}},
    {"loss": {"name": "beta_tc", "sampling": "weighted", "beta": {"name": "linear", "steps": 10, "start": 1.0, "end": 6.0}}},
    {"loss": {"name": "dip_vae", "kind": "i"}},
    {"loss": "semi_supervised", "condition": {"name": "inferred_labels", "classes": 3}},
    {**MODALITIES, "loss": "mvae"},
    {
        "likelihood": {"name": "autoregressive", "shape": (5,), "step": {"name": "categorical", "classes": 4}, "hidden": 8},
        "encoder": {"name": "recurrent", "hidden": 8},
    },
    *({**MODALITIES, "encoder": {**MODALITIES["encoder"], "fusion": fusion}} for fusion in encoders.fusions.names()),
    {"loss": "semi_supervised", "condition": {"name": "inferred_labels", "classes": 3, "dim": 2, "classifier": "conv"}},
    {"loss": {"name": "info_vae", "alpha": 1.0, "kernel": "rbf", "scales": [0.5, 2.0], "statistic": "v"}},
]


PER_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
PER_PART = pytest.mark.parametrize("part", PARTS, ids=str)
KEY = vaekit.make_key(1)
BATCHES = (0, 1, 3)
ROOMS = {"encoder": encoders, "decoder": decoders, "likelihood": likelihoods, "prior": priors, "loss": losses}


def name_of(spec):
    return spec if isinstance(spec, str) else spec["name"]


@pytest.mark.parametrize("kind", [*ROOMS, "condition", "posterior"])
def test_every_registered_part_is_held_to_the_contract(kind):
    room = {**ROOMS, "condition": conditions, "posterior": posteriors}[kind]
    defaults = {"condition": set(), "posterior": {"diagonal_gaussian"}}.get(kind, set())
    assert {name_of(part[kind]) for part in PARTS if kind in part} | defaults == set(room.names())


def made(part, dtype) -> vaekit.VAE:
    """A small model around one part, no weight of which is zero everywhere."""
    shape = next((SHAPES[name] for name in map(name_of, part.values()) if name in SHAPES), IMAGE)
    vae = vaekit.create_vae(input_shape=shape, latent_dim=2, seed=0, **part).to(dtype)
    with torch.no_grad():
        for parameter in vae.parameters():  # what starts at 0 (the end of a residual block) holds the gradients before it back
            parameter.copy_(torch.where(parameter.any(), parameter, 0.1 * torch.randn_like(parameter)))
    return vae


def data_for(vae, dtype, batch):
    """Examples and the conditions that go with them."""
    x = data_in_support(vae.likelihood, (batch, *vae.decoder.output_shape)).to(dtype)
    if vae.likelihood.missing == "ignore":
        x.flatten(1)[:, -2:] = torch.nan  # where sequences end
    vae.likelihood.check(x)
    labels, vectors = torch.arange(batch) % 3, torch.rand(batch, 2).to(dtype)
    values = {
        conditions.Labels: labels,
        InferredLabels: torch.where(torch.arange(batch) > 1, -1, labels),
        conditions.Vector: vectors,
        conditions.Several: torch.cat([labels[:, None].to(dtype), vectors], dim=1),
    }
    return x, values.get(type(vae.condition))


def terms_of(vae, data):
    return vae(*data, key=KEY, dataset_size=10)


@PER_PART
@PER_DTYPE
def test_terms_are_finite_with_one_for_each_example_in_the_models_dtype(part, dtype):
    vae = made(part, dtype)
    for batch in BATCHES:
        terms = terms_of(vae, data_for(vae, dtype, batch))
        assert terms.total.dtype == dtype, f"batch of {batch}"
        assert terms.reconstruction.shape == terms.kl.shape == (batch,), f"batch of {batch}"
        for values in (terms.reconstruction, terms.kl, terms.total):
            assert values.isfinite().all(), f"batch of {batch}"
        if not batch:
            assert terms.total == 0


@PER_PART
@PER_DTYPE
@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_are_finite_and_reach_every_weight(part, dtype, batch):
    vae = made(part, dtype)
    terms_of(vae, data_for(vae, dtype, batch)).objective.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
        if batch:
            assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"


class Networks:
    """What a model's networks give in the calls of one step, in their order: recorded, or given again in float32."""

    def __init__(self, vae, again=None):
        posterior, self.numbers, self.parameters = vae.encoder.posterior, [], []
        if again is not None:
            numbers, parameters = (iter([t.detach().float().requires_grad_() for t in kept]) for kept in again.outputs)
            vae.encoder.forward = lambda *inputs: vae.encoder.posterior(next(numbers))
            vae.decoder.forward = lambda z, *rest: next(parameters) + 0.0 * z.sum()
        vae.encoder.posterior = lambda numbers: posterior(self.keep(self.numbers, numbers))
        vae.decoder.register_forward_hook(lambda module, inputs, output: self.keep(self.parameters, output))

    @staticmethod
    def keep(where, output):
        where.append(output)
        return output

    @property
    def outputs(self):
        return self.numbers, self.parameters

    def gradients(self, terms):
        """Of the divergences for the encoder's numbers, and of the reconstructions for the decoder's."""
        for term, outputs in zip((terms.kl, terms.reconstruction), self.outputs, strict=True):
            if term.requires_grad:  # the divergence of codes is a constant
                yield from torch.autograd.grad(term.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("part", [part for part in PARTS if not OF_SEVERAL & set(map(name_of, part.values()))], ids=str)
def test_a_lower_precision_is_one_of_the_networks_and_of_nothing_else(part):
    """Bit for bit the terms are what float32 makes of the networks' outputs, and so are their gradients."""
    if part.get("loss") == "hamiltonian":
        pytest.skip("it follows the decoder's gradient, which is not recorded here; see tests/losses/test_hamiltonian.py")
    low = made(part, torch.float32)
    single, again = copy.deepcopy(low), copy.deepcopy(low)
    kept, kept_single = Networks(low), Networks(single)
    data = data_for(low, torch.float32, 3)
    with torch.autocast("cpu", torch.bfloat16):
        terms = terms_of(low, data)
    terms_of(single, data)
    rounded = (False, low.decoder.gives_logits)
    for lower, full, is_rounded in zip(kept.outputs, kept_single.outputs, rounded, strict=True):
        assert not any(map(torch.equal, lower, full)), "the networks computed in float32"
        assert all(torch.equal(output, output.bfloat16()) == is_rounded for output in lower), "the last layers"
    kept_again = Networks(again, kept)
    expected = terms_of(again, data)
    for name, term in {**expected._asdict(), **expected.extras}.items():
        if isinstance(term, torch.Tensor):
            same = terms.extras[name] if name in expected.extras else getattr(terms, name)
            assert same.dtype == torch.float32, name
            assert torch.equal(same, term), name
    for gradient, expected_gradient in zip(kept.gradients(terms), kept_again.gradients(expected), strict=True):
        assert torch.equal(gradient, expected_gradient.to(gradient.dtype))


@PER_PART
def test_a_decoder_sees_differences_in_z_that_a_lower_precision_does_not_have(part):
    vae = made(part, torch.float32)
    condition = () if vae.condition is None else (torch.rand(16, vae.decoder.condition_dim),)
    one = 1.0 + torch.randint(128, (16, *vae.latent_shape), generator=torch.Generator().manual_seed(0)) / 128
    near = one + 2.0**-12
    assert torch.equal(one.bfloat16(), near.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)  # for dropout
        first = vae.decoder(one, *condition)
        torch.manual_seed(0)
        second = vae.decoder(near, *condition)
    assert not torch.equal(first, second)


@PER_PART
@PER_DTYPE
def test_a_saved_model_comes_back_with_the_same_numbers(part, dtype, tmp_path):
    vae = made(part, dtype)
    x, condition = data = data_for(vae, dtype, 3)
    terms_of(vae, data)  # what a training step changes (running averages, codebooks) is saved with the weights
    vae.eval()
    again = vaekit.load(vae.save(tmp_path)).eval()
    assert again.config() == vae.config()
    assert torch.equal(terms_of(again, data).total, terms_of(vae, data).total)
    assert torch.equal(again.reconstruct(x, condition), vae.reconstruct(x, condition))


@PER_PART
@PER_DTYPE
def test_reconstructions_are_finite_and_draws_are_data_of_the_likelihood(part, dtype):
    vae = made(part, dtype).eval()
    for batch in BATCHES:
        x, condition = data_for(vae, dtype, batch)
        reconstruction = vae.reconstruct(x, condition)
        assert (reconstruction.dtype, len(reconstruction)) == (dtype, batch)
        assert reconstruction.isfinite().all(), f"batch of {batch}"
        drawn = vae.sample(batch, condition, draw=True, key=KEY)
        assert drawn.shape == x.shape
        vae.likelihood.check(drawn)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 45, 17), (2, 1, 1), (4, 2, 3)])
@pytest.mark.parametrize("upsample", ["transpose", "nearest", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_convolutions_come_back_to_exactly_the_shape_they_started_from(shape, upsample, depth):
    encoder = encoders.create("conv", input_shape=shape, latent_dim=3, channels=(4,) * depth, hidden=(5,))
    decoder = decoders.create(
        "conv", latent_dim=3, output_shape=shape, parameters_per_element=2, channels=(4,) * depth, upsample=upsample
    )
    assert decoder(encoder(torch.zeros(2, *shape)).mean).shape == (2, 2, *shape)


@pytest.mark.parametrize("shape", [(13,), (1, 45, 17), (2, 3, 4, 5)])
def test_dense_parts_take_any_shape(shape):
    vae = vaekit.create_vae(input_shape=shape, latent_dim=2)
    assert vae.reconstruct(torch.rand(2, *shape)).shape == (2, *shape)


@pytest.mark.parametrize(
    ("registry", "options", "message"),
    [
        (encoders, {"name": "conv", "input_shape": (13,), "latent_dim": 2}, r"images.*\(13,\)"),
        (encoders, {"name": "conv", "input_shape": (1, 8, 8), "latent_dim": 2, "channels": ()}, "at least one convolution"),
        (encoders, {"name": "mlp", "input_shape": (), "latent_dim": 2}, "at least one dimension"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 0}, "latent_dim.*0"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "hidden": (0,)}, "hidden.*0"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "hidden": 64}, "hidden.*sequence"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "activation": "rleu"}, "'rleu'.*'relu'"),
        (decoders, {"name": "conv", "latent_dim": 2, "output_shape": (1, 8, 8), "upsample": "cubic"}, "upsample.*'cubic'"),
    ],
)
def test_options_that_make_no_network_are_refused(registry, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        registry.create(options.pop("name"), **options)
