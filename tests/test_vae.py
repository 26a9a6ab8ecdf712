"""Laws of the model: parts that do not fit are refused, and what it computes is what its parts compute."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vaekit
from vaekit import VAE
from vaekit.decoders import MLPDecoder
from vaekit.encoders import ConvEncoder, MLPEncoder
from vaekit.likelihoods import Bernoulli, Gaussian

SHAPE = (2, 3)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
keys = st.integers(-(2**63), 2**64 - 1).map(vaekit.make_key)
quick = settings(max_examples=20, deadline=None)


def model(shape=SHAPE, latent_dim=2, seed=0, **parts) -> VAE:
    sizes = {"encoder": {"hidden": (5,)}, "decoder": {"hidden": (5,)}}
    return vaekit.create_vae(**{**sizes, **parts}, input_shape=shape, latent_dim=latent_dim, seed=seed)


def data(n, shape=SHAPE, seed=0, dtype=torch.float32):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def compose(encoder=None, decoder=None, likelihood=None, **others):
    return VAE(
        encoder or MLPEncoder((4,), 2, (5,)),
        decoder or MLPDecoder(2, (4,), hidden=(5,)),
        likelihood=likelihood or Bernoulli(),
        **others,
    )


# Composition.


@quick
@given(one=shapes, other=shapes)
def test_parts_compose_exactly_when_their_data_shapes_are_equal(one, other):
    encoder, decoder = MLPEncoder(one, 2, ()), MLPDecoder(2, other, hidden=())
    if one == other:
        assert compose(encoder, decoder).input_shape == one
        return
    with pytest.raises(ValueError) as caught:
        compose(encoder, decoder)
    assert f"{one}" in str(caught.value)
    assert f"{other}" in str(caught.value)


@quick
@given(one=st.integers(1, 5), other=st.integers(1, 5))
def test_parts_compose_exactly_when_their_latents_are_equal(one, other):
    encoder, decoder = MLPEncoder((4,), one, ()), MLPDecoder(other, (4,), hidden=())
    if one == other:
        assert compose(encoder, decoder).latent_shape == (one,)
        return
    with pytest.raises(ValueError, match=rf"latents.*\({one},\).*decoder.*\({other},\)"):
        compose(encoder, decoder)


@pytest.mark.parametrize(
    ("given_p", "likelihood", "needed"), [(1, Gaussian("element"), 2), (2, Gaussian(), 1), (2, Bernoulli(), 1)]
)
def test_another_number_of_parameters_per_element_is_refused_and_the_right_one_named(given_p, likelihood, needed):
    with pytest.raises(ValueError, match=f"{type(likelihood).__name__}.*parameters_per_element={needed}"):
        compose(decoder=MLPDecoder(2, (4,), given_p, (5,)), likelihood=likelihood)
    compose(decoder=MLPDecoder(2, (4,), needed, (5,)), likelihood=likelihood)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "likelihood", "prior", "loss"])
@pytest.mark.parametrize(
    "wrong", ["mlp", {"name": "mlp"}, torch.nn.Linear(4, 4), MLPEncoder], ids=["name", "spec", "module", "class"]
)
def test_what_is_no_part_is_refused_with_the_way_to_go(kind, wrong):
    with pytest.raises(TypeError, match=rf"{kind}.*vaekit\.{kind.title()}.*vaekit\.create_vae"):
        compose(**{kind: wrong})


def test_swapped_parts_are_refused():
    with pytest.raises(TypeError, match="encoder has to be"):
        VAE(MLPDecoder(2, (4,)), MLPEncoder((4,), 2), likelihood=Bernoulli())


def test_the_prior_and_the_loss_are_the_standard_ones_unless_given():
    assert isinstance(compose().prior, vaekit.StandardNormal)
    assert isinstance(compose().loss, vaekit.Elbo)
    prior, loss = vaekit.StandardNormal(), vaekit.Elbo(2.0)
    vae = compose(prior=prior, loss=loss)
    assert vae.prior is prior
    assert vae.loss is loss


# What comes in.


@pytest.mark.parametrize("call", [lambda v, x: v(x), lambda v, x: v.encode(x), lambda v, x: v.reconstruct(x)])
class TestInput:
    @pytest.mark.parametrize("shape", [(5, 3, 2), (5, 6), (5,), (), (5, 2, 3, 1), (5, 2, 1)])
    def test_another_shape_is_refused_with_both_shapes(self, call, shape):
        with pytest.raises(ValueError) as caught:
            call(model(), torch.rand(shape))
        assert str(caught.value) == f"x has to have the shape [batch, 2, 3], got {tuple(shape)}"

    def test_a_missing_batch_dimension_says_how_to_add_it(self, call):
        with pytest.raises(ValueError, match=r"\(2, 3\).*x\[None\]"):
            call(model(), data(1)[0])

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
    def test_integers_are_refused_with_what_to_do(self, call, dtype):
        with pytest.raises(TypeError, match=rf"{dtype}.*x\.float\(\) / 255"):
            call(model(), torch.zeros(5, *SHAPE, dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
    def test_another_precision_is_refused_with_what_to_do(self, call, dtype):
        with pytest.raises(TypeError, match=rf"{dtype}.*x\.to\(torch\.float32\)"):
            call(model(), torch.zeros(5, *SHAPE, dtype=dtype))


@pytest.mark.parametrize("shape", [(5, 3), (5,), (2,), (5, 2, 1), ()])
def test_decode_refuses_latents_of_another_shape(shape):
    with pytest.raises(ValueError) as caught:
        model().decode(torch.zeros(shape))
    assert str(caught.value) == f"z has to have the shape [batch, 2], got {tuple(shape)}"


# The terms.


@quick
@given(
    n=st.integers(0, 6),
    shape=shapes,
    latent_dim=st.integers(1, 4),
    key=keys,
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_total_is_the_mean_of_the_terms_and_an_empty_batch_gives_zero(n, shape, latent_dim, key, dtype):
    terms = model(shape, latent_dim).to(dtype)(data(n, shape, dtype=dtype), key=key)
    assert terms.reconstruction.shape == terms.kl.shape == (n,)
    assert terms.total.shape == ()
    assert terms.total.dtype == dtype
    expected = (terms.reconstruction + terms.kl).double().mean() if n else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(terms.total.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_an_empty_batch_has_gradients_that_are_zero_and_not_nan():
    vae = model()
    vae(data(0), key=vaekit.make_key(0)).total.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in vae.parameters())


def test_an_empty_batch_is_reconstructed_to_an_empty_one():
    assert model().reconstruct(data(0)).shape == (0, *SHAPE)


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_divergence_only_in_the_total(beta):
    key, x = vaekit.make_key(7), data(5)
    plain, weighted = model()(x, key=key), model(loss={"beta": beta})(x, key=key)
    assert torch.equal(plain.kl, weighted.kl)
    assert torch.equal(plain.reconstruction, weighted.reconstruction)
    torch.testing.assert_close(weighted.total, (plain.reconstruction + beta * plain.kl).mean())


def test_the_terms_are_the_formulas_in_nats():
    vae, x, key = model(), data(5), vaekit.make_key(3)
    terms, q = vae(x, key=key), vae.encode(x)
    z, _ = q.rsample_kl(vae.prior, key=key)
    normal = torch.distributions.Normal(q.mu, torch.exp(0.5 * q.logvar))
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    p = vae.decode(z)
    nll = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(-1)
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.reconstruction, nll)


@quick
@given(n=st.integers(1, 6), row=st.integers(0, 5), key=keys, filler=st.sampled_from([0.0, 1.0, 1e30, float("nan")]))
def test_a_rows_terms_do_not_depend_on_the_other_rows(n, row, key, filler):
    row, vae, x = row % n, model(), data(n)
    others = torch.full_like(x, filler)
    others[row] = x[row]
    one, other = vae(x, key=key), vae(others, key=key)
    torch.testing.assert_close(one.reconstruction[row], other.reconstruction[row])
    torch.testing.assert_close(one.kl[row], other.kl[row])


def test_gradients_reach_every_weight():
    vae = model(likelihood={"name": "gaussian", "variance": "shared"})
    vae(data(8), key=vaekit.make_key(0)).total.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_those_of_finite_differences():
    vae, x, key = model().double(), data(3, dtype=torch.float64), vaekit.make_key(5)
    vae(x, key=key).total.backward()
    weight, step = vae.encoder.head.weight, 1e-6
    for index in ((0, 0), (3, 4)):
        with torch.no_grad():
            weight[index] += step
            above = vae(x, key=key).total
            weight[index] -= 2 * step
            below = vae(x, key=key).total
            weight[index] += step
        torch.testing.assert_close(weight.grad[index], (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


# The noise.


@quick
@given(key=keys)
def test_one_key_gives_one_result(key):
    vae, x = model(), data(4)
    for call in (lambda: vae(x, key=key).total, lambda: vae.sample(4, key=key), lambda: vae.sample(4, draw=True, key=key)):
        assert torch.equal(call(), call())


NOISY = {
    "forward": lambda vae, **noise: vae(data(4), **noise).total,
    "sample": lambda vae, **noise: vae.sample(4, **noise),
    "draw": lambda vae, **noise: vae.sample(4, draw=True, **noise),
}


@pytest.mark.parametrize("call", NOISY.values(), ids=NOISY)
class TestNoise:
    def test_manual_seed_repeats_calls_without_a_key(self, call):
        vae = model()
        torch.manual_seed(3)
        first, second = call(vae), call(vae)
        torch.manual_seed(3)
        assert torch.equal(call(vae), first)
        assert torch.equal(call(vae), second)
        assert not torch.equal(first, second)

    def test_a_generator_repeats_and_leaves_the_global_one_alone(self, call):
        vae, before = model(), torch.get_rng_state()
        first, again = (call(vae, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_key_leaves_the_global_generator_alone(self, call):
        vae, before = model(), torch.get_rng_state()
        call(vae, key=vaekit.make_key(1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_key_gives_another_result(self, call):
        vae = model()
        assert not torch.equal(call(vae, key=vaekit.make_key(1)), call(vae, key=vaekit.make_key(2)))


# Encode, decode, reconstruct, sample.


@quick
@given(n=st.integers(0, 5), shape=shapes, latent_dim=st.integers(1, 4))
def test_reconstruct_is_decode_of_the_posterior_mean_without_gradients(n, shape, latent_dim):
    vae, x = model(shape, latent_dim), data(n, shape)
    q = vae.encode(x)
    assert q.mean.shape == (n, latent_dim)
    got = vae.reconstruct(x)
    assert torch.equal(got, vae.decode(q.mean))
    assert got.shape == x.shape
    assert not got.requires_grad


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", {"name": "gaussian", "variance": "element"}], ids=str)
def test_decode_is_the_likelihoods_mean_of_the_decoders_output(likelihood):
    vae, z = model(likelihood=likelihood), torch.randn(4, 2)
    assert torch.equal(vae.decode(z), vae.likelihood.mean(vae.decoder(z)))
    assert vae.decode(z).requires_grad


@quick
@given(n=st.integers(0, 7), shape=shapes, key=keys, draw=st.booleans())
def test_sample_gives_n_examples_in_the_weights_dtype(n, shape, key, draw):
    drawn = model(shape).double().sample(n, draw=draw, key=key)
    assert drawn.shape == (n, *shape)
    assert drawn.dtype == torch.float64
    assert not drawn.requires_grad


def test_samples_are_decoded_draws_from_the_prior():
    vae, key = model(), vaekit.make_key(5)
    z = vae.prior.sample((6, 2), key=key, dtype=torch.float32)
    assert torch.equal(vae.sample(6, key=key), vae.decode(z))


def test_draws_from_a_bernoulli_are_coins_with_the_mean_that_sample_shows():
    vae, key = model(), vaekit.make_key(5)
    drawn, means = vae.sample(4000, draw=True, key=key), vae.sample(4000, key=key)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # The mean of 4000 coins is within 5 standard deviations, 5 * 0.5 / sqrt(4000).
    torch.testing.assert_close(drawn.mean(0), means.mean(0), rtol=0, atol=0.04)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_draws_from_a_gaussian_are_sigma_away_from_the_mean(sigma):
    vae, key = model(likelihood={"name": "gaussian", "sigma": sigma}), vaekit.make_key(5)
    noise = vae.sample(4000, draw=True, key=key) - vae.sample(4000, key=key)
    # 24,000 values: the estimate of sigma has a relative standard deviation of 1 / sqrt(48000).
    assert float(noise.std()) == pytest.approx(sigma, rel=5 / 48000**0.5)
    z = vae.prior.sample((4000, 2), key=key, dtype=torch.float32)
    streams = torch.stack((noise.flatten()[: z.numel()], z.flatten()))  # element i of a stream is element i of the tensor
    assert abs(torch.corrcoef(streams)[0, 1]) < 5 / z.numel() ** 0.5, "the noise of x is not that of z"


@pytest.mark.parametrize("n", [-1, -100])
def test_a_negative_number_of_samples_is_refused(n):
    with pytest.raises(ValueError, match=f"samples.*{n}"):
        model().sample(n)


def test_the_mode_and_autocast_do_not_stop_a_forward_pass():
    vae = model().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vae(data(4), key=vaekit.make_key(0))
    assert terms.total.isfinite()
    torch.testing.assert_close(terms.total, vae(data(4), key=vaekit.make_key(0)).total, rtol=0.05, atol=0)


def test_convolutional_and_dense_parts_mix():
    vae = compose(ConvEncoder((1, 5, 7), 2, (2,), (4,)), MLPDecoder(2, (1, 5, 7), hidden=()))
    assert vae(torch.rand(3, 1, 5, 7)).total.isfinite()


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (torch.tensor([1, 2, 3]), ValueError, r"key has to have the shape \(2,\)"),
        (torch.tensor([1.0, 2.0]), TypeError, "key has to be an int64 tensor"),
    ],
)
def test_keys_are_checked_wherever_they_are_taken(key, error, message):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    for call in (lambda **noise: vae(torch.rand(3, 4), **noise), lambda **noise: vae.sample(2, **noise)):
        with pytest.raises(error, match=message):
            call(key=key)
        with pytest.raises(ValueError, match="a key or a generator, not both"):
            call(key=vaekit.make_key(0), generator=torch.Generator())
        call(key=torch.tensor([1, 2], dtype=torch.uint64))  # PyTorch's own keys


def test_an_encoder_that_returns_no_posterior_is_told_what_to_return():
    class Tuple(vaekit.Encoder):
        def forward(self, x):
            return x, x

    parts = vaekit.create_vae(input_shape=(4,), latent_dim=4)
    vae = vaekit.VAE(Tuple((4,), 4), parts.decoder, likelihood=parts.likelihood)
    with pytest.raises(TypeError, match=r"vaekit\.DiagonalGaussian\(mu, logvar\).*tuple"):
        vae.encode(torch.rand(2, 4))


@pytest.mark.parametrize("prior", ["standard_normal", "gaussian_mixture", {"name": "vamp", "components": 10}, "flow"])
def test_draws_of_data_have_noise_that_the_prior_has_not_used(prior):
    """A decoder that looks at nothing gives data that is independent of z, and so of whatever the prior drew."""
    n = 4000
    vae = vaekit.create_vae(input_shape=(1,), latent_dim=1, encoder={"name": "mlp", "hidden": ()}, prior=prior, seed=0)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.zero_()
        vae.encoder.head.weight.copy_(torch.tensor([[1.0], [0.0]]))  # q(z | x) = N(x, 1)
        for name, parameter in vae.prior.named_parameters():  # components in order of their numbers, and far apart
            if name in ("mu", "pseudo_inputs"):
                parameter.copy_(torch.linspace(-50.0, 50.0, 10)[:, None])
    key = vaekit.make_key(3)
    x = vae.sample(n, draw=True, key=key).flatten()
    z = vae.prior.sample((n, 1), key=key, dtype=torch.float32).detach().flatten()
    correlation = torch.corrcoef(torch.stack([x, z]))[0, 1]
    assert abs(correlation) < 4 / n**0.5


def test_samples_are_refused_from_a_prior_that_belongs_to_another_model():
    mine, other = (vaekit.create_vae(input_shape=(4,), latent_dim=2, prior="vamp", seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="belongs to another model"):
        mine.sample(3, prior=other.prior)
    assert mine.sample(3, prior=mine.prior).shape == (3, 4)


def test_a_name_is_no_prior_to_sample_from():
    with pytest.raises(TypeError, match=r"vaekit\.Prior.*'flow'"):
        vaekit.create_vae(input_shape=(4,), latent_dim=2).sample(3, prior="flow")
