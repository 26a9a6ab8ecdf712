"""Laws of the pictures: what is drawn is the data, and looking changes nothing."""

import functools
from typing import NamedTuple

import pytest
import torch
from helpers.pictures import FUNCTIONS, IMAGES, SHAPES, assert_draws, assert_shows, data, model, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import vaekit
from vaekit import plots
from vaekit.plots import catalogue
from vaekit.plots.panels import percent

CASES = [(name, shape) for name in FUNCTIONS for shape in SHAPES if name != "latent_grid" or shape in IMAGES]


class Drawn(NamedTuple):
    """A picture, the model that was drawn, and whether drawing left the global generator alone."""

    figure: Figure
    vae: vaekit.VAE
    is_generator_as_before: bool


@functools.cache
def drawn(name: str, shape: str, training: bool) -> Drawn:
    """A picture of a model that was in training or in evaluation mode, drawn once for all tests."""
    vae, before = model(SHAPES[shape]).train(training), torch.get_rng_state()
    return Drawn(FUNCTIONS[name](vae), vae, torch.equal(torch.get_rng_state(), before))


@pytest.mark.parametrize(("name", "shape"), CASES)
class TestEveryPicture:
    def test_is_a_figure_that_renders(self, name, shape):
        assert_draws(drawn(name, shape, True).figure)

    @pytest.mark.parametrize("training", [True, False])
    def test_restores_the_mode_and_takes_no_gradients(self, name, shape, training):
        vae = drawn(name, shape, training).vae
        assert all(module.training is training for module in vae.modules())
        assert all(p.grad is None and p.requires_grad for p in vae.parameters())

    def test_leaves_the_global_generator_alone(self, name, shape):
        assert drawn(name, shape, True).is_generator_as_before

    def test_is_the_same_each_time_and_in_either_mode(self, name, shape):
        figures = [drawn(name, shape, training).figure for training in (True, False)]
        for one, other in zip(*(figure.axes for figure in figures), strict=True):
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
def test_something_that_is_not_a_model_is_refused_by_type(function):
    with pytest.raises(TypeError, match="VAE"):
        function(data(3), model())


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
    with pytest.raises(ValueError, match="1 to 30.*got 0"):
        plots.reconstructions(model(), data(0))


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"1, 6, 5.*\(2, 1, 5, 6\)"):
        plots.reconstructions(model(), data(2, (1, 5, 6)))


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


@pytest.mark.parametrize("n", [0, -1, 901, 10**12])
def test_a_number_of_samples_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"n.*900.*{n}"):
        plots.samples(model(), n)


# --- the data's scale ---------------------------------------------------------------------------------------------------

UNBOUNDED = {
    "reconstructions": lambda vae, **options: plots.reconstructions(vae, 3 * data(2, vae.input_shape), **options),
    "samples": lambda vae, **options: plots.samples(vae, 4, **options),
    "latent_grid": lambda vae, **options: plots.latent_grid(vae, side=2, **options),
    "traversals": lambda vae, **options: plots.traversals(vae, steps=2, **options),
}


def title_of(figure) -> str:
    return figure.get_suptitle() or figure.axes[0].get_title()


@pytest.mark.parametrize("name", UNBOUNDED)
def test_limits_are_black_and_white_and_what_is_beyond_is_told(name):
    vae = model(likelihood="gaussian")
    figure, free = UNBOUNDED[name](vae, limits=(0.02, 0.03)), UNBOUNDED[name](vae)
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0.02, 0.03)}
    values = torch.cat([shown(axes).flatten() for axes in figure.axes])
    level = 0.01 / 255
    beyond = ((values < 0.02 - level) | (values > 0.03 + level)).double().mean()
    assert f"{percent(float(beyond))} of the values are beyond 0.02 to 0.03" in title_of(figure)
    assert name == "reconstructions" or "beyond" not in title_of(free)
    with pytest.raises(ValueError, match="limits.*rise"):
        UNBOUNDED[name](vae, limits=(1.0, 1.0))
    bounded = UNBOUNDED[name](model(), limits=(0.02, 0.03)) if name != "reconstructions" else plots.samples(model(), 2)
    assert {axes.images[0].get_clim() for axes in bounded.axes} == {(0.0, 1.0)}


def test_reconstructions_have_the_grey_scale_of_the_originals():
    x = 5 * data(2)
    limits = {axes.images[0].get_clim() for axes in plots.reconstructions(model(likelihood="gaussian"), x).axes}
    assert limits == {(float(x.min()), float(x.max()))}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_standardisation_is_undone(name):
    vae = model((3, 6, 5), likelihood="gaussian")
    mean, deviation = torch.tensor([0.2, 0.5, 0.4])[:, None, None], torch.tensor([0.1, 0.3, 0.2])[:, None, None]
    figure = UNBOUNDED[name](vae, undo=lambda x: x * deviation + mean, limits=(0.0, 1.0))
    bare = UNBOUNDED[name](vae, limits=(0.0, 1.0)) if name != "latent_grid" else None
    colours = torch.cat([shown(axes)[:, :6, :5][None] for axes in figure.axes])
    assert colours.min() >= 0.0
    assert colours.max() <= 1.0
    if name == "samples":
        expected = vae.sample(4, key=vaekit.make_key(0)) * deviation + mean
        torch.testing.assert_close(colours, expected.clip(0.0, 1.0))
        assert not torch.equal(shown(bare.axes[0]), colours[0])
    with pytest.raises(ValueError, match=r"undo has to give.*\(\d+, 3, 6, 5\)"):
        UNBOUNDED[name](vae, undo=lambda x: x[:, :1])


def test_the_pictures_of_a_run_have_the_grey_scale_of_its_data():
    vae, x = model(likelihood="gaussian"), 4 * data(9) - 1
    drawn = dict(catalogue.fitting(catalogue.Subject(vae, vaekit.data.as_examples(x))))
    for name in ("reconstructions", "samples", "latent_grid"):
        limits = {axes.images[0].get_clim() for axes in drawn[name].axes}
        assert limits == {(float(x.min()), float(x.max()))}, name


def test_colours_beyond_the_limits_are_drawn_as_the_limits(caplog):
    vae = model((3, 6, 5), likelihood="gaussian")
    figure = plots.reconstructions(vae, 3 * data(1, (3, 6, 5)), limits=(0.0, 1.0))
    assert_draws(figure)
    torch.testing.assert_close(shown(figure.axes[0]), (3 * data(1, (3, 6, 5))[0]).clip(0.0, 1.0))
    assert "Clipping" not in caplog.text  # matplotlib's word for it


def test_the_columns_of_a_row_have_their_names_below():
    likelihood = {"name": "columns", "columns": {"age": "gaussian", "a very long name of a column": "poisson"}}
    vae = model((2,), likelihood=likelihood)
    axes = plots.samples(vae, 4).axes
    assert [[label.get_text() for label in panel.get_xticklabels()] for panel in axes[2:]] == [["age", "a very long n…"]] * 2
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["", ""]
