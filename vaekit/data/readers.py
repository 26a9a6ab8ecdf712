"""What becomes examples: readers of files and folders, converters of objects in memory, each registered where it is written.

A reader says which files or folders it takes, and returns (train, test) as `Examples`; test is None where the source has none. A
converter says which objects it takes, and returns `Examples`. Their keyword-only parameters are the options that a caller may
give; others are refused by name. Packages of an extra are imported in the function that needs them.

Example:
    >>> @reader("lists of numbers", suffixes=(".numbers",))
    ... def read_numbers(path: Path, *, separator: str = ",") -> Parts: ...
    >>> find_reader(Path("x.numbers")).options
    ('separator',)
    >>> readers.remove(find_reader(Path("x.numbers")))
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from vaekit.registry import UnknownNameError, is_defined_again

if TYPE_CHECKING:
    from vaekit.data.examples import Examples

Parts: TypeAlias = "tuple[Examples, Examples | None]"
F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="Source")


@dataclass(frozen=True)
class Source:
    """What is read or converted by one function.

    Attributes:
        what: it is, in the plural, for messages: ".npy files" for example.
        function: of the source, with options by keyword.
        extra: of vaekit, whose packages the function imports; "" where it needs none.
    """

    what: str
    function: Callable[..., Any]
    extra: str

    @property
    def options(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)

    @property
    def _passes_on(self) -> bool:
        """Whether the function passes options on to another source, which checks them."""
        return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(self.function).parameters.values())

    def __call__(self, given: Any, options: Mapping[str, Any]) -> Any:
        """What the function makes of the source.

        Raises:
            TypeError: options that it does not take.
            ModuleNotFoundError: a package of the extra is missing; says how to install it.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown and not self._passes_on:
            near = difflib.get_close_matches(unknown[0], self.options, n=1)
            raise TypeError(
                f"{self.what} do not take the option {unknown[0]!r}; they take {', '.join(self.options) or 'no option'}"
                + (f". Did you mean {near[0]!r}?" if near else "")
            )
        with packages_of(self.extra, self.what):
            return self.function(given, **options)


@dataclass(frozen=True)
class Reader(Source):
    """What reads files by the ends of their names, or folders by a look at what they hold."""

    suffixes: tuple[str, ...]
    is_folder: Callable[[Path], bool] | None

    def takes(self, path: Path) -> bool:
        if path.is_dir():
            return self.is_folder is not None and self.is_folder(path)
        return path.name.lower().endswith(self.suffixes)


@dataclass(frozen=True)
class Converter(Source):
    """What makes examples of objects in memory."""

    takes: Callable[[Any], bool]


readers: list[Reader] = []
converters: list[Converter] = []


def reader(
    what: str, *, suffixes: tuple[str, ...] = (), is_folder: Callable[[Path], bool] | None = None, extra: str = ""
) -> Callable[[F], F]:
    """A decorator that registers `function(path, *, option=...) -> Parts` as the reader of files or folders.

    Args:
        what: they are, in the plural.
        suffixes: of the files, in lower case with the dot; of two that fit, the longer one counts (".csv.gz" before ".gz").
        is_folder: whether a folder is one of these. The first reader that says so gets it.
        extra: of vaekit, whose packages it imports.
    """

    def register(function: F) -> F:
        _enter(readers, Reader(what, function, extra, suffixes, is_folder))
        return function

    return register


def converter(what: str, takes: Callable[[Any], bool], *, extra: str = "") -> Callable[[F], F]:
    """A decorator that registers `function(data, *, option=...) -> Examples` as the converter of objects.

    Args:
        what: they are, in the plural.
        takes: whether an object is one of these, which has to be found without importing their package.
        extra: of vaekit, whose packages it imports.
    """

    def register(function: F) -> F:
        _enter(converters, Converter(what, function, extra, takes))
        return function

    return register


def _enter(registered: list[S], source: S) -> None:
    """Add a source; what a cell of a notebook defines again takes its own place."""
    registered[:] = [one for one in registered if not is_defined_again(one.function, source.function)]
    registered.append(source)


def find_reader(path: Path) -> Reader | None:
    """The reader of a file or folder; None where there is none."""
    found = [one for one in readers if one.takes(path)]
    if path.is_dir() or len(found) < 2:
        return found[0] if found else None
    name = path.name.lower()
    return max(found, key=lambda one: max(len(suffix) for suffix in one.suffixes if name.endswith(suffix)))


def find_converter(data: Any) -> Converter | None:
    """The converter of an object; None where there is none."""
    return next((one for one in converters if one.takes(data)), None)


def read_path(path: Path, options: Mapping[str, Any], names: tuple[str, ...] = ()) -> Parts:
    """Training and test examples in a file or a folder.

    Args:
        path: of it.
        options: of its reader, by name.
        names: what the caller knows beside paths, for the message.

    Raises:
        UnknownNameError: there is nothing of that path.
        ValueError: no reader takes it.
        TypeError, ModuleNotFoundError: as calling a `Source`.
    """
    if not path.exists():
        near = difflib.get_close_matches(str(path), names, n=1)
        raise UnknownNameError(
            f"{str(path)!r} is neither a dataset ({', '.join(names)}) nor a file or folder that exists."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    found = find_reader(path)
    if found is None:
        kind = "folder" if path.is_dir() else "file"
        inside = f"; it holds: {', '.join(sorted(p.name for p in path.iterdir())[:10]) or 'nothing'}" if path.is_dir() else ""
        raise ValueError(f"{path} is not a {kind} that can be read here{inside}. These are: {readable()}")
    parts: Parts = found(path, options)
    return parts


def readable() -> str:
    """All that readers take, in words."""
    return ", ".join(dict.fromkeys(one.what for one in readers))


@contextmanager
def packages_of(extra: str, what: str) -> Iterator[None]:
    """Name the command that installs the packages of an extra where one of them is missing.

    Raises:
        ModuleNotFoundError: with the command, in place of the one that was raised inside.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("vaekit"):
            raise
        raise ModuleNotFoundError(
            f'{what} need the package {error.name}, which is not installed: pip install "vaekit[{extra}]"', name=error.name
        ) from error
