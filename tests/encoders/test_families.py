"""Families of posteriors in models: by name, option or object, with every encoder, from training to loading and pictures."""

import pytest
import torch
from helpers.densities import OF_SEVERAL
from torch.testing import assert_close

import vaekit
from vaekit import encoders, plots, posteriors
from vaekit.posteriors import DiagonalGaussian, FlowFamily, FlowPosterior, FullGaussian, FullGaussianFamily

pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")

FLOW = {"name": "flow", "transforms": 1, "hidden": [8], "context": 2}
FAMILIES = pytest.mark.parametrize("posterior", ["full_gaussian", FLOW], ids=["full_gaussian", "flow"])
KEY = vaekit.make_key(1)
ENCODERS = [
    ((7,), {"name": "mlp", "hidden": (16,)}),
    ((2, 8), {"name": "conv1d", "channels": (4,)}),
    ((1, 8, 6), {"name": "conv", "channels": (4, 4)}),
    ((1, 8, 6), {"name": "conv", "channels": (4, 4), "spatial": True}),
    ((1, 4, 6, 4), {"name": "conv3d", "channels": (4,), "spatial": True}),
    ((1, 8, 6), {"name": "resnet", "channels": (4, 4), "blocks": 1}),
    ((2, 8), {"name": "resnet", "channels": (4, 4), "blocks": 1, "spatial": True}),
]
CONDITIONS = {"none": None, "labels": {"name": "labels", "classes": 3, "dim": 2}}


def compose(shape=(7,), encoder=None, **options):
    encoder = {"name": "mlp", "hidden": (16,)} if encoder is None else encoder
    options = {"decoder": {"name": "mlp", "hidden": (16,)}, "likelihood": "gaussian", "latent_dim": 3, "seed": 0, **options}
    return vaekit.create_vae(input_shape=shape, encoder=encoder, **options)


def test_every_encoder_is_here():
    assert {encoder["name"] for _, encoder in ENCODERS} | {"top_down"} == set(
        encoders.names()
    ) - OF_SEVERAL  # which has a family of its own


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(("shape", "encoder"), ENCODERS, ids=str)
@FAMILIES
def test_every_encoder_trains_saves_and_loads_with_it(posterior, shape, encoder, condition, tmp_path):
    vae = compose(shape, encoder, posterior=posterior, condition=CONDITIONS[condition])
    x, y = torch.randn(24, *shape), torch.arange(24) % 3
    told = None if condition == "none" else y
    data = x if told is None else (x, y)
    q = vae.encode(x, told)
    assert isinstance(q, FullGaussian if posterior == "full_gaussian" else FlowPosterior)
    assert q.mean.shape == (24, *vae.latent_shape)
    before = vaekit.evaluate(vae, data)["loss"]
    vaekit.fit(vae, data, epochs=8, batch_size=12, learning_rate=5e-3, progress=False, device="cpu")
    assert vaekit.evaluate(vae, data)["loss"] < before
    again = vaekit.load(vae.save(tmp_path))
    assert again.config() == vae.config()
    assert again.config()["encoder"]["posterior"] == (posterior if posterior == FLOW else {"name": "full_gaussian"})
    vae.eval(), again.eval()
    assert all(torch.equal(*pair) for pair in zip(again(x, told, key=KEY)[:3], vae(x, told, key=KEY)[:3], strict=True))
    assert torch.equal(again.reconstruct(x, told), vae.reconstruct(x, told))
    bound = vaekit.evaluation.importance_weighted_bound(vae, data, num_samples=20)
    assert bound.per_example.isfinite().all()


@pytest.mark.parametrize(("shape", "encoder"), ENCODERS, ids=str)
@FAMILIES
def test_a_new_encoder_has_the_diagonal_gaussian(posterior, shape, encoder):
    x = torch.randn(5, *shape)
    q, diagonal = compose(shape, encoder, posterior=posterior).encode(x), compose(shape, encoder).encode(x)
    assert isinstance(diagonal, DiagonalGaussian)
    if posterior == "full_gaussian":
        assert (q.lower == 0).all()
        assert q.scale_tril.diagonal(dim1=-2, dim2=-1).movedim(-1, 1).shape == q.logvar.shape
        diagonal = DiagonalGaussian(q.mu, q.logvar)  # the weights of a larger layer are drawn differently
    else:
        diagonal = q.base
    for got, expected in zip(q.rsample_log_prob(key=KEY), diagonal.rsample_log_prob(key=KEY), strict=True):
        assert_close(got, expected, rtol=1e-5, atol=1e-5)


