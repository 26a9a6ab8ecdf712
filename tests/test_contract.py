"""What every registered part does, whatever its name: forward, backward, save and load, both precisions, small batches."""

import pytest
import torch
from helpers.densities import REQUIRED, data_in_support

import vaekit
from vaekit import conditions, decoders, encoders, likelihoods, losses, priors

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
SMALL = {"resnet": {"channels": (4, 8), "attention": True}}
VQ = {"posterior": "vector_quantized", "prior": "codes", "loss": "vector_quantized"}  # which go with each other only
PARTS = [
    *({"encoder": {"name": name, **SMALL.get(name, {})}} for name in encoders.names()),
    *({"decoder": {"name": name, **SMALL.get(name, {})}} for name in decoders.names()),
    *({"encoder": {"name": name, "channels": (4,), "spatial": True}} for name in ("conv", "conv1d", "conv3d", "resnet")),
    {"encoder": {"name": "conv", "spatial": True}, "decoder": {"name": "conv"}},
    *({"encoder": {"name": "mlp", "normalization": n, "dropout": 0.5}} for n in ("layer", "group")),
    {"encoder": {"name": "mlp", "logvar_bound": 8.0, "initial_logvar": -2.0}},
    *({"decoder": {"name": "conv", "upsample": u}} for u in ("transpose", "nearest", "bilinear")),
    *({"likelihood": {"name": name, **REQUIRED.get(name, {})}} for name in likelihoods.names()),
    *({"likelihood": {"name": name, option: how}} for name, option in WHERE_FROM for how in ("fixed", "shared", "element")),
    *({"likelihood": {"name": name, "missing": "ignore", **REQUIRED.get(name, {})}} for name in likelihoods.names()),
    *({"prior": name} for name in priors.names() if name not in VQ.values()),
    *({"loss": name} for name in losses.names() if name not in VQ.values()),
    {"posterior": "full_gaussian", "encoder": {"name": "conv", "channels": (4,), "spatial": True}},
    {"posterior": {"name": "flow", "context": 2}},
    {"posterior": {"name": "flow", "kind": "nsf"}, "prior": "flow"},
    {"posterior": {"name": "flow", "context": 1}, "loss": {"name": "iwae", "gradient": "doubly_reparameterized"}},
    VQ,
    {**VQ, "encoder": {"name": "conv", "spatial": True}, "decoder": {"name": "conv"}},
    {"condition": {"name": "labels", "classes": 3}},
    {"condition": {"name": "labels", "classes": 3, "dim": 2}},
    {"condition": {"name": "vector", "size": 2, "dim": 2}},
    {"loss": {"name": "iwae", "gradient": "doubly_reparameterized"}, "encoder": {"name": "conv", "spatial": True}},
    {"loss": {"name": "beta_tc", "sampling": "weighted", "beta": {"name": "linear", "steps": 10, "start": 1.0, "end": 6.0}}},
    {"loss": {"name": "dip_vae", "kind": "i"}},
    {"loss": {"name": "info_vae", "alpha": 1.0, "kernel": "rbf", "scales": [0.5, 2.0], "statistic": "v"}},
]


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_part_keeps_the_contract(part, dtype, batch, tmp_path):
    names = [spec if isinstance(spec, str) else spec["name"] for spec in part.values()]
    shape = next((SHAPES[name] for name in names if name in SHAPES), IMAGE)
    vae = vaekit.create_vae(input_shape=shape, latent_dim=2, seed=0, **part).to(dtype)
    with torch.no_grad():
        for parameter in vae.parameters():  # what starts at 0 (the end of a residual block) holds the gradients before it back
            parameter.copy_(torch.where(parameter.any(), parameter, 0.1 * torch.randn_like(parameter)))
    x = data_in_support(vae.likelihood, (batch, *shape)).to(dtype)
    if vae.likelihood.missing == "ignore":
        x.flatten(1)[:, :2] = torch.nan
    vae.likelihood.check(x)
    told = {conditions.Labels: torch.arange(batch) % 3, conditions.Vector: torch.rand(batch, 2).to(dtype)}.get(
        type(vae.condition)
    )
    terms = vae(x, told, key=vaekit.make_key(1), dataset_size=10)
    assert terms.total.dtype == dtype
    assert terms.reconstruction.shape == terms.kl.shape == (batch,)
    assert terms.total.isfinite()
    terms.objective.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all()
        if batch:
            assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"
    if not batch:
        assert terms.total == 0
    vae.eval()
    terms = vae(x, told, key=vaekit.make_key(1), dataset_size=10)
    again = vaekit.load(vae.save(tmp_path)).eval()
    assert torch.equal(again(x, told, key=vaekit.make_key(1), dataset_size=10).total, terms.total)
    assert torch.equal(again.reconstruct(x, told), vae.reconstruct(x, told))
    assert again.reconstruct(x, told).isfinite().all()
    drawn = vae.sample(batch, told, draw=True, key=vaekit.make_key(2))
    assert drawn.shape == (batch, *shape)
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
        (encoders, {"name": "conv", "input_shape": (13,), "latent_dim": 2}, r"convolutions take images .* got the shape \(13,\)"),
        (encoders, {"name": "conv", "input_shape": (1, 8, 8), "latent_dim": 2, "channels": ()}, "at least one convolution"),
        (encoders, {"name": "mlp", "input_shape": (), "latent_dim": 2}, "at least one dimension"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 0}, "latent_dim has to be a whole number of at least 1"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "hidden": (0,)}, "every entry of hidden .* got 0"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "hidden": 64}, "hidden has to be a sequence"),
        (encoders, {"name": "mlp", "input_shape": (3,), "latent_dim": 2, "activation": "rleu"}, "Did you mean 'relu'"),
        (decoders, {"name": "conv", "latent_dim": 2, "output_shape": (1, 8, 8), "upsample": "cubic"}, "upsample has to be"),
    ],
)
def test_options_that_make_no_network_are_refused(registry, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        registry.create(options.pop("name"), **options)
