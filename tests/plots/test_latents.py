"""Laws of the pictures of a latent space: points, squares and traversals are what the model encodes and decodes."""

import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas
import pytest
import torch
from helpers.pictures import IMAGES, SHAPES, data, model, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy.stats import norm
from sklearn.decomposition import PCA

import vaekit
from vaekit import plots
from vaekit.data import Schema
from vaekit.plots import panels


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
    with pytest.raises(ValueError, match=f"6.*{labels}"):
        plots.latent_space(model(), data(6), torch.zeros(labels))


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_a_grid_of_another_number_of_latent_dimensions_is_refused_and_others_named(latent_dim):
    with pytest.raises(ValueError, match=rf"latent_grid.*\({latent_dim},\).*latent_space and traversals"):
        plots.latent_grid(model(latent_dim=latent_dim))


def test_a_spatial_latent_is_refused_and_what_can_be_drawn_is_drawn():
    spatial = {"name": "conv", "channels": (4,), "spatial": True}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder=spatial, decoder={"name": "conv", "channels": (4,)})
    for name in ("latent_space", "latent_grid"):
        with pytest.raises(ValueError, match=r"\(2, 4, 4\).*reconstructions"):
            getattr(plots, name)(vae, *([] if name == "latent_grid" else [torch.rand(3, 1, 8, 8)]))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*samples"):
        plots.traversals(vae)
    assert plots.reconstructions(vae, torch.rand(2, 1, 8, 8)).get_suptitle() == "reconstructions through 32 latent dimensions"
    assert len(plots.samples(vae, 4).axes) == 4


def test_nothing_is_drawn_between_the_codes_of_a_codebook():
    vae = model(posterior={"name": "vector_quantized", "codes": 5}, prior="codes", loss="vector_quantized")
    for name in ("latent_grid", "traversals"):
        with pytest.raises(ValueError, match=f"{name}.*VectorQuantizedFamily"):
            getattr(plots, name)(vae)
    assert plots.reconstructions(vae, data(2)).get_suptitle() == "reconstructions through 1 code out of 5"
    points = plots.latent_space(vae, data(30)).axes[0].collections[0].get_offsets()
    book = vae.encoder.family.codebook
    assert {tuple(point) for point in points.tolist()} <= {tuple(code) for code in book.double().tolist()}
    spatial = vaekit.create_vae("vq-mnist")
    title = plots.reconstructions(spatial, torch.rand(2, 1, 28, 28)).get_suptitle()
    assert title == "reconstructions through 49 codes out of 128"


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
def test_a_grid_of_data_that_is_not_images_is_refused(shape):
    with pytest.raises(ValueError, match="latent_grid.*images"):
        plots.latent_grid(model(shape))


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
    with pytest.raises(ValueError, match=f"one example.*{n}"):
        plots.traversals(model(), data(n))


def test_labels_have_their_names_in_the_legend():
    (axes,) = plots.latent_space(model(), data(20), torch.arange(20) % 2 * 2, label_names=("rome", "london", "oslo")).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rome", "oslo"]


# --- colours ------------------------------------------------------------------------------------------------------------


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def points_of(axes) -> np.ndarray:
    return np.concatenate([np.array(group.get_offsets()) for group in axes.collections])


