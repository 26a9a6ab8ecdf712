"""The house itself: every example in it runs, imports go one way, and importing it is light."""

import ast
import doctest
import importlib
import importlib.util
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
    {
        "registry",
        "checks",
        "files",
        "layout",
        "markup",
        "safe_path",
        "latents",
        "memory",
        "revision",
        "weights",
        "plain",
        "autocast",
        "modes",
        "hub",
        "zoo",
    },
    {
        "addresses",
        "data",
        "ops",
        "gathering",
        "batch_norm",
        "dense",
        "layers",
        "flows",
        "planar",
        "directions",
        "poincare",
        "recomputed",
        "schedules",
        "seeding",
        "standardizing",
    },
    {"residual", "top_down"},
    {"conditions"},
    {"priors"},
    {"posteriors", "divergences"},
    {"encoders", "decoders", "likelihoods", "discriminators", "distances"},
    {"inferred"},
    {"losses"},
    {"specs"},
    {"compatibility", "sizes", "starts", "tiles", "multimodal"},
    {"coding", "pieces", "shortcuts", "summary", "vae", "saving", "looking"},  # VAE.save is short for saving.save
    {"presets", "compose"},
    {"inputs", "divided"},
    {"evaluation", "training", "plots", "cells", "exporting", "diffusers"},
    {"settings", "from_data"},
    {"runs", "prior_runs"},
    {"table", "reporting"},
    {"sharing"},
    {"cli", "integrations", "__main__"},
]

