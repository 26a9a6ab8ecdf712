"""Who may import whom within vaekit/training: each file has one job, and only one of them has it."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import vaekit.training

FILES = [module.name for module in pkgutil.iter_modules(vaekit.training.__path__)]
LOOP = {
    "callbacks",
    "checkpoints",
    "guard",
    "history",
    "plan",
    "recorder",
    "state",
    "update",
    "warned",
    "watch",
}  # no optimizer, no engine
UPDATE = {"clipping", "ema", "engine", "guard", "optimizers", "options", "plan", "rates"}


def imports(name):
    """The modules that a file imports, whenever it does."""
    tree = ast.parse(Path(importlib.import_module(f"vaekit.training.{name}").__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def siblings(name):
    found = {module.split(".")[2] for module in imports(name) if module.startswith("vaekit.training.")}
    return found & set(FILES)


@pytest.mark.parametrize(("name", "allowed"), [("loop", LOOP), ("update", UPDATE)])
def test_the_loop_and_the_update_know_what_they_need_to(name, allowed):
    assert siblings(name) == allowed


@pytest.mark.parametrize("name", FILES)
def test_only_the_engine_knows_fabric(name):
    assert any(module.startswith("lightning_fabric") for module in imports(name)) == (name == "engine")


@pytest.mark.parametrize("name", FILES)
def test_only_some_write_files(name):
    writes = any(module.startswith("vaekit.files") for module in imports(name))
    assert not writes or name in {"checkpoints", "history", "record", "replay", "snapshots", "trackers"}


@pytest.mark.parametrize("name", FILES)
def test_only_fit_knows_the_loop(name):
    assert ("loop" in siblings(name)) == (name == "fit")
