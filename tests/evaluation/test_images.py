"""PSNR, SSIM, FID, KID, precision and recall against closed forms and plain loops; samples of a model beside its own."""

import math
import sys
import types
from urllib.error import URLError

import numpy as np
import pytest
import torch
from helpers.digits_classifier import digits_classifier
from scipy.linalg import sqrtm
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

import vaekit
from vaekit import VAE
from vaekit.evaluation import feature_distances, inception_features, reconstruction_quality, sample_quality

SIDE = 16


class Shifted(torch.nn.Module):
    """What stands for a decoder: whatever the code, a picture of one grey."""

    def __init__(self, grey):
        super().__init__()
        self.grey = grey

    def reconstruct(self, x, condition=None):
        return torch.full_like(x, self.grey)


def vae(side=SIDE, channels=1, **options):
    return vaekit.create_vae(input_shape=(channels, side, side), latent_dim=2, likelihood="gaussian", seed=0, **options)


def test_of_plain_pictures_psnr_and_ssim_are_their_closed_forms(monkeypatch):
    model, white, grey = vae(), 0.8, 0.5
    monkeypatch.setattr(type(model), "reconstruct", Shifted(grey).reconstruct)
    found = reconstruction_quality(model, torch.full((5, 1, SIDE, SIDE), white))
    c1 = 0.01**2  # of a range of 1
    assert found["psnr"] == pytest.approx(-20 * math.log10(white - grey), rel=1e-6)
    assert found["ssim"] == pytest.approx((2 * white * grey + c1) / (white**2 + grey**2 + c1), rel=1e-5)
    assert "ms_ssim" not in found
    twice = reconstruction_quality(model, torch.full((5, 1, SIDE, SIDE), white), value_range=(-1.0, 1.0))
    assert twice["psnr"] == pytest.approx(found["psnr"] + 20 * math.log10(2), rel=1e-6)


def test_equal_pictures_are_equal_and_means_are_over_pictures(monkeypatch):
    model, x = vae(side=176), torch.rand(3, 1, 176, 176)
    monkeypatch.setattr(type(model), "reconstruct", lambda self, x, condition=None: x)
    assert reconstruction_quality(model, x) == pytest.approx({"psnr": math.inf, "ssim": 1.0, "ms_ssim": 1.0})
    monkeypatch.setattr(type(model), "reconstruct", lambda self, x, condition=None: x.roll(1, -1))
    together, each = reconstruction_quality(model, x), [reconstruction_quality(model, one[None]) for one in x]
    assert together == pytest.approx({name: sum(one[name] for one in each) / 3 for name in together}, rel=1e-9)
    assert len({one["psnr"] for one in each}) == 3
    assert together["ssim"] < 0.5


@pytest.mark.parametrize(
    ("side", "names"), [(10, {"psnr"}), (11, {"psnr", "ssim"}), (175, {"psnr", "ssim"}), (176, {"psnr", "ssim", "ms_ssim"})]
)
def test_windows_need_as_many_pixels(side, names, monkeypatch):
    monkeypatch.setattr(VAE, "reconstruct", lambda self, x, condition=None: x)
    assert set(reconstruction_quality(vae(side), torch.rand(1, 1, side, side))) == names


def test_reconstructions_are_clipped_as_they_are_shown(monkeypatch):
    model = vae()
    monkeypatch.setattr(type(model), "reconstruct", Shifted(1.7).reconstruct)
    assert reconstruction_quality(model, torch.ones(2, 1, SIDE, SIDE))["psnr"] == math.inf


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.full((2, 1, SIDE, SIDE), 1.5), {}, r"value_range, \(0, 1\), got values from 1.5 to 1.5"),
        (torch.rand(2, 1, SIDE, SIDE), {"value_range": (1.0, 1.0)}, "two finite numbers, the first below the other"),
        (torch.rand(2, 1, SIDE, SIDE), {"value_range": (0.0,)}, r"two finite numbers.*got \(0.0,\)"),
        (torch.rand(2, 1, SIDE, SIDE), {"value_range": "01"}, "two finite numbers.*got '01'"),
    ],
)
def test_pictures_outside_the_range_are_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        reconstruction_quality(vae(), x, **options)


def test_data_that_are_no_pictures_are_refused():
    table = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian")
    with pytest.raises(ValueError, match=r"pictures are \[channels, height, width\].*reconstruction_error"):
        reconstruction_quality(table, torch.rand(3, 4))


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="VAE"):
        reconstruction_quality("run", torch.rand(2, 1, SIDE, SIDE))


def test_missing_pixels_are_refused():
    likelihood = {"name": "gaussian", "missing": "ignore"}
    model, x = vaekit.create_vae(input_shape=(1, SIDE, SIDE), latent_dim=2, likelihood=likelihood), torch.rand(2, 1, SIDE, SIDE)
    x[0, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="whole pictures, but some values are missing"):
        reconstruction_quality(model, x)


# --- features ------------------------------------------------------------------------------------------------------------


