"""A named collection of interchangeable parts: register, create, build, names, describe.

A part is a class that extends `Part` (or, for presets, a function) under a name. What a part was constructed with is recorded on
the instance, however it was constructed, so that a model composed by hand can be written down and made again.

Third-party packages add parts through the entry-point group named after the registry, `vaekit.encoders` for example. A look-up
that misses imports the plugin of that name, and the others only if there is none; listing names imports all of them. So
`import vaekit` stays fast, and a plugin that hangs holds up only those who ask for it.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib.metadata
import inspect
import threading
import warnings
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape
from typing import Any, Generic, TypeVar

from vaekit.markup import html_table

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_imports_plugins = ContextVar("_imports_plugins", default=True)


class UnknownNameError(KeyError):
    """A name that a registry does not hold. A `KeyError` whose text a person can read."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError itself would print the repr, with quotes and escaped newlines


@contextmanager
def without_importing_plugins() -> Iterator[None]:
    """Look-ups find what is registered by now and import nothing: for names that come from somebody else."""
    before = _imports_plugins.set(False)
    try:
        yield
    finally:
        _imports_plugins.reset(before)


class _Recorded(ABCMeta):
    """Records the arguments of each construction, before the class sees them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        given = _given(cls, args, kwargs)
        part = super().__call__(*args, **kwargs)
        if given is not None and type(part) is cls and hasattr(part, "__dict__"):
            vars(part)["_constructed_with"] = given
        return part


class Part(metaclass=_Recorded):
    """What a registry's classes extend: an instance remembers the arguments that it was constructed with.

    They are recorded before the constructor runs, so that a constructor may take its arguments apart. Mappings and sequences are
    copied; other objects are kept as they are. A class with `__slots__` and no `__dict__` has no room for a record.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Description:
    """What a registry knows of one part; printed, it is the part's page.

    Attributes:
        kind: which registry it is in, "encoder" for example.
        name: the registered name.
        options: option name -> default, `inspect.Parameter.empty` where the option is required.
        documentation: the docstring, dedented.
    """

    kind: str
    name: str
    options: Mapping[str, Any]
    documentation: str

    @property
    def summary(self) -> str:
        return self.documentation.partition("\n")[0]

    def __repr__(self) -> str:
        lines = [
            f"  {option}" + ("" if default is inspect.Parameter.empty else f" = {default!r}")
            for option, default in self.options.items()
        ]
        return "\n".join([f"{self.kind} {self.name!r}", "options:", *(lines or ["  none"]), "", self.documentation])

    def _repr_html_(self) -> str:
        rows = [
            (option, "required" if default is inspect.Parameter.empty else repr(default))
            for option, default in self.options.items()
        ]
        table = html_table(("option", "default"), rows) if rows else "<p>no options</p>"
        return f"<h4>{escape(self.kind)} {escape(repr(self.name))}</h4>{table}<pre>{escape(self.documentation)}</pre>"


