"""A named collection of interchangeable parts: register, create, names, describe.

A part is a class (or, for presets, a function) under a name. Third-party packages add parts through the entry-point
group named after the registry, `vaekit.encoders` for example; they are imported on the first look-up that misses and
whenever names are listed, so that `import vaekit` stays fast. What a registered class was constructed with is recorded on
the instance, however it was constructed, so that a model composed by hand can be written down and made again.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class UnknownNameError(KeyError):
    """A name that a registry does not hold. A `KeyError` whose text a person can read."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError itself would print the repr, with quotes and escaped newlines


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


class Registry(Generic[T]):
    """Parts of one kind by name.

    Args:
        kind: what one part is called in messages, "encoder".
        group: the entry-point group in which other packages announce theirs, "vaekit.encoders".
        base: the class that every registered class has to extend; None where parts are functions.

    Example:
        >>> shapes = Registry("shape", "example.shapes")
        >>> @shapes.register("square")
        ... class Square:
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
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """A decorator that enters a class or function under `name`.

        Raises:
            ValueError: the name is taken, or empty.
            TypeError: the class does not extend what this registry holds, or has options that cannot be given by name.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"a registered {self.kind} needs a non-empty string as its name, not {name!r}")

        def enter(part: F) -> F:
            if name in self._parts:
                taken = self._parts[name]
                raise ValueError(
                    f"{self.kind} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another name"
                )
            if self.base is not None and not (isinstance(part, type) and issubclass(part, self.base)):
                raise TypeError(
                    f"{self.kind} {name!r} has to be a class that extends {self.base.__module__}.{self.base.__qualname__}, "
                    f"not {part!r}"
                )
            for option in inspect.signature(part).parameters.values():
                if option.name == "name" or option.kind in (option.POSITIONAL_ONLY, option.VAR_POSITIONAL):
                    raise TypeError(
                        f"{self.kind} {name!r} has the parameter {str(option)!r}, which a spec cannot hold: options are given by "
                        "name, and 'name' itself is the part's"
                    )
            if isinstance(part, type):
                _record_construction(part, name)
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

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match the shell pattern, sorted."""
        self._load_plugins()
        return sorted(fnmatch.filter(self._parts, pattern))

    def describe(self, name: str) -> Description:
        """The part's documentation and options; `print` it."""
        factory = self._find(name)
        options = {p.name: p.default for p in _parameters(factory).values() if p.kind is not p.VAR_KEYWORD}
        return Description(self.kind, name, options, inspect.getdoc(factory) or "")

    def takes(self, name: str, option: str) -> bool:
        """Whether the part called `name` has an option called `option`."""
        parameters = _parameters(self._find(name))
        return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def _find(self, name: str) -> Callable[..., T]:
        if name not in self._parts:
            self._load_plugins()
        if name in self._parts:
            return self._parts[name]
        lowered = {part.lower(): part for part in self._parts}
        near = [lowered[n] for n in difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)]
        message = f"unknown {self.kind} {name!r}."
        if near:
            message += f" Did you mean {' or '.join(repr(n) for n in near)}?"
        message += f" There are: {', '.join(sorted(self._parts)) or 'none'}."
        for plugin, reason in self._failures.items():
            message += f" The plugin {plugin!r} could not be loaded: {reason}."
        raise UnknownNameError(message)

    def _check_options(self, name: str, factory: Callable[..., T], options: Mapping[str, Any]) -> None:
        parameters = _parameters(factory)
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

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for entry in importlib.metadata.entry_points(group=self.group):
            try:
                part = entry.load()
                if self._parts.get(entry.name) is not part and not inspect.ismodule(part):
                    self.register(entry.name)(part)  # unless importing it has run its own @register
            except Exception as error:  # a broken plugin is reported and must not take the library down
                self._failures[entry.name] = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"the {self.kind} plugin {entry.name!r} ({entry.value}) could not be loaded: {type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )


def recorded_spec(part: object) -> dict[str, Any] | None:
    """The name and options from which `part` was constructed; None if its class is in no registry."""
    spec: dict[str, Any] | None = vars(part).get("_vaekit_spec") if hasattr(part, "__dict__") else None
    return None if spec is None else dict(spec)


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(factory).parameters)


def _record_construction(cls: type, name: str) -> None:
    """Make instances of `cls` remember the arguments they were constructed with."""
    construct = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(cls)  # without self; empty where the class has no __init__ of its own

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        # A subclass is a class of its own, to be registered under its own name; an instance with __slots__ holds no record.
        if type(self) is cls and hasattr(self, "__dict__"):
            given = dict(signature.bind(*args, **kwargs).arguments)
            for parameter in signature.parameters.values():
                if parameter.kind is parameter.VAR_KEYWORD:
                    given.update(given.pop(parameter.name, {}))
            vars(self)["_vaekit_spec"] = {"name": name, **_snapshot(given)}

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(__init__)["__signature__"] = signature.replace(parameters=[own, *signature.parameters.values()])
    cls.__init__ = __init__  # type: ignore[misc]


def _snapshot(value: Any) -> Any:
    """The value as it is now: the caller may go on to change the lists and mappings in it."""
    if isinstance(value, Mapping):
        return {key: _snapshot(inner) for key, inner in value.items()}
    return type(value)(map(_snapshot, value)) if type(value) in (list, tuple) else value
