"""The public surface as a list of lines: names, how each is called, the parts' options, the commands'.

    python tests/helpers/public_surface.py      # writes tests/public_surface.txt anew

A line is what somebody else's program can rely on, without annotations, which differ between Pythons.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import torch

TESTS = Path(__file__).resolve().parents[1]
LIST = TESTS / "public_surface.txt"
UPDATE = "python tests/helpers/public_surface.py"
PLAIN = (type(None), bool, int, float, str, enum.Enum, torch.dtype)


def load_docs_build() -> ModuleType:
    """docs/build.py, which knows the public modules. It needs Python 3.11 or later."""
    docs = TESTS.parent / "docs"
    spec = importlib.util.spec_from_file_location("docs_build", docs / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(docs))  # where it finds what lies beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(docs))
    return module


def surface() -> list[str]:
    """Every line: modules in the order of the reference, then parts, then commands."""
    build = load_docs_build()
    names: list[str] = []
    homes: dict[int, str] = {}  # the first public name of each class and function, by identity
    for module in build.MODULES:
        for name, value in _named(build, module):
            if isinstance(value, (type, FunctionType)):
                homes.setdefault(id(value), f"{module}.{name}")
    for module in build.MODULES:
        for name, value in _named(build, module):
            names += _lines(f"{module}.{name}", value, homes)
    parts = {line for kind, registry in build.registries().items() for line in _parts(kind, registry)}
    return [*names, *sorted(parts), *_commands()]


def _named(build: ModuleType, module: str) -> Iterator[tuple[str, Any]]:
    loaded = importlib.import_module(module)
    for name in build.public_names(module):
        value = getattr(loaded, name)
        if not isinstance(value, TypeVar):
            yield name, value


def _lines(full: str, value: Any, homes: dict[int, str]) -> Iterator[str]:
    home = homes.get(id(value), full)
    if home != full:
        yield f"{full} is {home}"
    elif inspect.isclass(value):
        yield full + _call(value)
        yield from sorted({f"{full}.{name}" for name in _members(value, homes)})
    else:
        yield full + (_call(value) if callable(value) else "")


def _members(cls: type, homes: dict[int, str]) -> Iterator[str]:
    """What vaekit defines; a base's members stand at the base where it is public, and those of torch and Python are theirs."""
    for owner in cls.__mro__:
        if not owner.__module__.startswith("vaekit") or (owner is not cls and id(owner) in homes):
            continue
        yield from (name for name in inspect.get_annotations(owner) if not name.startswith("_"))
        for name, member in vars(owner).items():
            if name.startswith("_") or inspect.isclass(member):
                continue
            called = isinstance(member, (FunctionType, classmethod, staticmethod))
            yield name + (_call(getattr(cls, name)) if called else "")


def _parts(kind: str, registry: Any) -> Iterator[str]:
    for name in registry.names():
        part = registry._parts[name]
        if part.__module__.startswith("vaekit."):  # tests register others
            yield f"part {kind} {name}{_call(part)}"


def _call(value: Any) -> str:
    try:
        signature = inspect.signature(value.__init__ if _is_made_by_a_registry(value) else value)
    except ValueError:  # a class whose constructor is C's
        return "(...)"
    parameters = []
    for parameter in list(signature.parameters.values())[_is_made_by_a_registry(value) :]:
        default = parameter.default
        if default is not inspect.Parameter.empty:
            default = Plain(default)
        parameters.append(parameter.replace(annotation=inspect.Parameter.empty, default=default))
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _is_made_by_a_registry(value: Any) -> bool:
    """Whether it is a registered class, whose metaclass takes anything and records it."""
    return inspect.isclass(value) and type(value).__call__ is not type.__call__ and value.__init__ is not object.__init__


class Plain:
    """A default as it is printed: by value where it is plain, otherwise as what it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        if isinstance(self.value, (tuple, list)):
            return f"({', '.join(repr(Plain(each)) for each in self.value)})"
        if isinstance(self.value, PLAIN) or str(self.value) == "<factory>":  # a dataclass's field
            return repr(self.value)
        return getattr(self.value, "__qualname__", f"<{type(self.value).__name__}>")


def _commands() -> Iterator[str]:
    import typer

    from vaekit.cli import app

    command = typer.main.get_command(app)
    yield from _parameters("vaekit", command)
    for name, each in command.commands.items():
        yield from _parameters(f"vaekit {name}", each)


def _parameters(name: str, command: Any) -> Iterator[str]:
    yield f"command {name}"
    for parameter in command.params:
        shown = ", ".join([*parameter.opts, *parameter.secondary_opts])
        kind = "argument" if parameter.param_type_name == "argument" else shown
        word = (
            (parameter.name or "").upper() if kind == "argument" else ("" if getattr(parameter, "is_flag", False) else " VALUE")
        )
        yield f"command {name} {kind}{' ' if kind == 'argument' else ''}{word}{' (required)' if parameter.required else ''}"


def difference(committed: list[str], now: list[str]) -> str:
    """What was taken away, added or changed, in words; empty where nothing was."""
    gone, come = [line for line in committed if line not in set(now)], [line for line in now if line not in set(committed)]
    head = {line.partition("(")[0]: line for line in come}
    said = []
    for line in gone:
        new = head.pop(line.partition("(")[0], None)
        said.append(f"changed: {line}\n     to: {new}" if new else f"gone:    {line}")
        come = [other for other in come if other != new]
    return "\n".join([*said, *(f"new:     {line}" for line in come)])


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS.parent))
    lines = surface()
    print(difference(LIST.read_text(encoding="utf-8").splitlines() if LIST.exists() else [], lines) or "nothing has changed")
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
