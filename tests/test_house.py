"""The house itself: every example in it runs, imports go one way, and importing it is light."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vaekit

ROOT = Path(__file__).parents[1]
COMPILED = re.compile(r"vaekit\._C_\w+")  # libraries that torch loads, beside the modules
MODULES = ["vaekit", *(m.name for m in pkgutil.walk_packages(vaekit.__path__, "vaekit.") if not COMPILED.match(m.name))]

# From the bottom up; a room imports from its own floor and those below.
FLOORS = [
    {"registry", "checks", "files", "layout", "safe_path", "latents", "gathering", "memory", "weights"},
    {"data", "ops", "layers", "schedules", "seeding"},
    {"residual"},
    {"priors"},
    {"posteriors", "divergences"},
    {"encoders", "decoders", "likelihoods", "conditions"},
    {"losses"},
    {"specs"},
    {"compatibility", "starts"},
    {"vae", "saving"},  # VAE.save is short for saving.save
    {"presets", "compose"},
    {"inputs"},
    {"evaluation", "training", "plots"},
    {"runs"},
    {"cli", "__main__"},
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [m for m in MODULES if m != "vaekit"])
def test_imports_go_down(name):
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    file = importlib.import_module(name).__file__
    here = floor_of[name.split(".")[1]]
    for node in ast.walk(ast.parse(Path(file).read_text())):
        rooms = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaekit."):
            rooms = [node.module.split(".")[1]]
        elif isinstance(node, ast.ImportFrom) and node.module == "vaekit":
            rooms = [alias.name for alias in node.names if alias.name in floor_of]
        for room in rooms:
            assert floor_of[room] <= here, f"{name} imports {room} from a floor above its own"


def test_importing_loads_no_plotting_training_or_data_libraries(tmp_path):
    program = "import sys, vaekit; print([m for m in ('matplotlib', 'lightning_fabric', 'mlxtend', 'typer') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in vaekit.__all__:
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"


METHODS = [(kind, name) for kind in ("losses", "posteriors", "priors") for name in getattr(vaekit, kind).names()]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_the_page_of_a_method_says_what_it_is_for_what_it_costs_and_who_found_it(kind, name):
    page = getattr(vaekit, kind).describe(name).documentation
    for what, pattern in {
        "when": r"\b[Uu]se ",
        "cost": r"\b[Cc]osts?\b",
        "source": r"arXiv:\d{4}\.\d{4}",
        "example": ">>> ",
    }.items():
        assert re.search(pattern, page), f"the page of {kind} {name!r} lacks: {what}"


def test_the_build_says_what_serves_each_device():
    assert set(vaekit.build_info()) >= {"vaekit", "torch", "cpu kernel", "cuda kernel"}
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
        vaekit.has_native("tpu")