@FAMILIES
def test_the_bound_and_the_start_of_logvar_hold(posterior):
    x = torch.randn(5, 7)
    full = posterior == "full_gaussian"
    posterior = {"name": posterior} if isinstance(posterior, str) else posterior
    started = compose(posterior={**posterior, "initial_logvar": -3.0}).encode(x)
    bounded = compose(posterior={**posterior, "logvar_bound": 2.0})
    with torch.no_grad():
        bounded.encoder.head.weight.mul_(1e4)
    bounded = bounded.encode(x)
    started, bounded = (q.logvar if full else q.base.logvar for q in (started, bounded))
    assert_close(started, torch.full((5, 3), -3.0))
    assert 1.9 < bounded.abs().max() <= 2.0 * (1 + 1e-6)


@FAMILIES
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("spatial", [False, True])
def test_it_keeps_the_contract_in_double_precision_and_for_small_batches(posterior, batch, spatial, tmp_path):
    vae = compose((1, 8, 6), {"name": "conv", "channels": (4, 4), "spatial": spatial}, posterior=posterior).double()
    x = torch.randn(batch, 1, 8, 6, dtype=torch.float64)
    terms = vae(x, key=KEY)
    assert terms.total.dtype == terms.kl.dtype == torch.float64
    assert terms.kl.shape == (batch,)
    terms.total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in vae.parameters())
    assert torch.equal(vaekit.load(vae.save(tmp_path))(x, key=KEY).total, terms.total)


@FAMILIES
def test_autocast_leaves_densities_in_single_precision(posterior):
    vae, x = compose(posterior=posterior), torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        terms = vae(x, key=KEY)
    assert terms.kl.dtype == torch.float32
    terms.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters())


@pytest.mark.parametrize("posterior", [{"name": "flow", "transforms": 0}, "diagonal_gaussian"], ids=str)
def test_a_flow_of_no_maps_is_the_diagonal_gaussian_by_name_too(posterior):
    x, diagonal, vae = torch.randn(5, 7), compose(), compose(posterior=posterior)
    for got, expected in zip(vae(x, key=KEY)[:3], diagonal(x, key=KEY)[:3], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(FullGaussianFamily((3,)), FullGaussian), (FlowFamily((3,), "nsf", 1, (8,)), FlowPosterior)],
    ids=["full", "flow"],
)
def test_a_family_can_be_given_as_an_object(family, kind, tmp_path):
    vae, x = compose(posterior=family), torch.randn(5, 7)
    assert vae.encoder.family is family
    assert isinstance(vae.encode(x), kind)
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again(x, key=KEY).total, vae(x, key=KEY).total)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"posterior": "ful_gaussian"}, KeyError, "unknown posterior 'ful_gaussian'. Did you mean 'full_gaussian'"),
        ({"posterior": {"transforms": 2}}, TypeError, "diagonal_gaussian.*'transforms'"),
        (
            {"posterior": {"name": "flow", "layers": 2}},
            TypeError,
            "posterior 'flow' takes no option 'layers'. .*It takes: latent_shape",
        ),
        ({"posterior": {"name": "full_gaussian", "rank": 1}}, TypeError, "posterior 'full_gaussian' takes no option 'rank'"),
        ({"posterior": 3}, TypeError, "posterior has to be a name, .* got 3"),
        (
            {"posterior": FullGaussianFamily((2,))},
            ValueError,
            r"made for latents of the shape \(2,\), but the encoder's have \(3,\)",
        ),
        (
            {"posterior": "flow", "encoder": {"name": "mlp", "posterior": "full_gaussian"}},
            TypeError,
            "there are two posteriors, that of posterior= .*'flow'.* and the encoder's 'full_gaussian'; give yours",
        ),
        (
            {"posterior": "flow", "encoder": encoders.MLPEncoder((7,), 3)},
            TypeError,
            "the encoder is an object, with a posterior already",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        compose(**options)


@FAMILIES
def test_all_pictures_of_it_can_be_drawn(posterior):
    vae = compose((1, 8, 8), latent_dim=2, posterior=posterior, likelihood="bernoulli")
    x, y = torch.rand(30, 1, 8, 8), torch.arange(30) % 3
    for figure in (
        plots.reconstructions(vae, x[:5]),
        plots.samples(vae, 4),
        plots.latent_space(vae, x, y),
        plots.latent_grid(vae, side=3),
        plots.traversals(vae, x[:1], steps=3),
    ):
        assert figure.axes


def test_their_pages_say_what_they_are():
    for name, words in (("full_gaussian", ("1906.02691", "exact")), ("flow", ("1505.05770", "1606.04934", "context"))):
        page = repr(posteriors.describe(name))
        assert all(word in page for word in words)
