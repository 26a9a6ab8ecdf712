"""What the documentation says of the library is all of it: a formula for each part that has one, a page for each name.

Tutorials are notebooks: clean in git, and each picture on their pages has words. docs/build.py executes them.
"""

import ast
import base64
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from helpers.public_surface import load_docs_build

import vaekit

DOCS = Path(__file__).resolve().parents[1] / "docs"
WITH_FORMULAS = ("posteriors", "likelihoods", "priors", "losses")
# What they do is no formula over x and z.
WITHOUT = {("posteriors", "finite_scalar")}

tomllib = pytest.importorskip("tomllib", reason="docs/build.py reads TOML, from Python 3.11 on")
pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def build():
    """docs/build.py as a module."""
    return load_docs_build()


@pytest.fixture(scope="module")
def notebooks(build):
    """docs/notebooks.py as a module."""
    return build.notebooks


def test_every_part_with_a_density_or_an_objective_has_its_formula():
    formulas = tomllib.loads((DOCS / "formulas.toml").read_text(encoding="utf-8"))
    for kind in WITH_FORMULAS:
        own = {name for name in getattr(vaekit, kind).names() if _is_ours(kind, name)} - {
            name for k, name in WITHOUT if k == kind
        }
        assert set(formulas[kind]) == own


def _is_ours(kind, name):
    return getattr(vaekit, kind).registry._parts[name].__module__.startswith("vaekit.")


def test_formulas_are_closed():
    for kind in tomllib.loads((DOCS / "formulas.toml").read_text(encoding="utf-8")).values():
        for formula in kind.values():
            assert formula.count("{") == formula.count("}")
            assert len(re.findall(r"\\left", formula)) == len(re.findall(r"\\right", formula))


def test_every_public_module_and_name_is_in_the_reference(build):
    assert {name for name in vaekit.__all__ if isinstance(getattr(vaekit, name), ModuleType)} <= {
        module.removeprefix("vaekit.").removeprefix("training.") for module in build.MODULES
    }
    for module in build.MODULES:
        names = build.documented(module)
        offered = getattr(importlib.import_module(module), "__all__", None)
        assert names or module == "vaekit.presets"
        assert offered is None or set(names) <= set(offered)


def test_tables_of_figures_say_what_is_missing(build):
    table = build.figures("anomalies.csv contender=by")
    assert table.startswith("| by |\n|---|\n| ")
    with pytest.raises(SystemExit, match="no such columns"):
        build.figures("anomalies.csv nothing")


# --- tutorials -----------------------------------------------------------------------------------------------------------

TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
by_name = pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)


@by_name
def test_a_notebook_has_its_cells_and_nothing_else(notebooks, file):
    notebook = notebooks.read(file)
    command = f"python docs/notebooks.py clean {file.relative_to(DOCS.parent)}"
    assert file.read_text(encoding="utf-8") == notebooks.written(notebooks.clean(notebook)), f"to clean it: {command}"
    pytest.importorskip("nbformat").validate(json.loads(file.read_text(encoding="utf-8")))


@by_name
def test_a_notebook_begins_with_its_title_and_parses(notebooks, file):
    cells = notebooks.read(file)["cells"]
    assert cells[0]["source"].startswith("# ")
    assert [cell["source"] for cell in cells if cell["source"].startswith("# ")] == [cells[0]["source"]]
    for cell in cells:
        if cell["cell_type"] == "code":
            ast.parse(cell["source"])
            assert cell["source"].count("# quick:") == len(notebooks.QUICK.findall(cell["source"]))