def features(count, size, seed):
    generator = np.random.default_rng(seed)
    return torch.tensor(generator.normal(size=(count, size)) @ generator.normal(size=(size, size)) + generator.normal(size=size))


@pytest.mark.parametrize(("count", "size"), [(40, 3), (200, 8)])
def test_distances_of_features_are_those_of_plain_loops(count, size):
    real, made = features(count, size, 0), features(count, size, 1)
    found = feature_distances(real, made, neighbours=3)
    a, b = real.numpy(), made.numpy()
    covariances = [np.cov(each, rowvar=False) for each in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1])
    fid = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    assert found.fid == pytest.approx(fid, rel=1e-6)

    def kernel(x, y):
        return (x @ y / size + 1) ** 3

    own = [sum(kernel(each[i], each[j]) for i in range(count) for j in range(count) if i != j) for each in (a, b)]
    between = sum(kernel(x, y) for x in a for y in b)
    assert found.kid == pytest.approx(sum(own) / (count * (count - 1)) - 2 * between / count**2, rel=1e-4)

    def share_within(points, others):
        radius = [sorted(np.linalg.norm(others - one, axis=1))[3] for one in others]
        return np.mean([any(np.linalg.norm(point - one) <= r for one, r in zip(others, radius, strict=True)) for point in points])

    assert found.precision == pytest.approx(share_within(b, a))
    assert found.recall == pytest.approx(share_within(a, b))
    assert found.examples == count


def test_few_modes_have_precision_and_no_recall():
    real = features(300, 4, 0)
    found = feature_distances(real, real[:1] + 1e-3 * torch.randn(300, 4))
    assert found.precision > 0.9
    assert found.recall < 0.05


def test_many_rows_are_compared_some_at_a_time(monkeypatch):
    real, made = features(50, 3, 0), features(50, 3, 1)
    whole = feature_distances(real, made)
    monkeypatch.setattr("vaekit.evaluation.images._DISTANCES_AT_ONCE", 120)
    assert feature_distances(real, made) == whole


@pytest.mark.parametrize(
    ("real", "made", "options", "message"),
    [
        (torch.rand(5, 2), torch.rand(4, 2), {}, r"as many made as real, got \[5, 2\] and \[4, 2\]"),
        (torch.rand(5, 2), torch.rand(5, 3), {}, r"got \[5, 2\] and \[5, 3\]"),
        (torch.rand(3, 2), torch.rand(3, 2), {}, "among more than 3 examples, got 3"),
        (torch.rand(5, 2), torch.rand(5, 2), {"neighbours": 0}, "neighbours"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(real, made, options, message):
    with pytest.raises(ValueError, match=message):
        feature_distances(real, made, **options)


# --- samples of models ---------------------------------------------------------------------------------------------------


def flat(x):
    return x.flatten(1)[:, ::37]


def test_a_models_own_draws_are_near_and_other_pictures_far():
    model = vae(encoder={"name": "mlp", "hidden": ()}, decoder={"name": "mlp", "hidden": ()})
    own = model.sample(400, key=vaekit.make_key(7))
    near, far = (sample_quality(model, x, features=flat) for x in (own, own + 3))
    assert near.kid == pytest.approx(0, abs=0.02)
    assert near.fid < 0.1 < far.fid
    assert min(near.precision, near.recall) > 0.5 > max(far.precision, far.recall)
    assert sample_quality(model, own, features=flat) == near
    assert sample_quality(model, own, features=flat, seed=1) != near


def test_features_are_a_networks_in_evaluation_mode_or_a_models_means():
    model, x = vae(), torch.rand(30, 1, SIDE, SIDE)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(SIDE * SIDE, 4))
    assert sample_quality(model, x, features=network) == sample_quality(model, x, features=network)
    assert network.training
    assert sample_quality(model, x, features=model).fid == pytest.approx(
        sample_quality(model, x, features=lambda x: model.encode(x).mean).fid
    )


def test_a_conditional_model_draws_under_the_conditions_of_the_data():
    model = vae(condition={"name": "labels", "classes": 3})
    asked = []
    draw, model.sample = model.sample, lambda n, condition, **options: asked.append(condition) or draw(n, condition, **options)
    x, y = torch.rand(20, 1, SIDE, SIDE), torch.randint(3, (20,))
    assert sample_quality(model, vaekit.data.Examples(x, y), features=flat).examples == 20
    assert torch.equal(torch.cat(asked).flatten().long(), y)
    with pytest.raises(TypeError, match="asks for a condition too"):
        sample_quality(model, vaekit.data.Examples(x, y), features=model)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("inception", TypeError, "a network, a function of pictures or a VAE, got 'inception'"),
        (lambda x: x.sum(), ValueError, r"\[12, D\], got shape \[\]"),
        (lambda x: x.flatten(1).numpy(), ValueError, r"\[12, D\], got ndarray"),
        (lambda x: x.flatten(1) / 0, ValueError, "finite numbers, got NaN or infinity"),
    ],
)
def test_features_that_are_none_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        sample_quality(vae(), torch.rand(12, 1, SIDE, SIDE), features=given)


