"""Distances on features: closed forms and plain loops, what they do not depend on, and a network that stays as it is."""

import copy
import sys
import types
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit.distances import LPIPS, Distance, FeatureDistance, Features

X, MADE = (torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))


class Maps(nn.Module):
    """Two feature maps, and a dropout that evaluation mode turns off."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.first, self.second, self.factor = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3, stride=2), factor
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        first = self.dropout(self.first(x)).relu()
        return [self.factor * first, self.factor * self.second(first)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Maps().double()


def maps(network, x):
    return copy.deepcopy(network).eval()(x)


# Values.


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_of_unit_length_it_is_equation_1_of_lpips_written_as_loops(network, norm):
    expected = []
    for made, x in zip(MADE, X, strict=True):
        total = 0.0
        for of_made, of_x in zip(maps(network, made[None]), maps(network, x[None]), strict=True):
            of_made, of_x = of_made[0].flatten(1).T, of_x[0].flatten(1).T  # [positions, channels]
            for one, other in zip(of_made, of_x, strict=True):
                one, other = (v / max(float(v.detach().norm()), 1e-300) for v in (one, other))
                apart = one - other
                total += float((apart**2 if norm == "l2" else apart.abs()).sum()) / len(of_made)
        expected.append(total)
    assert_close(Features(network, norm=norm)(MADE, X), torch.tensor(expected, dtype=torch.float64))


def test_otherwise_it_is_the_mean_squared_difference_of_each_map(network):
    each = [(a - b).square().flatten(1).mean(1) for a, b in zip(maps(network, MADE), maps(network, X), strict=True)]
    assert_close(Features(network, unit_length=False)(MADE, X), sum(each))


def test_a_function_is_a_network_and_the_identity_gives_the_pixels():
    distance = Features(lambda x: x, unit_length=False)
    assert_close(distance(MADE, X), (MADE - X).square().flatten(1).mean(1))
    assert_close(Features(lambda x: x, unit_length=False, norm="l1")(MADE, X), (MADE - X).abs().flatten(1).mean(1))


def test_of_unit_length_it_does_not_depend_on_how_strong_features_are(network):
    strong = Maps(factor=37.0).double()
    strong.load_state_dict(network.state_dict())
    assert_close(Features(strong)(MADE, X), Features(network)(MADE, X))
    ratio = Features(strong, unit_length=False)(MADE, X) / Features(network, unit_length=False)(MADE, X)
    assert_close(ratio, torch.full_like(ratio, 37.0**2))


def test_equal_pictures_are_0_apart_and_features_that_are_0_have_a_gradient_that_is_finite():
    for unit_length in (True, False):
        x = torch.zeros(2, 3, 4, 4, requires_grad=True)
        distance = Features(lambda x: x, unit_length=unit_length)(x, torch.zeros(2, 3, 4, 4))
        assert torch.equal(distance, torch.zeros(2))
        distance.sum().backward()
        assert x.grad.isfinite().all()


def test_the_gradient_is_that_of_the_reconstruction_alone(network):
    made, x = MADE.clone().requires_grad_(), X.clone().requires_grad_()
    Features(network)(made, x).sum().backward()
    assert made.grad.any()
    assert x.grad is None


# A network that stays as it is.


def test_the_network_that_was_given_stays_as_it_is_and_the_distance_with_it():
    given = Maps().double().train()
    distance = Features(given)
    before = distance(MADE, X)
    assert given.training
    assert all(weight.requires_grad for weight in given.parameters())
    with torch.no_grad():
        given.first.weight.zero_()
    assert torch.equal(distance(MADE, X), before)


def test_its_weights_are_not_the_models_and_follow_its_dtype():
    loss = {"name": "perceptual", "distances": [{"name": "features", "network": Maps()}]}
    vae = vaekit.create_vae(input_shape=(3, 12, 10), latent_dim=2, likelihood="gaussian", loss=loss, seed=0)
    assert not dict(vae.loss.named_parameters())
    assert not [name for name in vae.state_dict() if name.startswith("loss")]
    assert vae(X.float()).extras["features"].shape == (4,)
    (distance,) = vae.loss.distances
    low, high = distance(MADE.float(), X.float()), distance(MADE, X)
    assert (low.dtype, high.dtype) == (torch.float32, torch.float64)
    assert_close(low.double(), high, rtol=1e-4, atol=1e-6)


class Seeded(FeatureDistance):
    """Random features, the same in every model."""

    made = 0

    def __init__(self, channels, weight=1.0):
        super().__init__(weight, unit_length=False)
        self.channels = channels

    def make_network(self):
        Seeded.made += 1
        return nn.Conv2d(1, self.channels, 3)


vaekit.distances.register("seeded-features")(Seeded)


def test_a_registered_distance_of_ones_own_is_saved_by_its_options_and_made_when_it_is_needed(tmp_path):
    spec = {"name": "seeded-features", "channels": 5, "weight": {"name": "linear", "steps": 10}}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, loss={"name": "perceptual", "distances": [spec]}, seed=0)
    x, key, before = torch.rand(4, 1, 8, 8), vaekit.make_key(0), Seeded.made
    vae.save(tmp_path)
    again = vaekit.load(tmp_path)
    assert Seeded.made == before
    torch.manual_seed(1)
    one = vae.eval()(x, key=key)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3)), "making a network draws nothing from torch's generator"
    two = again(x, key=key)
    assert Seeded.made == before + 2
    assert torch.equal(one.total, two.total)
    assert one.extras["seeded-features"].min() > 0
    assert again.config() == vae.config()


def test_a_model_with_a_network_that_is_an_object_says_how_it_could_be_saved(tmp_path):
    loss = {"name": "perceptual", "distances": [{"name": "features", "network": Maps()}]}
    vae = vaekit.create_vae(input_shape=(3, 12, 10), latent_dim=2, loss=loss)
    with pytest.raises(ValueError, match="option 'distances' is a Maps, which a config cannot hold.*registered part"):
        vae.save(tmp_path)


# Mistakes.


@pytest.mark.parametrize("gives", [None, [], torch.rand(3, 2), [torch.rand(4)], [torch.rand(4, 2), "map"]])
def test_what_is_no_feature_map_is_refused(gives):
    with pytest.raises(ValueError, match="has to give one tensor .4, channels, ...."):
        Features(lambda x: gives)(MADE, X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "vgg"}, TypeError, "a torch module or a function of pictures, got 'vgg'"),
        ({"norm": "l3"}, ValueError, "norm has to be one of 'l2', 'l1', got 'l3'"),
        ({"unit_length": 1}, TypeError, "unit_length has to be True or False"),
        ({"weight": -1.0}, ValueError, "weight has to be at least 0"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Features(**{"network": nn.Identity(), **options})


# LPIPS.


def test_lpips_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vaekit\[perceptual\]'.*a network of your own"):
        LPIPS()(MADE, X)


def test_lpips_offline_says_where_its_weights_go_and_what_else_there_is(monkeypatch):
    def offline(**options):
        raise URLError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=offline))
    with pytest.raises(OSError, match="network 'alex' are not in .*checkpoints.*no route to host.*a network of your own"):
        LPIPS("alex")(MADE, X)


def test_a_model_with_lpips_is_made_saved_and_loaded_without_its_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    loss = {"name": "perceptual", "distances": [{"name": "lpips", "value_range": (-1.0, 1.0)}]}
    vae = vaekit.create_vae(input_shape=(3, 12, 10), latent_dim=2, loss=loss)
    assert vaekit.load(vae.save(tmp_path)).loss.distances[0].network == "vgg"


def test_lpips_shows_its_network_colours_between_minus_1_and_1(monkeypatch):
    shown = []

    class Watched(nn.Module):
        def forward(self, made, x):
            shown.extend((made, x))
            return (made - x).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=lambda net, verbose: Watched()))
    grey = X[:, :1]
    assert LPIPS(value_range=(0.0, 2.0))(torch.zeros_like(grey), grey).shape == (4,)
    assert_close(shown[1], (grey - 1.0).expand(-1, 3, -1, -1))
    assert torch.equal(shown[0], -torch.ones_like(shown[0]))
    with pytest.raises(ValueError, match="grey or colour pictures"):
        LPIPS()(X[:, :2], X[:, :2])


def test_lpips_is_a_distance_on_features_that_its_own_package_gives_too(monkeypatch):
    """The package with random weights, beside ours with its networks features."""
    package = pytest.importorskip("lpips", reason="lpips is not installed: pip install 'vaekit[perceptual]'")
    torch.manual_seed(0)
    theirs = package.LPIPS(net="squeeze", pnet_rand=True, verbose=False, lpips=False).double()
    monkeypatch.setattr(package, "LPIPS", lambda net, verbose: theirs)
    made, x = (torch.rand(2, 3, 48, 40, dtype=torch.float64) for _ in range(2))
    expected = theirs(2 * made - 1, 2 * x - 1).flatten()
    assert_close(LPIPS("squeeze")(made, x), expected)
    ours = Features(lambda x: list(theirs.net(theirs.scaling_layer(2 * x - 1))))
    assert_close(ours(made, x), expected, rtol=1e-6, atol=1e-9)


def test_every_distance_is_a_part_with_a_page():
    for name in vaekit.distances.names():
        page = vaekit.distances.describe(name)
        assert "weight" in page.options, name
    assert issubclass(FeatureDistance, Distance)
