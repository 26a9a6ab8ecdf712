"""What the documentation says of the library is all of it: a formula for each part that has one, a page for each name."""

import importlib
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
