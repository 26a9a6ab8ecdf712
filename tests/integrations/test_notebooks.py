"""Laws of a notebook: a cell that is run twice does what it did, and a figure that is its value is shown once."""

import io
import json

import matplotlib.image
import numpy as np
import pytest
import torch

import vaekit
from vaekit import Registry, divergences, files
from vaekit.data import readers
from vaekit.registry import Part

X = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
CELL = """
class Square(Part):
    "Has a side."
    def __init__(self, side={side}):
        self.side = side
"""


def run_cell(source, module="__main__", **names):
    """What a cell leaves behind."""
    left = {"__name__": module, "Part": Part, **names}
    exec(source, left)
    return left


# What is registered


def test_what_a_cell_defines_again_takes_its_own_place():
    shapes = Registry("shape", "vaekit_tests.shapes", Part)
    for side in (1.0, 2.0):
        shapes.register("square")(run_cell(CELL.format(side=side))["Square"])
    assert shapes.create("square").side == 2.0
    assert shapes.names() == ["square"]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("__main__", "__main__", "Other"),
        ("a_module", "a_module", "Square"),
        ("a_module", "__main__", "Square"),
        ("__main__", "a_module", "Square"),
    ],
)
def test_any_other_clash_of_names_is_refused(first, second, name):
    shapes = Registry("shape", "vaekit_tests.shapes", Part)
    earlier = shapes.register("square")(run_cell(CELL.format(side=1.0), first)["Square"])
    later = run_cell(CELL.format(side=2.0).replace("Square", name), second)[name]
    with pytest.raises(ValueError, match=f"taken by {first}.Square"):
        shapes.register("square")(later)
    assert type(shapes.create("square")) is earlier


def test_a_cell_that_is_wrong_leaves_what_was_registered():
    shapes = Registry("shape", "vaekit_tests.shapes", Part)
    earlier = shapes.register("square")(run_cell(CELL.format(side=1.0))["Square"])
    with pytest.raises(TypeError, match="extends"):
        shapes.register("square")(run_cell("class Square: pass")["Square"])
    assert type(shapes.create("square")) is earlier


def test_a_divergence_and_a_reader_are_defined_again(monkeypatch):
    monkeypatch.setattr(divergences, "_rules", dict(divergences._rules))
    monkeypatch.setattr(readers, "readers", list(readers.readers))
    count = len(readers.readers)

    class Mine(vaekit.StandardNormal):
        pass

    for number in (1, 2):
        left = run_cell(f"def rule(*given): return {number}\ndef read(path): return {number}")
        divergences.exact(vaekit.DiagonalGaussian, Mine)(left["rule"])
        readers.reader("files of mine", suffixes=(".mine",))(left["read"])
    q = vaekit.DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    assert divergences.known(q, Mine()).rule() == 2
    assert len(readers.readers) == count + 1
    assert readers.readers[-1].function(None) == 2
    with pytest.raises(ValueError, match="known already"):
        divergences.exact(vaekit.DiagonalGaussian, Mine)(lambda *given: None)


# Folders


def fitted(out, **options):
    vae = vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0)
    return vaekit.fit(vae, X, epochs=1, out=out, progress=False, **options)


def test_each_run_has_a_folder_of_the_next_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits-2").write_text("a file of somebody's")
    folders = [fitted("runs/digits-{n}").folder for _ in range(3)]
    assert [folder.name for folder in folders] == ["digits-1", "digits-3", "digits-4"]
    for folder in folders:
        assert folder.is_absolute()
        assert vaekit.load(folder / "best").latent_shape == (2,)
    assert fitted("plain").folder == tmp_path / "plain"
    assert fitted(None).folder is None


def test_a_folder_for_nothing_is_gone_again(tmp_path):
    seen = []

    class Stopped(vaekit.Callback):
        def on_fit_start(self, state):
            seen.extend(folder.name for folder in tmp_path.iterdir())
            raise RuntimeError("stopped before the first step")

    with pytest.raises(RuntimeError, match="stopped before"):
        fitted(tmp_path / "run-{n}", callbacks=[Stopped()])
    assert seen == ["run-1"]
    assert not list(tmp_path.iterdir())


def test_a_new_folder_has_no_run_to_go_on_with(tmp_path):
    with pytest.raises(ValueError, match="new one each time"):
        fitted(tmp_path / "run-{n}", resume=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="choose another one"):
        files.new_folder(files.numbered(tmp_path / "file" / "run-{n}"))


# Figures


def test_a_figure_shows_itself_as_it_would_be_saved(vae):
    figure, saved = vaekit.plots.samples(vae, 4), io.BytesIO()
    figure.savefig(saved, format="png")
    shown = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert np.array_equal(shown, matplotlib.image.imread(io.BytesIO(saved.getvalue())))


@pytest.fixture
def vae():
    return vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0)


CELLS = [
    "import torch, vaekit\n"
    "x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))\n"
    "small = {'hidden': (8,)}",
    "@vaekit.encoders.register('mine')\n"
    "class Mine(vaekit.encoders.MLPEncoder):\n"
    "    'Mine.'",
    "vae = vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=2, encoder={'name': 'mine', **small}, decoder=small, seed=0)\n"
    "history = vaekit.fit(vae, x, epochs=2, out='run-{n}', progress=False)\n"
    "print(history.folder.name)",
    "vaekit.plots.samples(vae, 4)",
    "history.plot()",
    "import matplotlib.pyplot as plt",
    "vaekit.plots.reconstructions(vae, x[:2])",
    "plt.plot([1, 2]); figure = vaekit.plots.samples(vae, 4)",
]  # fmt: skip
FIGURES = [0, 0, 0, 1, 1, 0, 1, 1]  # of the last cell pyplot's own alone


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The cells of a notebook, each executed twice, and all of them again from the top."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    order = [number for number in range(len(CELLS)) for _ in range(2)] + list(range(len(CELLS)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELLS[number]) for number in order])
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return list(zip(order, notebook.cells, strict=True)), folder


def test_a_notebook_shows_each_figure_once(executed):
    for number, cell in executed[0]:
        shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(shown) == FIGURES[number], cell.source
        assert "error" not in [output.output_type for output in cell.outputs]


def test_a_notebook_runs_its_cells_again(executed):
    cells, folder = executed
    printed = [cell.outputs[-1].text.strip() for number, cell in cells if number == 2]
    assert printed == ["run-1", "run-2", "run-3"]
    for name in printed:
        assert json.loads((folder / name / "run.json").read_text())["encoder"]["name"] == "mine"
    runs = [(folder / name / "last" / "model.safetensors").read_bytes() for name in printed]
    assert runs[0] == runs[1] == runs[2]  # and does what it did
