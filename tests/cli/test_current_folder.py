"""Laws of the current folder: nothing in it runs, whatever its name, but the modules that `--import` names."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import command

import vaekit
from vaekit import safe_path
from vaekit.cli.current_folder import import_named

NAMES = ["torch", "numpy", "safetensors", "matplotlib", "typer", "tqdm", "lightning_fabric", "mlxtend", "poison"]
NAMES += ["__future__", "re", "json", "enum", "typing", "inspect", "importlib_metadata", "pathlib"]  # Python's own

MINE = """
import vaekit
from vaekit.encoders import MLPEncoder

@vaekit.encoders.register("only-in-the-current-folder")
class Mine(MLPEncoder):
    "Mine."
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model as one would download it, with modules and a plugin beside it that nobody asked for."""
    folder = tmp_path_factory.mktemp("downloaded")
    vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)}).save(folder)
    np.save(folder / "x.npy", np.random.default_rng(0).random((8, 4), dtype=np.float32))
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"import os; os.close(os.open({f'{name}.ran'!r}, os.O_CREAT))\n")
    metadata = folder / "poison-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: poison\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vaekit.encoders]\npoison = poison:Encoder\n")
    (folder / "matplotlibrc").write_text("text.usetex: True\n")  # has LaTeX draw all text
    (folder / "mine.py").write_text(MINE)
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("from package.inner import Mine\n")
    (folder / "package" / "inner.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """What an installer makes of the entry point `vaekit.cli:main`."""
    file = tmp_path_factory.mktemp("bin") / "vaekit"
    file.write_text("import sys\nfrom vaekit.cli import main\nsys.exit(main())\n")
    return file


def started(program, arguments, folder: Path) -> subprocess.CompletedProcess:
    for file in folder.glob("*.ran"):
        file.unlink()
    environment = {**os.environ, "PYTHONPATH": str(Path(vaekit.__file__).parents[1])}
    return subprocess.run([sys.executable, *program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def assert_nothing_ran(folder: Path) -> None:
    assert [file.name for file in folder.glob("*.ran")] == []


@pytest.mark.parametrize(
    ("launcher", "arguments"),
    [
        ("script", ["sample", ".", "--count", "1"]),
        ("module", ["sample", ".", "--count", "1"]),
        ("module", ["evaluate", ".", "--data", "x.npy"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_no_command_runs_what_lies_in_the_current_folder(launcher, arguments, folder, script):
    done = started([script] if launcher == "script" else ["-m", "vaekit"], arguments, folder)
    assert_nothing_ran(folder)
    assert done.returncode == 0, done.stderr
    assert "poison" not in done.stdout + done.stderr


def test_import_finds_the_module_it_names_and_nothing_else(folder, script):
    done = started([script], ["--import", "package.inner", "list", "encoders"], folder)
    assert_nothing_ran(folder)
    assert done.returncode == 0, done.stderr
    assert "only-in-the-current-folder" in done.stdout
    assert "poison" not in done.stdout + done.stderr


def test_importing_a_module_leaves_the_path_alone_and_is_done_once(folder, monkeypatch, own_registries):
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    before = list(sys.path)
    import_named("mine")
    first = sys.modules["mine"]
    import_named("mine")
    assert sys.modules.pop("mine") is first
    assert sys.path == before


def test_what_is_installed_wins_over_the_current_folder(tmp_path, monkeypatch):
    site, here = tmp_path / "site", tmp_path / "here"
    for place in (site, here):
        place.mkdir()
        (place / "somebodys_parts.py").write_text(f"place = {place.name!r}\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(here)
    import_named("somebodys_parts")
    assert sys.modules.pop("somebodys_parts").place == "site"


@pytest.mark.parametrize("name", ["", ".", "mine.", ".mine", "nowhere", "nowhere.inner", "mine/inner"])
def test_a_module_that_is_not_there_is_an_import_error(name, folder, monkeypatch, own_registries):
    monkeypatch.chdir(folder)
    with pytest.raises((ImportError, ValueError, TypeError)):
        import_named(name)
    sys.modules.pop("mine", None)


def test_what_a_module_imports_has_to_be_named_before_it(tmp_path, monkeypatch):
    (tmp_path / "layers_of_mine.py").write_text("")
    (tmp_path / "parts_of_mine.py").write_text("import layers_of_mine\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="layers_of_mine"):
        import_named("parts_of_mine")
    assert "parts_of_mine" not in sys.modules
    import_named("layers_of_mine")
    import_named("parts_of_mine")
    assert {sys.modules.pop(name).__name__ for name in ("layers_of_mine", "parts_of_mine")}


def test_the_path_is_mended_before_anything_is_imported_from_it():
    """Some environments load `re` or `__future__` at their start and others do not: these would be the current folder's."""

    def imports(file):
        nodes = ast.walk(ast.parse(Path(file).read_text()))
        return [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]

    assert imports(safe_path.__file__) == ["import os", "import sys"]
    assert imports(vaekit.__file__)[0] == "from vaekit import safe_path"


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["-m", "vaekit", "list"], True),
        (["-m", "vaekit"], True),
        (["-mvaekit", "list"], True),
        (["-X", "dev", "-Bm", "vaekit", "evaluate", "-m", "x"], True),
        (["-m", "vaekit.cli"], True),
        (["-m", "vaekit_of_another", "vaekit"], False),
        (["-m", "pytest", "-m", "vaekit"], False),
    ],
)
def test_only_the_start_of_vaekit_itself_is_taken_for_one(arguments, starts, monkeypatch):
    at = next(number for number, argument in enumerate(arguments) if re.match("-[A-Z]*m", argument))
    own = arguments[at + 1 if len(arguments[at]) > 3 else at + 2 :]
    monkeypatch.setattr(sys, "orig_argv", ["python", *arguments])
    monkeypatch.setattr(sys, "argv", ["-m", *own])
    assert safe_path.starts_as_module() is starts
    monkeypatch.setattr(sys, "argv", ["/site-packages/vaekit/__main__.py", *own])
    assert not safe_path.starts_as_module()


def test_a_module_that_registers_parts_can_be_imported_first(data, tmp_path, monkeypatch, own_registries):
    (tmp_path / "my_parts_for_the_command.py").write_text(
        "import vaekit\nfrom vaekit.encoders import MLPEncoder\n"
        "@vaekit.encoders.register('only-in-this-module')\nclass Mine(MLPEncoder): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--set", "encoder=only-in-this-module", "--epochs", 1, "--no-progress", "--out", tmp_path / "run"]
    assert command("--import", "my_parts_for_the_command", "train", data, *arguments) == 0
    assert command("--import", "my_parts_for_the_command", "evaluate", tmp_path / "run") == 0
