"""Laws of the pictures: what is drawn is the data, and looking changes nothing."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm

import vaekit
from vaekit import plots

SHAPES = {"grey": (1, 6, 5), "colour": (3, 6, 5), "table": (13,), "series": (2, 40)}
IMAGES = ("grey", "colour")


def model(shape=(1, 6, 5), latent_dim=2, seed=0, **parts) -> vaekit.VAE:
    sizes = {"encoder": {"hidden": (5,)}, "decoder": {"hidden": (5,)}}
    vae = vaekit.create_vae(**{**sizes, **parts}, input_shape=shape, latent_dim=latent_dim, seed=seed)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.add_(torch.full_like(weight, 0.1))  # biases that are not 0, so that the origin is no special point
    return vae


def data(n, shape=(1, 6, 5), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def shown(axes) -> torch.Tensor:
    """The example that a panel shows, [C, H, W] for an image and [channels, length] for curves."""
    if axes.images:
        (image,) = axes.images
        array = torch.from_numpy(np.array(image.get_array()))
        return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    return torch.stack([torch.as_tensor(np.array(line.get_ydata())) for line in axes.lines])


def assert_shows(axes, example: torch.Tensor) -> None:
    expected = example if axes.images else example.reshape(-1, example.shape[-1])
    torch.testing.assert_close(shown(axes), expected.float(), rtol=0, atol=0)


def assert_draws(figure) -> None:
    """The figure is a matplotlib Figure that renders."""
    assert isinstance(figure, Figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    assert min(Image.open(stream).size) > 1


FUNCTIONS = {
    "reconstructions": lambda vae: plots.reconstructions(vae, data(3, vae.input_shape)),
    "samples": lambda vae: plots.samples(vae, 3),
    "draws": lambda vae: plots.samples(vae, 3, draw=True),
    "latent_space": lambda vae: plots.latent_space(vae, data(6, vae.input_shape), torch.arange(6) % 2),
    "latent_grid": lambda vae: plots.latent_grid(vae, side=3),
    "traversals": lambda vae: plots.traversals(vae, data(1, vae.input_shape), steps=3),
}
CASES = [(name, shape) for name in FUNCTIONS for shape in SHAPES if name != "latent_grid" or shape in IMAGES]


@pytest.mark.parametrize(("name", "shape"), CASES)
class TestEveryPicture:
    def test_is_a_figure_that_renders(self, name, shape):
        assert_draws(FUNCTIONS[name](model(SHAPES[shape])))

    @pytest.mark.parametrize("training", [True, False])
    def test_restores_the_mode_and_takes_no_gradients(self, name, shape, training):
        vae = model(SHAPES[shape]).train(training)
        FUNCTIONS[name](vae)
        assert all(module.training is training for module in vae.modules())
        assert all(p.grad is None and p.requires_grad for p in vae.parameters())

    def test_leaves_the_global_generator_alone(self, name, shape):
        vae, before = model(SHAPES[shape]), torch.get_rng_state()
        FUNCTIONS[name](vae)
        assert torch.equal(torch.get_rng_state(), before)

    def test_is_the_same_each_time(self, name, shape):
        vae = model(SHAPES[shape])
        for one, other in zip(FUNCTIONS[name](vae).axes, FUNCTIONS[name](vae).axes, strict=True):
            if one.images or one.lines:
                assert torch.equal(shown(one), shown(other))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_part_that_was_frozen_in_evaluation_mode_stays_so(name):
    vae = model().train()
    vae.encoder.eval()
    before = [module.training for module in vae.modules()]
    FUNCTIONS[name](vae)
    assert [module.training for module in vae.modules()] == before


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pictures_are_made_in_evaluation_mode(name):
    vae, modes = model().train(), []
    vae.encoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    vae.decoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    FUNCTIONS[name](vae)
    assert modes
    assert not any(modes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_mode_is_restored_when_drawing_fails(name):
    vae = model().train()
    vae.encoder.register_forward_hook(lambda *_: 1 / 0)
    vae.decoder.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FUNCTIONS[name](vae)
    assert all(module.training for module in vae.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["samples", "draws", "latent_space", "latent_grid", "traversals"])
def test_a_model_of_another_precision_can_be_drawn(name, dtype):
    vae = model().to(dtype)
    figure = plots.latent_space(vae, data(6).to(dtype)) if name == "latent_space" else None
    if name == "traversals":
        figure = plots.traversals(vae, steps=3)
    assert_draws(FUNCTIONS[name](vae) if figure is None else figure)


@pytest.mark.parametrize(
    "function", [plots.reconstructions, plots.samples, plots.latent_space, plots.latent_grid, plots.traversals]
)
def test_what_is_no_model_is_refused_by_type(function):
    with pytest.raises(TypeError, match="VAE"):
        function(data(3), model())


# reconstructions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 4])
def test_reconstructions_are_the_examples_above_what_reconstruct_gives(shape, n):
    vae, x = model(SHAPES[shape]), data(n, SHAPES[shape])
    figure = plots.reconstructions(vae, x)
    assert len(figure.axes) == 2 * n
    for axes, example in zip(figure.axes, [*x, *vae.reconstruct(x)], strict=True):
        assert_shows(axes, example)
    assert [figure.axes[i].get_ylabel() for i in (0, n)] == ["original", "reconstruction"]


def test_grey_levels_of_a_bernoulli_run_from_0_to_1():
    x = 0.4 + 0.1 * data(2)
    for axes in plots.reconstructions(model(), x).axes:
        assert axes.images[0].get_clim() == (0.0, 1.0)
        assert axes.images[0].get_cmap().name == "gray"


def test_an_unbounded_example_and_its_reconstruction_share_one_grey_scale():
    figure = plots.reconstructions(model(likelihood="gaussian"), 5 * data(2))
    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1


def test_one_row_or_column_of_pixels_is_a_curve():
    for shape in ((1, 1, 9), (1, 9, 1)):
        assert_draws(plots.reconstructions(model(shape), data(2, shape)))


def test_two_channels_are_curves():
    figure = plots.reconstructions(model((2, 4, 3)), data(1, (2, 4, 3)))
    assert [len(axes.lines) for axes in figure.axes] == [8, 8]


def test_reconstructions_of_nothing_are_refused():
    with pytest.raises(ValueError, match="draws 1 to 30 examples side by side, got 0"):
        plots.reconstructions(model(), data(0))


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"x has to have the shape \[batch, 1, 6, 5\], got \(2, 1, 5, 6\)"):
        plots.reconstructions(model(), data(2, (1, 5, 6)))


# samples


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draw", [False, True])
def test_samples_are_what_sample_gives(shape, draw):
    vae, key = model(SHAPES[shape]), vaekit.make_key(4)
    figure = plots.samples(vae, 5, draw=draw, key=key)
    for axes, example in zip(figure.axes, vae.sample(5, draw=draw, key=key), strict=True):
        assert_shows(axes, example)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 12))
def test_there_is_one_panel_for_each_sample(n):
    assert len(plots.samples(model((1, 2, 2)), n).axes) == n


def test_another_key_gives_other_samples():
    vae = model()
    one, other = (plots.samples(vae, 1, key=vaekit.make_key(seed)).axes[0] for seed in (1, 2))
    assert not torch.equal(shown(one), shown(other))


@pytest.mark.parametrize("n", [0, -1])
def test_no_samples_are_refused(n):
    with pytest.raises(ValueError, match=f"n, the number of samples, has to be between 1 and 900, got {n}"):
        plots.samples(model(), n)


# latent_space


@pytest.mark.parametrize("shape", SHAPES)
def test_the_points_of_a_latent_space_are_the_encoders_means(shape):
    vae, x = model(SHAPES[shape]), data(700, SHAPES[shape])
    (axes,) = plots.latent_space(vae, x).axes
    (points,) = axes.collections
    expected = vae.encode(x).mean.detach()
    torch.testing.assert_close(torch.from_numpy(np.array(points.get_offsets())).float(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(labels=st.lists(st.integers(-3, 12), min_size=1, max_size=30), kind=st.sampled_from([torch.tensor, np.array, list]))
def test_the_groups_of_a_latent_space_are_the_labels(labels, kind):
    vae, x = model(), data(len(labels))
    (axes,) = plots.latent_space(vae, x, kind(labels)).axes
    assert [group.get_label() for group in axes.collections] == [str(label) for label in sorted(set(labels))]
    means, labels = vae.encode(x).mean.detach(), torch.tensor(labels)
    for group in axes.collections:
        expected = means[labels == int(group.get_label())]
        torch.testing.assert_close(torch.from_numpy(np.array(group.get_offsets())).float(), expected, rtol=1e-5, atol=1e-6)


def test_ten_classes_can_be_told_apart_by_colour_and_by_marker():
    (axes,) = plots.latent_space(model(), data(20), torch.arange(20) % 10).axes
    colours = {tuple(group.get_facecolor()[0]) for group in axes.collections}
    markers = {group.get_paths()[0].vertices.tobytes() for group in axes.collections}
    assert len(colours) == len(markers) == 10
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(i) for i in range(10)]


@pytest.mark.parametrize("labels", [0, 5, 7])
def test_another_number_of_labels_than_of_examples_is_refused(labels):
    with pytest.raises(ValueError, match=f"there are 6 examples but {labels} labels"):
        plots.latent_space(model(), data(6), torch.zeros(labels))


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("name", ["latent_space", "latent_grid"])
def test_another_number_of_latent_dimensions_is_refused_and_traversals_named(name, latent_dim):
    with pytest.raises(ValueError, match=rf"{name} draws two latent dimensions, .* shape \({latent_dim},\); see traversals"):
        FUNCTIONS[name](model(latent_dim=latent_dim))


def test_a_spatial_latent_is_refused_and_what_can_be_drawn_is_drawn():
    spatial = {"name": "conv", "channels": (4,), "spatial": True}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder=spatial, decoder={"name": "conv", "channels": (4,)})
    for name in ("latent_space", "latent_grid"):
        with pytest.raises(ValueError, match=r"have the shape \(2, 4, 4\); see reconstructions and samples"):
            FUNCTIONS[name](vae)
    with pytest.raises(ValueError, match=r"latents that are a vector, .* shape \(2, 4, 4\); see samples"):
        plots.traversals(vae)
    assert plots.reconstructions(vae, torch.rand(2, 1, 8, 8)).get_suptitle() == "reconstructions through 32 latent dimensions"
    assert len(plots.samples(vae, 4).axes) == 4


def test_nothing_is_drawn_between_the_codes_of_a_codebook():
    vae = model(posterior={"name": "vector_quantized", "codes": 5}, prior="codes", loss="vector_quantized")
    for name in ("latent_grid", "traversals"):
        with pytest.raises(ValueError, match=f"{name} moves through the latent space, .* VectorQuantizedFamily are codes from a"):
            getattr(plots, name)(vae)
    assert plots.reconstructions(vae, data(2)).get_suptitle() == "reconstructions through 1 code from a codebook"
    points = plots.latent_space(vae, data(30)).axes[0].collections[0].get_offsets()
    book = vae.encoder.family.codebook
    assert {tuple(point) for point in points.tolist()} <= {tuple(code) for code in book.double().tolist()}
    spatial = vaekit.create_vae("vq-mnist")
    title = plots.reconstructions(spatial, torch.rand(2, 1, 28, 28)).get_suptitle()
    assert title == "reconstructions through 49 codes from a codebook"


# latent_grid


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("side", [2, 5])
def test_a_tile_is_the_decoded_gaussian_quantile_with_z1_rightwards_and_z2_upwards(shape, side):
    vae = model(SHAPES[shape])
    (axes,) = plots.latent_grid(vae, side=side).axes
    picture = shown(axes)
    channels, height, width = SHAPES[shape]
    assert picture.shape == (channels, side * height, side * width)
    assert axes.images[0].origin == "upper"
    quantiles = norm.ppf((np.arange(side) + 0.5) / side)
    for row in range(side):
        for column in range(side):
            z = torch.tensor([[quantiles[column], quantiles[side - 1 - row]]], dtype=torch.float32)
            tile = picture[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            torch.testing.assert_close(tile, vae.decode(z)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [2, 3, 16])
def test_the_ticks_of_a_latent_grid_stand_in_the_middle_of_the_tile_whose_quantile_they_give(side):
    (axes,) = plots.latent_grid(model(), side=side).axes
    quantiles = norm.ppf((np.arange(side) + 0.5) / side)
    for ticks, labels, size, upwards in (
        (axes.get_xticks(), axes.get_xticklabels(), 5, False),
        (axes.get_yticks(), axes.get_yticklabels(), 6, True),
    ):
        tiles = [round((tick + 0.5) / size - 0.5) for tick in ticks]
        np.testing.assert_allclose(ticks, [(tile + 0.5) * size - 0.5 for tile in tiles])
        expected = quantiles[::-1] if upwards else quantiles
        np.testing.assert_allclose([float(label.get_text()) for label in labels], expected[tiles], atol=0.0051)


@pytest.mark.parametrize("side", [1, 0, -2, 10**12])
def test_a_side_out_of_range_is_refused(side):
    with pytest.raises(ValueError, match=f"side.*got {side}"):
        plots.latent_grid(model(), side=side)


@pytest.mark.parametrize("shape", [(13,), (2, 40), (2, 4, 4)])
def test_a_grid_of_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="latent_grid draws images"):
        plots.latent_grid(model(shape))


# traversals


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("from_example", [False, True])
def test_a_row_of_traversals_moves_its_coordinate_only(shape, from_example):
    vae, x = model(SHAPES[shape], latent_dim=3), data(1, SHAPES[shape])
    figure = plots.traversals(vae, x if from_example else None, steps=4, span=2.0)
    start = vae.encode(x).mean.detach() if from_example else torch.zeros(1, 3)
    panels = iter(figure.axes)
    for dimension in range(3):
        for value in torch.linspace(-2.0, 2.0, 4):
            z = start.clone()
            z[0, dimension] = value
            axes = next(panels)
            expected = vae.decode(z)[0].detach()
            expected = expected if axes.images else expected.reshape(-1, expected.shape[-1])
            torch.testing.assert_close(shown(axes), expected, rtol=1e-5, atol=1e-6)
    assert next(panels, None) is None


@pytest.mark.parametrize(("latent_dim", "rows"), [(1, 1), (12, 12), (15, 12)])
def test_at_most_twelve_dimensions_are_shown_and_the_title_says_so(latent_dim, rows):
    figure = plots.traversals(model((1, 2, 2), latent_dim), steps=2)
    assert len(figure.axes) == 2 * rows
    assert ("the first 12 of 15" in figure.get_suptitle()) is (latent_dim == 15)


@pytest.mark.parametrize("steps", [1, 0, 10**12])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps.*got {steps}"):
        plots.traversals(model(), steps=steps)


@pytest.mark.parametrize("n", [0, 2])
def test_traversals_from_another_number_of_examples_are_refused(n):
    with pytest.raises(ValueError, match=rf"starts from one example, x\[:1\], got {n}"):
        plots.traversals(model(), data(n))


# loss_curves


def history(epochs, terms=("loss", "reconstruction", "kl"), validation=True) -> vaekit.History:
    made = vaekit.History()
    for epoch in range(epochs):
        names = [*terms, *(f"val_{t}" for t in terms if validation)]
        made.append({name: i + 1 / (epoch + 1) for i, name in enumerate(names)}, seconds=1.0)
    return made


def test_only_terms_that_are_nats_are_said_to_be():
    figure = plots.loss_curves(history(2, terms=("loss", "kl", "effective_sample_size")))
    assert [axes.get_ylabel() for axes in figure.axes] == ["nats per example", "nats per example", "mean"]


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("validation", [True, False])
def test_loss_curves_are_the_history(epochs, validation):
    made = history(epochs, validation=validation)
    figure = plots.loss_curves(made)
    assert_draws(figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "reconstruction", "kl"]
    for axes in figure.axes:
        curves = {line.get_label(): line for line in axes.lines}
        term = axes.get_title()
        expected = {"training": made[term], **({"validation": made[f"val_{term}"]} if validation else {})}
        assert {label: list(line.get_ydata()) for label, line in curves.items()} == expected
        assert all(list(line.get_xdata()) == list(range(1, epochs + 1)) for line in axes.lines)


def test_the_history_plots_itself():
    assert [axes.get_title() for axes in history(2).plot().axes] == ["loss", "reconstruction", "kl"]


@pytest.mark.parametrize("empty", [vaekit.History(), {}, {"loss": []}])
def test_a_history_without_epochs_is_refused(empty):
    with pytest.raises(ValueError, match="holds no epoch yet"):
        plots.loss_curves(empty)


# Imports, each in a process of its own.


def imported_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_library_imports_nothing_heavy():
    modules = imported_after("import vaekit")
    assert "vaekit.plots" in modules
    assert not modules & {"matplotlib", "lightning_fabric", "mlxtend", "typer", "pandas", "sklearn"}


def test_drawing_makes_no_pyplot_state():
    modules = imported_after(
        "import torch, vaekit\n"
        "vae = vaekit.create_vae(input_shape=(1, 4, 4), latent_dim=2, encoder={'hidden': ()}, decoder={'hidden': ()})\n"
        "x = torch.rand(3, 1, 4, 4)\n"
        "vaekit.plots.reconstructions(vae, x), vaekit.plots.samples(vae, 2), vaekit.plots.latent_space(vae, x)\n"
        "vaekit.plots.latent_grid(vae, 2), vaekit.plots.traversals(vae, steps=2)\n"
        "vaekit.plots.loss_curves({'loss': [1.0]})"
    )
    assert "matplotlib.figure" in modules
    assert "matplotlib.pyplot" not in modules


LABELS = {"name": "labels", "classes": 3}


def test_a_conditional_models_samples_have_a_row_for_each_label_and_one_code_in_each_column():
    vae, key = model(condition=LABELS), vaekit.make_key(0)
    figure = plots.samples(vae, 4)
    assert len(figure.axes) == 12
    for row, label in enumerate(range(3)):
        assert figure.axes[4 * row].get_ylabel() == str(label)
        for column, example in enumerate(vae.sample(4, label, key=key)):
            assert_shows(figure.axes[4 * row + column], example)
    assert len(plots.samples(vae, 2, condition=[2, 0, 2]).axes) == 6
    assert len(plots.samples(vae).axes) == 24


def test_a_conditional_models_pictures_are_of_what_it_is_told():
    vae, x, y = model(condition=LABELS), data(6), torch.arange(6) % 3
    figure = plots.reconstructions(vae, x, y)
    for axes, example in zip(figure.axes[6:], vae.reconstruct(x, y), strict=True):
        assert_shows(axes, example)
    means = vae.encode(x, y).mean.detach()
    for group, label in zip(plots.latent_space(vae, x, y).axes[0].collections, range(3), strict=True):
        torch.testing.assert_close(torch.tensor(group.get_offsets()), means[y == label], check_dtype=False)
    other = plots.latent_space(vae, x, y, condition=(y + 1) % 3).axes[0].collections[0]
    assert not torch.allclose(torch.tensor(other.get_offsets()).float(), means[y == 0])
    assert "given 2" in plots.latent_grid(vae, side=2, condition=2).axes[0].get_title()
    grids = [plots.latent_grid(vae, side=2, condition=label).axes[0].images[0].get_array() for label in (0, 1)]
    assert (grids[0] != grids[1]).any()
    vae = model(latent_dim=3, condition=LABELS)
    figure = plots.traversals(vae, x[:1], 1, steps=2, span=1.0)
    assert "given 1" in figure.get_suptitle()
    z = vae.encode(x[:1], 1).mean.detach().clone()
    z[0, 0] = -1.0
    torch.testing.assert_close(shown(figure.axes[0]), vae.decode(z, 1)[0].detach())


def test_vectors_beside_the_data_have_no_colour():
    vae, x = model(), data(6)
    (points,) = plots.latent_space(vae, x, torch.rand(6, 3)).axes[0].collections
    assert len(points.get_offsets()) == 6
    told = model(condition={"name": "vector", "size": 3})
    plots.latent_space(told, x, torch.rand(6, 3))


def test_vectors_are_named_for_a_picture():
    vae = model(condition={"name": "vector", "size": 2})
    figure = plots.samples(vae, 2, condition=torch.tensor([[0.5, -1.0], [2.0, 3.0]]))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["0.5, -1", "2, 3"]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda vae: plots.samples(vae, condition=3), r"a single value, condition=\[3\]"),
        (lambda vae: plots.samples(vae, condition=torch.zeros(31, dtype=torch.long)), "1 to 30 rows.*got 31"),
        (lambda vae: plots.samples(vae, 31), "in a row, has to be between 1 and 30, got 31"),
        (lambda vae: plots.reconstructions(vae, data(2)), "no condition was given"),
        (lambda vae: plots.latent_space(vae, data(2)), "no condition was given"),
        (lambda vae: plots.latent_grid(vae), "no condition was given"),
        (lambda vae: plots.samples(model(), condition=[1]), "the model has none"),
        (lambda vae: plots.latent_space(model(), data(2), condition=1), "the model has none"),
        (lambda vae: plots.samples(model(condition={"name": "vector", "size": 2})), "name the conditions that are to have a row"),
    ],
)
def test_pictures_of_a_conditional_model_ask_for_what_they_need(draw, words):
    with pytest.raises(ValueError, match=words):
        draw(model(condition=LABELS))