class Registry(Generic[T]):
    """Parts of one kind by name.

    Args:
        kind: what one part is called in messages, "encoder".
        group: the entry-point group in which other packages announce theirs, "vaekit.encoders".
        base: the class, itself a `Part`, that every registered class has to extend; None where parts are functions.

    Example:
        >>> shapes = Registry("shape", "example.shapes", Part)
        >>> @shapes.register("square")
        ... class Square(Part):
        ...     "A square."
        ...     def __init__(self, side=1.0):
        ...         self.side = side
        >>> shapes.names("s*")
        ['square']
        >>> shapes.create("square", side=2.0).side
        2.0
        >>> recorded_spec(shapes.create("square", side=2.0))
        {'name': 'square', 'side': 2.0}
    """

    def __init__(self, kind: str, group: str, base: type | None = None) -> None:
        self.kind, self.group, self.base = kind, group, base
        self._parts: dict[str, Callable[..., T]] = {}
        self._failures: dict[str, str] = {}
        self._pending: dict[str, importlib.metadata.EntryPoint] | None = None  # not imported yet; None: not looked for yet
        self._entering = threading.Lock()  # never held over an import, which may wait for another thread's
        self._importing = threading.local()

    def register(self, name: str) -> Callable[[F], F]:
        """A decorator that enters a class or function under `name`; what a cell of a notebook defines again takes its own place.

        Raises:
            ValueError: the name is taken, or empty.
            TypeError: the class does not extend what this registry holds, or has options that cannot be given by name.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"a registered {self.kind} needs a non-empty string as its name, not {name!r}")

        def enter(part: F) -> F:
            taken = self._parts.get(name)
            if taken is not None and not is_defined_again(taken, part):
                raise ValueError(
                    f"{self.kind} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another name"
                )
            if self.base is not None and not (isinstance(part, type) and issubclass(part, self.base)):
                raise TypeError(
                    f"{self.kind} {name!r} has to be a class that extends {self.base.__module__}.{self.base.__qualname__}, "
                    f"not {part!r}"
                )
            for option in parameters_of(part).values():
                if option.name == "name" or option.kind in (option.POSITIONAL_ONLY, option.VAR_POSITIONAL):
                    raise TypeError(
                        f"{self.kind} {name!r} has the parameter {str(option)!r}, which a spec cannot hold: options are given by "
                        "name, and 'name' itself is the part's"
                    )
            if isinstance(part, type):
                part._registered_name = name  # type: ignore[attr-defined]
            self._parts[name] = part
            return part

        return enter

    def create(self, name: str, /, **options: Any) -> T:
        """The part called `name`, constructed with `options`.

        Raises:
            UnknownNameError: no such name; the message suggests near ones and lists all.
            TypeError: an option that the part does not take, or a required one that is missing.
        """
        factory = self._find(name)
        self._check_options(name, factory, options)
        return factory(**options)

    def build(self, spec: str | Mapping[str, Any] | T, offers: Mapping[str, Any] | None = None) -> T:
        """The part that a name, {"name": ..., option: ...}, or an object describes.

        Args:
            spec: an object is given back as it is.
            offers: options that the part gets if it names them and the spec does not set them.

        Raises:
            TypeError: something else, an object of another kind or a mapping without a name for example; as `create`.
            UnknownNameError: as `create`.

        Example:
            >>> import vaekit
            >>> vaekit.losses.registry.build({"name": "elbo", "beta": 4.0}, offers={"latent_shape": (2,)}).beta(0)
            4.0
        """
        if self.base is not None and isinstance(spec, self.base):
            return spec  # type: ignore[return-value]  # an instance of the base is a T
        options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
        name = options.pop("name", None)
        if not isinstance(name, str):
            objects = "" if self.base is None else f" or a {self.group}.{self.base.__name__}"
            example = self.names()[0] if self.names() else "..."
            raise TypeError(
                f'{self.kind} has to be a name, {{"name": ..., option: ...}}{objects}, "{example}" for example; got {spec!r}'
                + (
                    f', which has no "name", or one that is no string; there are: {", ".join(self.names())}'
                    if isinstance(spec, Mapping)
                    else ""
                )
            )
        taken = {option: value for option, value in (offers or {}).items() if option in parameters_of(self._find(name))}
        return self.create(name, **{**taken, **options})

    def __repr__(self) -> str:
        """The names that are registered so far: to list them all, plugins have to be imported, see `names`."""
        return f"Registry of {len(self._parts)} {self.group.rpartition('.')[2]}: {', '.join(sorted(self._parts))}"

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match the shell pattern, sorted."""
        self._load_plugins()
        return sorted(fnmatch.filter(self._parts, pattern))

    def parts(self) -> dict[str, Any]:
        """What is registered, by its name, sorted: classes, or functions."""
        return {name: self._parts[name] for name in self.names()}

    def describe(self, name: str) -> Description:
        """The part's documentation and options; `print` it."""
        factory = self._find(name)
        options = {p.name: p.default for p in parameters_of(factory).values() if p.kind is not p.VAR_KEYWORD}
        return Description(self.kind, name, options, inspect.getdoc(factory) or "")

    def takes(self, name: str, option: str) -> bool:
        """Whether the part called `name` has an option called `option`."""
        parameters = parameters_of(self._find(name))
        return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def _find(self, name: str) -> Callable[..., T]:
        if not isinstance(name, str):
            raise TypeError(f"the name of a {self.kind} has to be a string, got {name!r}; there are: {', '.join(self.names())}")
        if name not in self._parts:
            self._load_plugins(name)
        if name in self._parts:
            return self._parts[name]
        lowered = {part.lower(): part for part in self._parts}
        near = [lowered[n] for n in difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)]
        message = f"unknown {self.kind} {name!r}."
        if near:
            message += f" Did you mean {' or '.join(repr(n) for n in near)}?"
        message += f" There are: {', '.join(sorted(self._parts)) or 'none'}."
        if not _imports_plugins.get() and name in (self._pending or {}):
            message += (
                f" An installed package announces one, which is not imported for a model that comes from elsewhere; if you trust "
                f"the model with it, {self.group}.describe({name!r}) imports it."
            )
        for plugin, reason in self._failures.items():
            message += f" The plugin {plugin!r} could not be loaded: {reason}."
        raise UnknownNameError(message)

    def _check_options(self, name: str, factory: Callable[..., T], options: Mapping[str, Any]) -> None:
        parameters = parameters_of(factory)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for option in options:
                if option not in parameters:
                    near = difflib.get_close_matches(option, parameters, n=1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    takes = ", ".join(parameters) or "no options"
                    raise TypeError(f"{self.kind} {name!r} takes no option {option!r}.{hint} It takes: {takes}.")
        missing = [
            p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in options
        ]
        if missing:
            raise TypeError(f"{self.kind} {name!r} needs the option {' and '.join(repr(m) for m in missing)}")

    def _load_plugins(self, name: str | None = None) -> None:
        """Import the plugin that announces `name`; if there is none, or without a name, all that have not been imported.

        Two threads may import one plugin at a time: Python lets one of them wait for the other.
        """
        if self._pending is None:
            self._pending = {entry.name: entry for entry in _entry_points(self.group)}
        if not _imports_plugins.get():
            return
        mine: set[str] = self._importing.__dict__.setdefault("names", set())
        for announced in [name] if name in self._pending else list(self._pending):
            entry = self._pending.get(announced)
            if entry is None or announced in mine:  # done by now, or what this thread is importing asks for something
                continue
            mine.add(announced)
            try:
                self._load(entry)
            finally:
                mine.discard(announced)
            self._pending.pop(announced, None)  # after ^C in an import it is still pending

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        try:
            part = entry.load()
            with self._entering:
                if self._parts.get(entry.name) is not part and not inspect.ismodule(part):
                    self.register(entry.name)(part)  # unless importing it has run its own @register
        except (Exception, SystemExit) as error:  # a broken plugin is reported and must not take the library down
            reason = f"{type(error).__name__}: {error}"
            if self._failures.setdefault(entry.name, reason) is reason:  # once, whichever thread was first
                warnings.warn(
                    f"the {self.kind} plugin {entry.name!r} ({entry.value}) could not be loaded: {reason}",
                    RuntimeWarning,
                    stacklevel=5,
                )


def is_defined_again(earlier: Any, later: Any) -> bool:
    """Whether two classes or functions are one definition of a notebook's or a prompt's, `__main__`, that has been run twice."""
    names = {(getattr(part, "__module__", None), getattr(part, "__qualname__", None)) for part in (earlier, later)}
    return len(names) == 1 and names.pop()[0] == "__main__"


def recorded_spec(part: object) -> dict[str, Any] | None:
    """The name and options from which `part` was constructed; None if its class is in no registry.

    A subclass of a registered class is another class, to be registered under a name of its own.
    """
    part = getattr(part, "__dict__", {}).get("_stands_for", part)  # of a part that only checks what another one does
    name = vars(type(part)).get("_registered_name")
    given = getattr(part, "__dict__", {}).get("_constructed_with")
    return None if name is None or given is None else {"name": name, **given}


def _given(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a constructor is given, by name; None where it will refuse it in its own words."""
    parameters = parameters_of(cls)
    try:
        bound = inspect.Signature(list(parameters.values())).bind(*args, **kwargs).arguments
    except TypeError:
        return None
    given: dict[str, Any] = {}
    for name, value in bound.items():
        given |= value if parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return {name: _snapshot(value) for name, value in given.items()}


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a function, or of the constructor of a class."""
    if not isinstance(factory, type) or not issubclass(factory, Part):
        return dict(inspect.signature(factory).parameters)
    if factory.__init__ is object.__init__:
        return {}
    return dict(list(inspect.signature(factory.__init__).parameters.items())[1:])


def _entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
    """The entry points of a group; a distribution with malformed metadata announces nothing."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        try:
            entries = distribution.entry_points.select(group=group)
        except Exception as error:  # any text can stand in the file
            warnings.warn(
                f"the entry points of {distribution.metadata['Name']!r} cannot be read ({type(error).__name__}: {error}); "
                "its plugins are left out",
                RuntimeWarning,
                stacklevel=5,
            )
            continue
        for entry in entries:
            found.setdefault(entry.name, entry)  # the first on the path wins, as in an import
    return list(found.values())


def _snapshot(value: Any) -> Any:
    """The value as it is now: the caller may go on to change the lists and mappings in it."""
    if isinstance(value, Mapping):
        return {key: _snapshot(inner) for key, inner in value.items()}
    return type(value)(map(_snapshot, value)) if type(value) in (list, tuple) else value