@by_name
def test_links_of_a_notebook_lead_somewhere(notebooks, file):
    for cell in notebooks.read(file)["cells"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", cell["source"]) if cell["cell_type"] == "markdown" else ():
            assert (file.parent / target).exists(), f"{file.name} links to {target}, which is not there"


def test_what_executing_and_editing_leave_is_cleaned(notebooks, tmp_path):
    cell = {"cell_type": "code", "id": "a", "source": ["x = 1\n", "x"]}
    left = {
        "execution_count": 3,
        "metadata": {"tags": ["b"]},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}],
    }
    metadata = {"kernelspec": {"display_name": "mine", "language": "python", "name": "mine"}, "widgets": {}}
    file = tmp_path / "x.ipynb"
    file.write_text(json.dumps({"cells": [{**cell, **left}], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    notebooks.main(["clean", str(file)])
    cleaned = json.loads(file.read_text())
    assert cleaned["cells"] == [{**cell, "execution_count": None, "metadata": {}, "outputs": []}]
    assert cleaned["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in cleaned["metadata"]


def test_a_quick_value_takes_the_place_of_the_notebooks_which_is_still_told(notebooks):
    assert notebooks.quick("epochs = 30  # quick: 6\ny = epochs") == "epochs = 6  # in the notebook: 30\ny = epochs"
    assert notebooks.quick("fit(epochs=30)  # quick: 6") == "fit(epochs=30)  # quick: 6"


def output(kind="display_data", **content):
    return {"output_type": kind, **content}


PNG = base64.b64encode(b"a picture").decode()
PICTURE = output(data={"image/png": PNG, "text/plain": "<Figure>"})


def test_a_picture_stands_on_its_page_with_its_words(notebooks, tmp_path):
    cell = {"id": "grid", "source": "#| fig-alt: A square of digits\nplot()", "outputs": [PICTURE]}
    assert list(notebooks.shown(cell, "digits", tmp_path)) == ["![A square of digits](made/digits-grid-0.png)"]
    assert (tmp_path / "made" / "digits-grid-0.png").read_bytes() == b"a picture"
    with pytest.raises(SystemExit, match="'grid'.*fig-alt"):
        list(notebooks.shown({**cell, "source": "plot()"}, "digits", tmp_path))


def test_a_page_shows_texts_tables_and_warnings_and_no_bar_of_progress(notebooks, tmp_path):
    bar = "epoch 1/2: 100%|###| 10/10\n/tmp/x.py:3: UserWarning: z[0] has collapsed\n  fit(vae)\n"
    style = "<style scoped>\n    td {}\n</style>"
    html = f'<div>\n{style}\n<table border="1" class="dataframe">\n  <tr><td>1</td></tr>\n</table>\n</div>'
    outputs = [
        output("stream", name="stdout", text="loss 3.0\n"),
        output("stream", name="stderr", text=bar),
        output("execute_result", data={"text/html": html, "text/plain": "1"}),
        output("execute_result", data={"text/plain": "42"}),
    ]
    shown = list(notebooks.shown({"id": "a", "source": "", "outputs": outputs}, "digits", tmp_path))
    assert shown[0] == "```text\nloss 3.0\n```"
    assert shown[1] == '!!! warning "UserWarning"\n    z[0] has collapsed'
    assert shown[2] == "<div>\n<table>\n<tr><td>1</td></tr>\n</table>\n</div>"
    assert shown[3] == "```text\n42\n```"


def test_a_page_says_where_its_notebook_trains_longer(notebooks, tmp_path):
    title = {"cell_type": "markdown", "source": "# Title"}
    for source, is_shorter in (("epochs = 30  # quick: 6", True), ("epochs = 30", False)):
        code = {"cell_type": "code", "id": "a", "source": notebooks.quick(source), "outputs": []}
        page = notebooks.page({"cells": [title, code]}, "digits", tmp_path)
        assert page.startswith('# Title\n\n<p class="notebook">This page is <a href="digits.ipynb" download>')
        assert ("fewer epochs" in page) == is_shorter


def test_a_tutorial_that_uses_what_will_go_is_an_error(notebooks):
    with pytest.raises(SystemExit, match="fit is now train"):
        list(notebooks.said("/tmp/x.py:3: FutureWarning: fit is now train\n  fit()\n"))


def test_a_tutorial_that_fails_is_an_error(notebooks):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cell = {"cell_type": "code", "id": "a", "source": "epochs = 1  # quick: 0\n1 / epochs"}
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        notebooks.executed(notebooks.clean({"cells": [cell]}), DOCS.parent)
