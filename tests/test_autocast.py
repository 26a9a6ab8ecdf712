"""Under autocast the encoder and the decoder compute in a lower precision, whoever wrote them, and nothing else does."""

import mpmath
import pytest
import torch
from torch import nn

import vaekit
from vaekit import DiagonalGaussian, make_key
from vaekit.flows import invertible_network
from vaekit.posteriors import FlowPosterior, FullGaussian
from vaekit.posteriors.base import Posterior

KEY = make_key(3)
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
LOWER = pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)


class Point(Posterior):
    """Somebody else's: a uniform distribution around the mean, kept in a list as well."""

    def __init__(self, mean):
        self.mean, self.held = mean, [mean]

    def _rsample(self, draw):
        return self.held[0] + draw.noise(self.held[0])

    def log_prob(self, z):
        return torch.zeros(z.shape[:-1])


FLOW = invertible_network(2, "maf", 1, (4,))
MADE = {
    "diagonal": lambda n: DiagonalGaussian(n[:, :2], n[:, 2:4]),
    "full": lambda n: FullGaussian(n[:, :2], n[:, 2:4], n[:, 4:]),
    "flow": lambda n: FlowPosterior(n[:, :2], n[:, 2:4], FLOW),
    "somebody else's": lambda n: Point(n[:, :2]),
}


class OwnEncoder(vaekit.Encoder):
    """A linear layer that knows nothing of precisions."""

    def __init__(self, made=MADE["diagonal"], applied=lambda numbers: numbers):
        super().__init__((6,), 2)
        self.linear, self.made, self.applied = nn.Linear(6, 5), made, applied
        self.numbers = []

    def forward(self, x):
        self.numbers.append(self.linear(x))
        return self.made(self.applied(self.numbers[-1]))


class OwnDecoder(vaekit.Decoder):
    def __init__(self, parameters=1):
        super().__init__(2, (6,), parameters)
        self.linear = nn.Linear(2, parameters * 6)

    def forward(self, z):
        return self.linear(z).unflatten(1, (-1, 6))


def own(likelihood="gaussian", **options):
    torch.manual_seed(0)
    return vaekit.VAE(OwnEncoder(**options), OwnDecoder(), likelihood=vaekit.likelihoods.create(likelihood))


@LOWER
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_a_posterior_of_an_encoder_of_ones_own_comes_out_in_single_precision(made, lower):
    encoder = OwnEncoder(made)
    with torch.autocast("cpu", lower):
        q = encoder(X)
    assert encoder.numbers[0].dtype == lower
    assert q.mean.dtype == q.rsample(key=KEY).dtype == torch.float32
    expected = made(encoder.numbers[0].float())
    assert torch.equal(q.mean, expected.mean)
    assert torch.equal(q.rsample(key=KEY), expected.rsample(key=KEY))


def test_the_divergence_is_that_of_the_rounded_numbers_to_single_precision():
    encoder = OwnEncoder()
    with torch.autocast("cpu", torch.bfloat16):
        z, kl = encoder(X).rsample_kl(vaekit.StandardNormal(), key=KEY)
    assert z.dtype == kl.dtype == torch.float32
    with mpmath.workdps(40):
        for row, value in zip(encoder.numbers[0].tolist(), kl.tolist(), strict=True):
            exact = sum(
                (mpmath.mpf(m) ** 2 + mpmath.exp(v) - 1 - mpmath.mpf(v)) / 2 for m, v in ((row[0], row[2]), (row[1], row[3]))
            )
            assert value == pytest.approx(float(exact), rel=1e-6)


def test_a_count_is_seen_with_all_its_digits():
    counts = torch.tensor([[1001.0, 257.0, 12345.0, 0.0, 1.0, 99999.0]])
    vae, rates = own("poisson"), []
    vae.decoder.register_forward_hook(lambda module, inputs, output: rates.append(output.detach()))
    with torch.no_grad():
        vae.encoder.linear.weight.mul_(1e-5)
        vae.decoder.linear.bias.copy_(counts.clamp(min=1.0).log()[0])
    with torch.autocast("cpu", torch.bfloat16):
        nll = vae(counts, key=KEY).reconstruction.item()
    assert rates[0].dtype == torch.bfloat16
    with mpmath.workdps(40):
        pairs = zip(rates[0].flatten().tolist(), counts.flatten().tolist(), strict=True)
        exact = sum(mpmath.exp(rate) - mpmath.mpf(x) * mpmath.mpf(rate) + mpmath.loggamma(x + 1) for rate, x in pairs)
    assert nll == pytest.approx(float(exact), rel=1e-5)


