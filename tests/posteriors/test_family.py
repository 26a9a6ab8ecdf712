"""Laws of how an encoder's last layer becomes a posterior, on families of the tests' own."""

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import encoders
from vaekit.posteriors import DiagonalGaussianFamily, Family, GaussianFamily
from vaekit.posteriors.family import bounded

ENCODERS = [
    {"name": "mlp", "input_shape": (7,), "hidden": (6,)},
    {"name": "conv", "input_shape": (2, 7, 5), "channels": (4, 6)},
    {"name": "conv", "input_shape": (2, 7, 5), "channels": (4, 6), "spatial": True},
    {"name": "resnet", "input_shape": (2, 7), "channels": (4, 6), "spatial": True},
]
every_encoder = pytest.mark.parametrize("options", ENCODERS, ids=str)


class Seen(vaekit.DiagonalGaussian):
    """A posterior that remembers what its family was given."""


class Extra(GaussianFamily):
    """A family with five numbers besides mean and log variance, which start at 7."""

    def __init__(self, latent_shape, **options):
        super().__init__(latent_shape, **options, extra=5)

    def posterior(self, mu, logvar, extra):
        posterior = Seen(mu, logvar)
        posterior.extra = extra
        return posterior

    def start_extra(self, weight, bias):
        weight.zero_()
        bias.fill_(7.0)


class MeanOnly(Family):
    """A family without log variances."""

    def forward(self, numbers):
        return vaekit.DiagonalGaussian(numbers, torch.zeros_like(numbers))


def made(options, posterior, **more):
    options = {**options, **more}
    torch.manual_seed(0)
    encoder = encoders.create(options.pop("name"), latent_dim=3, posterior=posterior, **options)
    return encoder, torch.randn(4, *encoder.input_shape)


def latent_shape(options):
    return made(options, "diagonal_gaussian")[0].latent_shape


@every_encoder
def test_the_last_layer_gives_means_log_variances_and_the_rest(options):
    shape = latent_shape(options)
    encoder, x = made(options, Extra(shape, logvar_bound=2.0, initial_logvar=-1.0))
    seen = []
    encoder.head.register_forward_hook(lambda module, given, out: seen.append(out))
    posterior = encoder(x)
    assert seen[0].shape == (4, 11, *shape[1:])
    assert_close(posterior.mu, seen[0][:, :3], rtol=0.0, atol=0.0)
    assert_close(posterior.logvar, bounded(seen[0][:, 3:6], 2.0), rtol=0.0, atol=0.0)
    assert_close(posterior.logvar, torch.full_like(posterior.logvar, -1.0))
    assert_close(posterior.extra, torch.full((4, 5, *shape[1:]), 7.0), rtol=0.0, atol=0.0)


@every_encoder
def test_a_family_without_log_variances_takes_means_alone(options):
    shape = latent_shape(options)
    encoder, x = made(options, MeanOnly(shape))
    assert encoder(x).mean.shape == (4, *shape)
    assert encoder.head(torch.zeros(1, encoder.head.weight.shape[1], *shape[1:])).shape[1] == 3


def test_naming_the_diagonal_gaussian_changes_nothing():
    unnamed, x = made(ENCODERS[0], "diagonal_gaussian")
    torch.manual_seed(0)
    named = encoders.create("mlp", input_shape=(7,), hidden=(6,), latent_dim=3, posterior=DiagonalGaussianFamily((3,)))
    assert list(named.state_dict()) == list(unnamed.state_dict())
    assert torch.equal(named(x).mu, unnamed(x).mu)
    assert torch.equal(named(x).logvar, unnamed(x).logvar)


@pytest.mark.parametrize(
    ("posterior", "error", "said"),
    [
        (Extra((4,)), ValueError, r"Extra is made for latents of the shape \(4,\), but the encoder's have \(3,\)"),
        (Extra, TypeError, "posterior has to be a name"),
        (None, TypeError, "posterior has to be a name"),
        ({"extra": 3}, TypeError, '"name".*diagonal_gaussian'),
        ("diagonal", vaekit.UnknownNameError, "diagonal_gaussian"),
        ({"name": "diagonal_gaussian", "rank": 2}, TypeError, "rank"),
    ],
)
def test_what_is_no_family_is_refused(posterior, error, said):
    with pytest.raises(error, match=said):
        made(ENCODERS[0], posterior)


class Unstarted(Extra):
    """One whose extra numbers start as they are drawn."""

    def start_extra(self, weight, bias):
        pass


def test_the_start_of_logvar_is_that_of_logvar_alone():
    encoder, x = made(ENCODERS[0], Unstarted((3,), initial_logvar=-1.0))
    posterior = encoder(x)
    assert_close(posterior.logvar, torch.full((4, 3), -1.0))
    assert (posterior.extra != 0).all()
    assert posterior.mu.std() > 0


def test_extra_numbers_do_not_make_the_others_smaller():
    """Weights are drawn by the numbers that each part gives: the bound of Glorot's uniform, sqrt(6 / (inputs + outputs))."""
    encoder, _ = made({"name": "mlp", "input_shape": (7,), "hidden": (400,)}, Unstarted((3,)))
    for part, outputs in ((encoder.head.weight[:6], 6), (encoder.head.weight[6:], 5)):
        bound = (6.0 / (400 + outputs)) ** 0.5
        assert 0.98 * bound < part.abs().max() <= bound