def test_without_torchmetrics_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vaekit\[metrics\]'"):
        feature_distances(torch.rand(9, 2), torch.rand(9, 2))


# --- the features of networks that learned to recognise something --------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    train, test = vaekit.data.load("mnist5k")
    return train.x[::9], test.x, test.y


def by_torchmetrics(real, made, **options):
    """FID and KID as torchmetrics computes them from pictures."""
    fid, kid = FrechetInceptionDistance(**options), KernelInceptionDistance(**options, subsets=1, subset_size=len(real))
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(made, real=False)
    return float(fid.compute()), float(kid.compute()[0])


def test_the_small_classifier_recognises_digits(digits):
    _, x, y = digits
    right = digits_classifier().logits(x).argmax(1) == y
    assert right.float().mean() > 0.95


def test_its_features_order_pictures_by_what_was_done_to_them(digits):
    some, others, _ = digits
    network = digits_classifier()
    blurred = F.avg_pool2d(others, 3, stride=1, padding=1)
    done = {
        "nothing": others,
        "blur": blurred,
        "more": F.avg_pool2d(blurred, 5, stride=1, padding=2),
        "all": torch.rand_like(others),
    }
    found = {name: feature_distances(network(some), network(x)) for name, x in done.items()}
    for measure in ("fid", "kid"):
        values = [getattr(one, measure) for one in found.values()]
        assert values == sorted(values)
        assert values[1] > 5 * values[0]
    assert min(found["nothing"].precision, found["nothing"].recall) > 0.6
    assert max(found["all"].precision, found["all"].recall) < 0.01


def test_distances_in_its_features_are_torchmetrics(digits, monkeypatch):
    some, others, _ = digits
    monkeypatch.setattr(VAE, "sample", lambda self, n, condition=None, **options: some[:n])
    found = sample_quality(vae(side=28), others[:200], features=digits_classifier())
    assert (found.fid, found.kid) == pytest.approx(
        by_torchmetrics(others[:200], some[:200], feature=digits_classifier()), rel=1e-4
    )


class StandIn(torch.nn.Module):
    """For torchmetrics' Inception, whose weights are a download: so many numbers of pictures in bytes."""

    made = ()

    def __init__(self, name, features_list, feature_extractor_weights_path=None, antialias=True):
        super().__init__()
        StandIn.made = (name, features_list, feature_extractor_weights_path, antialias)
        self.size = int(features_list[0])

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return F.adaptive_avg_pool2d(x.float() / 64.0, 8).flatten(1)[:, : self.size]


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """The stand-in in the place of Inception, and a file for weights."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    for module in ("fid", "kid"):
        monkeypatch.setattr(f"torchmetrics.image.{module}.NoTrainInceptionV3", StandIn)
        monkeypatch.setattr(f"torchmetrics.image.{module}._TORCH_FIDELITY_AVAILABLE", True)
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(("channels", "low", "high"), [(3, 0.0, 1.0), (3, -1.0, 1.0), (1, 0.0, 255.0)])
def test_distances_in_inceptions_features_are_torchmetrics(inception, channels, low, high):
    real, made = (torch.rand(90, channels, 12, 10, generator=torch.Generator().manual_seed(n)) ** (n + 1) for n in range(2))
    features = inception_features(64, value_range=(low, high), weights=inception)
    assert StandIn.made == ("inception-v3-compat", ["64"], str(inception), True)
    found = feature_distances(*(features(low + (high - low) * x) for x in (real, made)))
    shown = [x.expand(-1, 3, -1, -1) for x in (real, made)]
    assert (found.fid, found.kid) == pytest.approx(by_torchmetrics(*shown, feature=64, normalize=True), rel=1e-3)


def test_values_outside_the_range_are_clipped_and_other_pictures_refused(inception):
    features = inception_features(192, weights=inception)
    assert torch.equal(features(torch.tensor([-3.0, 2.0]).view(2, 1, 1, 1)), features(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"1 or 3, height, width\], got \[2, 4, 8, 8\]"):
        features(torch.rand(2, 4, 8, 8))
    with pytest.raises(ValueError, match="layer has to be .*'2048'.*'100'"):
        inception_features(100, weights=inception)


def test_weights_are_downloaded_once_to_torchs_cache(inception, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, file, hash_prefix: asked.append(hash_prefix) or inception.rename(file)
    )
    for _ in range(2):
        inception_features()
    assert asked == ["6726825d"]
    assert StandIn.made[2] == str(tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")


def test_offline_it_is_said_where_the_weights_go_and_what_else_there_is(inception, monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(OSError, match=r"checkpoints.*could not be downloaded.*no route.*https://.*weights=.*network of your own"):
        inception_features()


def test_a_file_that_would_run_something_is_refused(inception):
    torch.save({"weight": StandIn}, inception)
    with pytest.raises(Exception, match="Weights only load failed"):
        inception_features(weights=inception)


def test_without_torch_fidelity_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vaekit\[inception\]'.*network of your own"):
        inception_features()
