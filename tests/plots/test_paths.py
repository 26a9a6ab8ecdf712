"""Ways through the latent space: where they begin and end, what lies on a circle, and what is added to an example."""

import matplotlib.pyplot as plt
import pytest
import torch

import vaekit
from vaekit.plots import differences, interpolations


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def model(**options):
    return vaekit.create_vae(input_shape=(1, 6, 5), latent_dim=3, likelihood="gaussian", seed=0, **options)


def shown(figure, columns):
    """The pictures [rows, columns, H, W] that were drawn."""
    images = [torch.as_tensor(axes.images[0].get_array()) for axes in figure.axes]
    return torch.stack(images).reshape(-1, columns, 6, 5).float()


@pytest.mark.parametrize("path", ["line", "great circle"])
def test_a_row_goes_from_one_examples_reconstruction_to_the_others(path):
    vae, x = model(), torch.rand(4, 1, 6, 5)
    figure = interpolations(vae, x[:2], x[2:], steps=5, path=path)
    rows = shown(figure, 7)
    torch.testing.assert_close(rows[:, 0], x[:2, 0])
    torch.testing.assert_close(rows[:, -1], x[2:, 0])
    torch.testing.assert_close(rows[:, 1], vae.reconstruct(x[:2])[:, 0])
    torch.testing.assert_close(rows[:, -2], vae.reconstruct(x[2:])[:, 0])
    assert [axes.get_xlabel() for axes in figure.axes[-7:]] == ["example", "0.00", "0.25", "0.50", "0.75", "1.00", "example"]


def decoded_codes(monkeypatch, vae):
    codes, decode = [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, condition=None: codes.append((z, condition)) or decode(z, condition))
    return codes


def test_a_line_has_equal_steps_and_a_circle_equal_angles(monkeypatch):
    vae, x = model(), 3 * torch.randn(2, 1, 6, 5)
    a, b = vae.encode(x).mean.detach()
    codes = decoded_codes(monkeypatch, vae)
    for path in ("line", "great circle"):
        interpolations(vae, x[:1], x[1:], steps=5, path=path)
    line, circle = (z.double() for z, _ in codes)
    torch.testing.assert_close(line, torch.stack([a + k / 4 * (b - a) for k in range(5)]).double(), atol=1e-5, rtol=1e-5)
    whole = torch.acos(torch.cosine_similarity(a.double(), b.double(), dim=0))
    angles = torch.acos(torch.cosine_similarity(circle[:-1], circle[1:]).clamp(-1, 1))
    assert angles.sum() == pytest.approx(float(whole), abs=1e-5)  # all in one plane
    basis = torch.linalg.qr(torch.stack([a, b]).double().T).Q
    torch.testing.assert_close(circle @ basis @ basis.T, circle, atol=1e-5, rtol=1e-5)


def test_unit_codes_stay_on_their_circle_and_opposite_ones_go_straight():
    from vaekit.plots.paths import _great_circle

    share = torch.linspace(0, 1, 5)
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-2.0, 0.0], [3.0, 0.0]])
    way = _great_circle(a, b, share)
    torch.testing.assert_close(way[0], torch.stack([torch.cos(share * torch.pi / 2), torch.sin(share * torch.pi / 2)], 1))
    torch.testing.assert_close(way[1], torch.stack([2 - 4 * share, torch.zeros(5)], 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(way[2], torch.stack([1 + 2 * share, torch.zeros(5)], 1))


def test_the_difference_of_the_groups_means_is_added(monkeypatch):
    vae, x = model(), torch.rand(9, 1, 6, 5)
    z = vae.encode(x).mean
    codes = decoded_codes(monkeypatch, vae)
    figure = differences(vae, x[:2], x[2:5], x[5:], steps=3, most=2.0)
    direction = z[2:5].mean(0) - z[5:].mean(0)
    expected = torch.stack([z[:2] + times * direction for times in (-2, 0, 2)], 1).flatten(0, 1)
    torch.testing.assert_close(codes[0][0], expected)
    torch.testing.assert_close(shown(figure, 4)[:, 2], vae.reconstruct(x[:2])[:, 0])
    assert [axes.get_xlabel() for axes in figure.axes[-4:]] == ["example", "-2.00", "+0.00", "+2.00"]


def test_each_row_has_the_condition_of_its_pair(monkeypatch):
    vae, x = model(condition={"name": "labels", "classes": 3}), torch.rand(4, 1, 6, 5)
    codes = decoded_codes(monkeypatch, vae)
    interpolations(vae, x[:2], x[2:], torch.tensor([2, 1]), steps=3)
    assert codes[0][1].flatten().tolist() == [2, 2, 2, 1, 1, 1]


X = torch.rand(14, 1, 6, 5)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda vae: interpolations(vae, X[:2], X[:3]), "got 2 and 3"),
        (lambda vae: interpolations(vae, X[:0], X[:0]), "got 0 and 0"),
        (lambda vae: interpolations(vae, X[:13], X[1:]), "1 to 12, got 13 and 13"),
        (lambda vae: interpolations(vae, X[:1], X[1:2], steps=1), "between 2 and 100, got 1"),
        (lambda vae: interpolations(vae, X[:1], X[1:2], path="spiral"), "line.*great circle"),
        (lambda vae: differences(vae, X[:2], X[:0], X), "got 0 that have it and 14 that lack it"),
        (lambda vae: differences(vae, X, X, X), "1 to 12 examples"),
        (lambda vae: differences(vae, X[:1], X, X, most=0.0), "most"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(model())


def test_codes_have_nothing_between_them():
    vae, x = vaekit.create_vae("vq-mnist", seed=0), torch.rand(2, 1, 28, 28)
    with pytest.raises(ValueError, match="codes"):
        interpolations(vae, x[:1], x[1:])