def oklab(colour) -> np.ndarray:
    """As B. Ottosson, "A perceptual color space for image processing", 2020, defines it; 0.02 is a difference that is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    cones = np.array([*cones, [0.0883024619, 0.2817188376, 0.6299787005]])
    opposed = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    return np.array([*opposed, [0.0259040371, 0.7827717662, -0.8086757660]]) @ np.cbrt(cones @ linear)


@pytest.mark.parametrize("classes", [11, 40])
def test_more_than_ten_classes_have_a_colour_each_that_can_be_told_from_the_others(classes):
    (axes,) = plots.latent_space(model(), data(2 * classes), torch.arange(2 * classes) % classes).axes
    colours = [oklab(group.get_facecolor()[0][:3]) for group in axes.collections]
    assert legend_of(axes) == [str(label) for label in range(classes)]
    distances = np.linalg.norm(np.subtract.outer(colours, colours).diagonal(axis1=1, axis2=3), axis=-1)
    assert distances[~np.eye(classes, dtype=bool)].min() > 0.09
    assert min(np.linalg.norm(colour - oklab("white")) for colour in colours) > 0.1


def test_beyond_forty_classes_the_rarest_share_a_grey_and_are_counted():
    labels = torch.arange(50).repeat_interleave(torch.arange(50, 0, -1))
    (axes,) = plots.latent_space(model(), data(len(labels)), labels).axes
    assert legend_of(axes) == ["10 others", *map(str, range(40))]
    assert len(axes.collections[0].get_offsets()) == sum(range(1, 11))
    assert len(points_of(axes)) == len(labels)


def test_numbers_have_a_colour_bar_and_points_their_own_value():
    vae, x = model(), data(30)
    dose = torch.linspace(0.5, 9.0, 30)[torch.randperm(30)]
    axes, bar = plots.latent_space(vae, x, color={"dose": dose}).axes
    (points,) = axes.collections
    means = vae.encode(x).mean.detach().numpy()
    for place, value in zip(points.get_offsets(), points.get_array(), strict=True):
        np.testing.assert_allclose(place, means[np.abs(dose.numpy() - value).argmin()], rtol=1e-5)
    assert points.norm.vmin == pytest.approx(0.5)
    assert points.norm.vmax == pytest.approx(9.0)
    assert bar.get_ylabel() == "dose"


def test_missing_values_are_crosses_that_are_counted():
    values = torch.linspace(0, 1, 30)
    values[:7] = torch.nan
    axes, _ = plots.latent_space(model(), data(30), color={"dose": values}).axes
    assert legend_of(axes) == ["missing (7)"]
    assert [len(group.get_offsets()) for group in axes.collections] == [7, 23]
    (axes,) = plots.latent_space(model(), data(4), color={"kind": ["b", None, "a", float("nan")]}).axes
    assert sorted(legend_of(axes)) == ["a", "b", "missing (2)"]


def test_a_column_colours_in_its_own_unit_and_a_frames_other_columns_too():
    frame = pandas.DataFrame(
        {
            "age": np.linspace(20.0, 80.0, 40).round(),
            "when": pandas.date_range("2020-01-01", periods=40, freq="30D"),
            "kind": ["a", "b", "c", None] * 10,
        }
    )
    schema = Schema.guess(frame)
    vae = vaekit.create_vae("table", likelihood={**schema.likelihood(), "schema": schema}, latent_dim=2)
    others = frame.assign(site=["x", "y"] * 20, weight=np.linspace(50, 90, 40))
    figure = plots.latent_space(vae, others, color=["age", "when", "kind", "site", "weight"])
    age, when, kind, site, weight = figure.axes[:5]
    assert sorted(age.collections[0].get_array()) == sorted(frame["age"])
    days = (frame["when"] - pandas.Timestamp(0)) / pandas.Timedelta("1D")
    np.testing.assert_allclose(np.sort(when.collections[0].get_array()), days, atol=0.51)
    assert legend_of(kind) == ["a", "b", "c", "missing (10)"] or sorted(legend_of(kind)) == ["a", "b", "c", "missing (10)"]
    assert legend_of(site) == ["x", "y"]
    np.testing.assert_allclose(sorted(weight.collections[0].get_array()), others["weight"])
    assert [axes.get_title() for axes in figure.axes[:5]] == ["age", "when", "kind", "site", "weight"]
    usual = plots.latent_space(vae, frame)
    assert {axes.get_title() for axes in usual.axes[:3]} == {"age", "when", "kind"}
    with pytest.raises(ValueError, match="no colour 'wieght'; did you mean 'weight'"):
        plots.latent_space(vae, others, color="wieght")


def test_several_conditions_have_a_panel_each_with_their_names():
    parts = [
        {"name": "labels", "classes": 2, "names": ["f", "m"], "column": "sex"},
        {"name": "labels", "classes": 12},
        {"name": "vector", "size": 2, "names": ["age", "dose"]},
    ]
    vae = model(condition=parts)
    y = torch.stack([torch.arange(48.0) % 2, torch.arange(48.0) % 12, torch.arange(48.0), torch.arange(48.0) / 7], 1)
    figure = plots.latent_space(vae, (data(48), y))
    panels = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == ["sex", "condition 2", "age", "dose"]
    assert legend_of(panels[0]) == ["f", "m"]
    assert legend_of(panels[1]) == [str(label) for label in range(12)]
    assert len({tuple(group.get_facecolor()[0]) for group in panels[1].collections}) == 12
    np.testing.assert_allclose(sorted(panels[3].collections[0].get_array()), y[:, 3])
    (axes,) = plots.latent_space(vae, (data(48), y), color="sex").axes
    assert legend_of(axes) == ["f", "m"]


def cells_of(n=60):
    random = np.random.default_rng(0)
    counts = random.poisson(3.0, (n, 6)).astype(np.float32)
    obs = pandas.DataFrame({"batch": ["b1", "b2", "b3"] * (n // 3), "kind": ["T", "B"] * (n // 2), "depth": counts.sum(1)})
    obs["donor"] = pandas.Categorical(["d2", "d1"] * (n // 2), ["d2", "d1"])
    obs.index = obs.index.astype(str)
    adata = anndata.AnnData(counts, obs)
    adata.var_names = [f"gene {number}" for number in range(6)]
    return adata


def test_cells_are_coloured_by_type_batch_genes_and_observations():
    adata = cells_of()
    cells = vaekit.data.as_examples(adata, batch="batch", label="kind")
    vae = vaekit.cells.create_vae(cells, latent_dim=5)
    figure = plots.latent_space(vae, cells)
    assert [axes.get_title() for axes in figure.axes] == ["cell type", "batch"]
    assert [legend_of(axes) for axes in figure.axes] == [["B", "T"], ["b1", "b2", "b3"]]
    figure = plots.latent_space(vae, adata, color=["gene 4", "donor", "depth"])
    gene, donor, depth = figure.axes[:3]
    assert sorted(gene.collections[0].get_array()) == sorted(adata.X[:, 4])
    assert legend_of(donor) == ["d2", "d1"]
    assert sorted(depth.collections[0].get_array()) == sorted(adata.obs["depth"])
    with pytest.raises(ValueError, match="no colour 'gene 44'; did you mean 'gene 4'"):
        plots.latent_space(vae, adata, color="gene 44")


# --- more than two dimensions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [3, 50])
def test_more_latents_are_drawn_by_their_principal_components(latent_dim):
    vae, x = model(latent_dim=latent_dim), data(80)
    (axes,) = plots.latent_space(vae, x).axes
    means = vae.encode(x).mean.detach().double().numpy()
    expected = PCA(2).fit(means)
    points, other = points_of(axes), expected.transform(means)
    np.testing.assert_allclose(np.abs(points), np.abs(other), rtol=1e-3, atol=1e-5)
    shares = [panels.percent(share) for share in expected.explained_variance_ratio_]
    assert axes.get_xlabel() == f"principal component 1 ({shares[0]} of variance)"
    assert axes.get_ylabel() == f"principal component 2 ({shares[1]} of variance)"
    assert f"in {latent_dim} latent dimensions" in axes.get_title()


def test_one_latent_is_drawn_along_its_axis():
    vae, x = model(latent_dim=1), data(20)
    (axes,) = plots.latent_space(vae, x).axes
    np.testing.assert_allclose(points_of(axes)[:, 0], vae.encode(x).mean.detach()[:, 0], rtol=1e-5)
    assert len(axes.get_yticks()) == 0


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_a_single_example_is_drawn(latent_dim):
    (axes,) = plots.latent_space(model(latent_dim=latent_dim), data(1)).axes
    assert len(points_of(axes)) == 1


def test_umap_is_asked_for_a_view_that_is_the_same_each_time(monkeypatch):
    class Stub:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, means):
            asked.append(means)
            return means[:, :2] * 3

    asked = []
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Stub))
    vae, x = model(latent_dim=4), data(9)
    (axes,) = plots.latent_space(vae, x, method="umap").axes
    assert asked[0] == {"n_neighbors": 8, "random_state": 0, "n_jobs": 1}
    np.testing.assert_allclose(asked[1], vae.encode(x).mean.detach(), rtol=1e-6)
    np.testing.assert_allclose(points_of(axes), asked[1][:, :2] * 3)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("UMAP 1", "UMAP 2")
    with pytest.raises(ValueError, match="three examples.*2"):
        plots.latent_space(vae, x[:2], method="umap")


def test_without_umap_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "vaekit\[umap\]"'):
        plots.latent_space(model(latent_dim=3), data(9), method="umap")
    plots.latent_space(model(), data(9), method="umap")  # two dimensions need no other view


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"color": {"dose": torch.rand(5)}}, "6 examples.*'dose' has 5"),
        ({"color": {"dose": torch.rand(6, 2)}}, r"one value for each row.*\(6, 2\)"),
        ({"color": []}, "1 to 12 panels.*0"),
        ({"color": "label"}, "no colour 'label'"),
        ({"method": "tsne"}, "'pca', 'umap', got 'tsne'"),
    ],
)
def test_colours_that_do_not_fit_are_refused(options, fact):
    with pytest.raises(ValueError, match=fact):
        plots.latent_space(model(), data(6), **options)
    with pytest.raises(TypeError, match="brings its own"):
        plots.latent_space(model(), (data(6), torch.arange(6)), torch.arange(6))