def test_weights_may_be_changed_within_autocast():
    """Autocast keeps casts of weights until it ends, those of before a step too."""
    vae = vaekit.create_vae(input_shape=(6,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)})
    with torch.autocast("cpu", torch.bfloat16):
        before = vae(X.sigmoid(), key=KEY).total
        with torch.no_grad():
            for weight in vae.parameters():
                weight.mul_(2.0)
        after = vae(X.sigmoid(), key=KEY).total
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, vae(X.sigmoid(), key=KEY).total)
    assert not torch.equal(after, before)


def test_what_a_device_does_not_compute_in_that_precision_is_said():
    vae = own(applied=torch.special.bessel_j0)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RuntimeError, match=r'OwnEncoder .*torch\.bfloat16 for on cpu.*"32"'),
    ):
        vae(X, key=KEY)
    assert vae(X, key=KEY).total.isfinite()  # in single precision again


def test_a_call_that_fails_leaves_no_precision_behind():
    vae = own()
    vae.likelihood.nll = None
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError):
        vae(X, key=KEY)
    assert vae.encoder.autocast_dtype is vae.decoder.autocast_dtype is None


@pytest.mark.compile
def test_compiled_it_is_one_graph_with_the_same_terms():
    vae = vaekit.create_vae(
        input_shape=(6,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, prior="vamp", seed=0
    )
    compiled = torch.compile(vae, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        terms, expected = compiled(X.sigmoid(), key=KEY), vae(X.sigmoid(), key=KEY)
    assert torch.equal(terms.total, expected.total)
    assert not torch.equal(terms.total, vae(X.sigmoid(), key=KEY).total)


@LOWER
@pytest.mark.parametrize("name", ["mlp", "conv", "resnet"])
def test_the_last_layer_is_in_lower_precision_where_it_gives_logits(name, lower):
    """As a sum over elements the nll is off by less than a 256th of the logits' size; Poisson's logarithms are not rounded."""
    x = torch.randint(2, (5, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    given = {}
    for likelihood in ("bernoulli", {"name": "categorical", "classes": 3}, "poisson", "gaussian"):
        vae = vaekit.create_vae(
            input_shape=(1, 8, 8), latent_dim=2, encoder="mlp", decoder={"name": name}, likelihood=likelihood, seed=0
        )
        vae.decoder.register_forward_hook(lambda module, inputs, output: given.update(parameters=output.detach()))
        with torch.no_grad():
            vae.decoder.output_bias.normal_(0.0, 4.0, generator=torch.Generator().manual_seed(2))
        exact = vae(x, key=KEY).reconstruction
        size = given["parameters"].abs().amax(1).flatten(1).sum(1)
        with torch.autocast("cpu", lower):
            terms = vae(x, key=KEY)
        assert given["parameters"].dtype == (lower if vae.likelihood.has_logits else torch.float32)
        assert terms.reconstruction.dtype == torch.float32
        if vae.likelihood.has_logits:
            assert torch.all((terms.reconstruction - exact).abs() <= size / 256)


def test_which_likelihoods_have_logits():
    ours = {name: part for name, part in vaekit.likelihoods.registry.parts().items() if part.__module__.startswith("vaekit.")}
    assert {name for name, part in ours.items() if part.has_logits} == {"bernoulli", "categorical"}


@LOWER
def test_a_parameter_that_the_condition_alone_gives_is_in_single_precision(lower):
    """A dispersion's logarithm is as sensitive as a rate's."""
    decoder = vaekit.decoders.create(
        "mlp", latent_dim=2, output_shape=(6,), parameters_per_element=2, condition_dim=3, from_condition=(1,)
    )
    z, condition = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.eye(3)[[0, 1, 2, 0, 1]]
    with torch.autocast("cpu", lower):
        parameters = decoder(z, condition)
    assert torch.equal(parameters[:, 1], decoder(z, condition)[:, 1])