# Methods that import the room when they are called.
SHORT_FOR_ROOMS_ABOVE = {"vaekit.shortcuts": {"evaluation", "sharing"}}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FEWER_DIGITS = """
import vaekit
load = vaekit.data.load
def few(data, **options):
    parts = load(data, **options)
    return tuple(vaekit.data.Examples(part.x[:300], part.y[:300]) for part in parts) if data == "mnist5k" else parts
vaekit.data.load = few
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_the_pages_runs(page, tmp_path, monkeypatch):
    """A page's blocks are one program, in an empty folder, with fewer digits and two epochs wherever a page has more."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    blocks = [re.sub(r"\bepochs=\d{2,}\b", "epochs=2", block) for block in blocks]
    if not blocks:
        pytest.skip("no Python in this page")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()  # for pictures, which docs/build.py takes from there
    monkeypatch.setenv("MPLBACKEND", "agg")
    done = subprocess.run([sys.executable, "-c", "\n".join([FEWER_DIGITS, *blocks])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
        if re.match(r"(\.\./)*(parts|reference|made)/", target):
            continue  # made by docs/build.py, which follows them
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"


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
            if floor_of[room] > here and room in SHORT_FOR_ROOMS_ABOVE.get(name, ()):
                assert node.col_offset, f"{name} imports {room}, which is above it, before a method is called"
                continue
            assert floor_of[room] <= here, f"{name} imports {room} from a floor above its own"


# --- rules of the rooms --------------------------------------------------------------------------------------------------

FILES = [name for name in MODULES if Path(importlib.util.find_spec(name).origin).stat().st_size]
LONG_FILES: set[str] = set()  # above 400 lines
LONG_FUNCTIONS = {
    "vaekit.training.fit.fit": "takes every option of a run by name"
}  # above 60 lines without their docstrings, each with the reason
ENGINE = {"vaekit.training.engine"}  # what may import lightning_fabric
PRIVATE_TORCH = {
    "vaekit.dense.onednn",
    "vaekit.ops.dispatch",
    "vaekit.memory",
    "vaekit.training.shards",
    "vaekit.training.optimizers.direct",
    "vaekit.data.tensor_files",
}  # what may use names of torch that begin with an underscore
BELOW_THE_MODEL = {"checks", "data", "files", "layout", "ops", "registry", "seeding", "weights"}  # what data may import


def source_of(name: str) -> str:
    return Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")


def imported_names(tree: ast.AST) -> set[str]:
    """Every module or name that is imported anywhere in a file, with dots."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def private_names_of_torch(tree: ast.AST) -> set[str]:
    """What a file uses of torch whose name begins with an underscore: imported, as an attribute, or by getattr."""
    found = {name for name in imported_names(tree) if name.startswith("torch.") and "._" in name}
    roots = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in (getattr(node, "module", None) or "torch").split("."):
            roots |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names if "torch" in ast.unparse(node)}
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            name = f"{ast.unparse(node.args[0])}.{node.args[1].value}"
        if name.partition(".")[0] in roots and re.fullmatch(r"[\w.]+", name) and re.search(r"\._(?!_)", name):
            found.add(name)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_idea(name):
    length = len(source_of(name).splitlines())
    assert (length > 400) == (name in LONG_FILES), f"{name} has {length} lines"


@pytest.mark.parametrize("name", FILES)
def test_a_function_fits_on_a_screen(name):
    for node in ast.walk(ast.parse(source_of(name))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documentation = node.body[0] if ast.get_docstring(node) else None
            length = node.end_lineno - node.lineno + 1
            length -= documentation.end_lineno - documentation.lineno + 1 if documentation else 0
            assert (length > 60) == (f"{name}.{node.name}" in LONG_FUNCTIONS), f"{name}.{node.name} has {length} lines"


@pytest.mark.parametrize("name", FILES)
def test_one_room_knows_lightning_one_torchs_private_names_and_data_no_model(name):
    tree = ast.parse(source_of(name))
    names = imported_names(tree)
    if any(other.partition(".")[0] == "lightning_fabric" for other in names):
        assert name in ENGINE, f"{name} imports lightning_fabric"
    if private := private_names_of_torch(tree):
        assert name in PRIVATE_TORCH, f"{name} uses {sorted(private)}"
    if name.startswith("vaekit.data"):
        rooms = {other.split(".")[1] for other in names if other.startswith("vaekit.")}
        assert rooms <= BELOW_THE_MODEL, f"{name} imports {sorted(rooms - BELOW_THE_MODEL)}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch._C._x()", {"torch._C._x", "torch._C"}),
        ("from torch.func import _random", {"torch.func._random"}),
        ("from torch.autograd import forward_ad\nforward_ad._current_level", {"forward_ad._current_level"}),
        ("import torch\ngetattr(torch._C, '_x', None)", {"torch._C", "torch._C._x"}),
        ("import torch\nself._x, torch.__version__, torch.nn", set()),
    ],
)
def test_private_names_of_torch_are_seen(source, found):
    assert private_names_of_torch(ast.parse(source)) == found


# What a native reader stops at: a negation or a subject that has to be guessed.
UNIDIOMATIC = re.compile(
    r"that (is|are) none(?! of)|, of whose|from which the loss has it|not every device has it|takes any option|"
    r"is taken not to be|of what has no|which rounding leaves"
)


@pytest.mark.parametrize("name", FILES)
def test_comments_and_messages_are_idiomatic(name):
    found = UNIDIOMATIC.search(source_of(name))
    assert not found, f"{name}: {found[0]!r}"


HERE = Path(__file__).parent
ACROSS_ROOMS = {
    "test_contract",
    "test_docs",
    "test_grid",
    "test_house",
    "test_looking",
    "test_public_surface",
}  # laws of all parts together
BESIDE_THE_LIBRARY = {"benchmarks", "build_tools", "csrc", "helpers", "plugin"}


def test_tests_mirror_the_library_a_room_for_a_room():
    rooms = {path.stem if path.suffix == ".py" else path.name for path in (ROOT / "vaekit").iterdir()}
    for path in HERE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert path.name in rooms | BESIDE_THE_LIBRARY, f"tests/{path.name} is no room of vaekit/"
        elif path.stem.startswith("test_") and path.stem not in ACROSS_ROOMS:
            assert path.stem.removeprefix("test_") in rooms, f"tests/{path.name} is about no file of vaekit/"


def test_no_test_is_hidden_by_another_or_imports_another():
    for path in HERE.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert len(tests) == len(set(tests)), f"{path.relative_to(ROOT)} has two tests of one name"
        imported = [name for name in imported_names(tree) if name.partition(".")[0].startswith("test_")]
        assert not imported, f"{path.relative_to(ROOT)} imports {imported}: what tests share is in tests/helpers"


def test_importing_loads_no_plotting_training_or_data_libraries_and_no_compiler(tmp_path):
    libraries = ("matplotlib", "lightning", "lightning_fabric", "mlxtend", "typer", "torch._dynamo")
    program = f"import sys, vaekit; print([m for m in {libraries} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in vaekit.__all__:
        assert getattr(vaekit, name).__doc__, f"{name} has no docstring"


METHODS = [
    (kind, name)
    for kind in ("losses", "posteriors", "priors", "distances", "discriminators")
    for name in getattr(vaekit, kind).names()
    if getattr(vaekit, kind).registry._parts[name].__module__.startswith("vaekit.")  # tests register others
]


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
