"""The files that hold a model.

A model is one folder. `model.safetensors` is the authority: the weights, and in its metadata the config that composes the
model again. `config.json` beside it is a copy for people. Nothing is pickled, so that loading a model runs no code from it. Parts
that installed packages announce are imported for a file on this machine, and not for one that is downloaded.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit import addresses, seeding, specs, weights
from vaekit.files import printable, writable_folder, write_atomically
from vaekit.layout import BEST
from vaekit.memory import MemoryBound
from vaekit.registry import UnknownNameError, without_importing_plugins
from vaekit.vae import VAE
from vaekit.weights import Outline, name_of, outline_of
from vaekit.zoo import ZooAddress

FORMAT = 2  # see `specs.upgraded` for the earlier ones
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"

_DTYPES = ("float16", "bfloat16", "float32", "float64")  # that a model's weights may have
_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps


def save(vae: VAE, folder: str | os.PathLike[str], beside: Mapping[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and `config.json` into `folder`.

    Whatever interrupts it, each of the two is the earlier file or the new one; `model.safetensors`, the one that counts, is
    written first. Weights are written one at a time, so that saving needs no second copy of the model. `read_config` gives back
    what is to lie `beside` the parts in the config, plain data by name.

    Returns:
        the folder.

    Raises:
        ValueError: a model that `load` could not restore: a part whose class is not registered, layers that were replaced by
            hand, weights that are sparse or have no values. The message says which.
        OSError: the folder cannot be created or written.
    """
    vae = _unwrapped(vae)
    config = json.dumps({**config_of(vae), **(beside or {})}, indent=2)
    folder = writable_folder(folder)
    write_atomically(folder / WEIGHTS_FILE, partial(weights.write, tensors=_state(vae), metadata={"vaekit": config}))
    write_atomically(folder / CONFIG_FILE, (config + "\n").encode())
    return folder


def config_of(vae: VAE) -> dict[str, Any]:
    """Plain data from which `load` composes the model again: the options that its parts were constructed with.

    Raises:
        ValueError: as `save` says.
    """
    from vaekit import __version__

    vae = _unwrapped(vae)
    dtypes = sorted({name_of(p.dtype) for p in vae.parameters() if p.is_floating_point()}) or ["float32"]
    if len(dtypes) > 1:
        raise ValueError(f"the model's weights are of several dtypes, {', '.join(dtypes)}; vae.float() makes them one")
    if dtypes[0] not in _DTYPES:
        raise ValueError(f"the model's weights are {dtypes[0]}; it can be saved with {', '.join(_DTYPES)}")
    parts = {kind: getattr(part, _COMPILED, part) for kind in specs.KINDS if (part := getattr(vae, kind)) is not None}
    config = {
        "format": FORMAT,
        "vaekit": __version__,
        "dtype": dtypes[0],
        **{kind: specs.spec_of(kind, part) for kind, part in parts.items()},
    }
    _check_that_it_can_be_loaded(vae, config)
    return config


def load(path: str | os.PathLike[str], *, token: str | bool | None = None) -> VAE:
    """The model that `VAE.save` wrote, on the CPU and in evaluation mode; `vae.train()` before a training loop of your own.

    The file is not trusted: no code in it is run, its header is compared with what the config composes before any weight is read,
    and a config that asks for far larger tensors than the file could fill is refused before they are allocated. Parts that an
    installed package announces are imported for a file on this machine; for one that is downloaded nothing is imported, and such
    parts have to be registered already.

    Args:
        path: the folder, or the model.safetensors in it; or "hf://owner/name@revision/folder", a repository on the Hugging Face
            hub, of which revision (branch, tag or commit) and folder (or .safetensors file) may be left out. It is downloaded
            once and then taken from huggingface_hub's cache. Or "zoo://name", a model that comes with vaekit, `vaekit.zoo`.
        token: for private repositories; by default the one of `hf auth login` or HF_TOKEN.

    Raises:
        FileNotFoundError: there is no such file, repository or revision; the message says what is there.
        ValueError: the file is damaged, was not written by vaekit or by a newer one, or its weights do not fit its config; the
            message names the file. A token for a path.
        UnknownNameError: a part that is not registered here; import the module that registers it first. A model that the zoo
            does not have.
        ImportError: a part needs a package that is not installed, or the hub does: `pip install "vaekit[hub]"`.
        PermissionError, ConnectionError: the hub refuses, or cannot be reached and the cache does not have the file.

    Example:
        >>> import tempfile, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(vae.save(folder))
        >>> torch.equal(again.decode(torch.ones(1, 2)), vae.decode(torch.ones(1, 2)))
        True
    """
    address = addresses.parsed(path)
    if address is None:
        if token is not None:
            raise ValueError(f"token is for models on the hub, hf://owner/name, and {os.fspath(path)} is a path")
        return _loaded(_file_at(Path(path)))
    file = address.file(WEIGHTS_FILE, token)
    with without_importing_plugins():
        vae = _loaded(file, str(address))
    return vae.float() if isinstance(address, ZooAddress) else vae  # those are stored in half the bytes


def _loaded(file: Path, address: str = "") -> VAE:
    """The model in a file, which lies at an address if it is of others."""
    with weights.opened(file) as stored:
        config = _config_in(stored.metadata, file)
        vae = _composed_within_bounds(config, stored, file, address)
        own = vae.state_dict()
        problems = _differences(_outlines(own), stored.outlines)
        if problems:
            raise ValueError(f"the weights in {file} do not fit the model that its config describes: {problems}")
        for name, tensor in own.items():
            tensor.copy_(stored.tensor(name))
    if _differs(file.with_name(CONFIG_FILE), config):
        warnings.warn(
            f"{file.with_name(CONFIG_FILE)} differs from the config inside {file.name}, which is the one that counts; "
            "a changed model has to be composed and saved anew",
            UserWarning,
            stacklevel=3,
        )
    return vae.eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config in a model's file, with what `save` was given to lie beside the parts.

    Raises:
        FileNotFoundError, ValueError, OSError, ImportError: as `load`.
    """
    address = addresses.parsed(path)
    file = _file_at(Path(path)) if address is None else address.file(WEIGHTS_FILE)
    with weights.opened(file) as stored:
        return _config_in(stored.metadata, file)


def _unwrapped(vae: VAE) -> VAE:
    """The model itself, where torch.compile has wrapped it."""
    vae = getattr(vae, _COMPILED, vae)
    if type(vae) is not VAE:
        raise ValueError(
            f"a {type(vae).__name__} cannot be saved: it would be loaded as a plain vaekit.VAE. Save the model inside a wrapper "
            "(wrapped.module.save(folder)); put what a subclass adds into parts of your own"
        )
    return vae


def _state(vae: VAE) -> dict[str, Tensor]:
    """The tensors of the model by the names that they have where nothing is compiled."""
    state = {name.replace(f"{_COMPILED}.", ""): value for name, value in vae.state_dict().items()}
    for name, value in state.items():
        if problem := weights.unwritable(value):
            raise ValueError(f"the model cannot be saved: {name} is {problem}")
    return state


def _check_that_it_can_be_loaded(vae: VAE, config: Mapping[str, Any]) -> None:
    """Refuse a model whose tensors differ from those of the model that its config composes."""
    state = _state(vae)
    try:
        twin = composed(config, torch.device("meta"))
    except Exception:  # constructors that look at values fail without any
        return
    problems = _differences(_outlines(twin.state_dict()), _outlines(state))
    if problems:
        raise ValueError(
            "the model cannot be saved: its modules were changed after they were constructed, so that its config would compose a "
            f"different model: {problems}. torch.save(vae.state_dict(), path) stores the weights alone."
        )


def _outlines(state: Mapping[str, Any]) -> dict[str, Outline]:
    """The outlines of a state_dict's values, some of which may be no tensors, or tensors without a shape yet."""
    plain = (Tensor, nn.Parameter)
    return {name: outline_of(v) if type(v) in plain else Outline(type(v).__name__, ()) for name, v in state.items()}


def composed(config: Mapping[str, Any], device: torch.device | None = None, bound: MemoryBound | None = None) -> VAE:
    """A new model of what `config_of` gave, whatever weights it begins with.

    Raises:
        TypeError, ValueError, KeyError: a config of something else.
    """
    config = specs.upgraded(config)
    with seeding.drawing_from(0), device or torch.device("cpu"), bound or nullcontext():
        vae = VAE(**{name: kind.registry.build(config[name]) for name, kind in specs.KINDS.items() if name in config})
        dtype = getattr(torch, config["dtype"])
        # A model of the right dtype is left alone: it may have buffers of other dtypes.
        return vae if all(p.dtype == dtype for p in vae.parameters() if p.is_floating_point()) else vae.to(dtype)


def _composed_within_bounds(config: Mapping[str, Any], stored: weights.Stored, file: Path, address: str) -> VAE:
    """The model, with weights yet to be read, composed in memory that is bounded by the size of the file."""
    size = file.stat().st_size
    # Constructors allocate more than the weights: vaekit's own up to twice as much, those of others perhaps more.
    bound = MemoryBound((16 << 20) + 16 * size, tensors=4096 + 16 * len(stored.outlines))
    try:
        for name, kind in specs.KINDS.items():
            if isinstance(spec := config.get(name), Mapping) and isinstance(spec.get("name"), str):
                kind.registry.describe(spec["name"])  # imports the plugin that has it, whose memory is its own affair
        return composed(config, torch.device("cpu"), bound)
    except UnknownNameError as error:
        hint = f"If a module of yours registers it, import that before loading {address or file}."
        raise UnknownNameError(f"{printable(error)} {hint}") from error
    except ImportError:
        raise
    except Exception as error:
        if bound.refused:
            raise ValueError(
                f"the config in {file} asks for more than its {size} bytes can account for: {bound.refused}; the file is damaged"
            ) from error
        problem = f"{printable(error)} ({type(error).__name__})"
        raise ValueError(f"the model that the config in {file} describes cannot be composed: {problem}") from error


def _file_at(path: Path) -> Path:
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if file.is_file():
        return file
    where = path if path.is_dir() else path.parent
    inside = sorted(p.name for p in where.iterdir())[:10] if where.is_dir() else []
    hint = f"; did you mean {where / BEST}?" if (where / BEST / WEIGHTS_FILE).is_file() else ""
    holds = printable(", ".join(inside) or "nothing")
    raise FileNotFoundError(f"there is no model at {file}; {where} holds: {holds}{hint}")


def _config_in(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """The config in a file's metadata, checked except for the options of the parts."""
    if "vaekit" not in metadata:
        raise ValueError(f"{file} was not written by vaekit: there is no config of a model in its metadata")
    damaged = f"{file} holds weights, but the config in its metadata is damaged"
    try:
        config = _parsed(metadata["vaekit"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{damaged}: {printable(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{damaged}: {metadata['vaekit'][:60]!r}")
    number = config.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f'{damaged}: "format" has to be a whole number of at least 1, got {printable(repr(number))}')
    if number > FORMAT:
        from vaekit import __version__

        raise ValueError(
            f"{file} has format {number}, written by vaekit {printable(config.get('vaekit'))}; this is vaekit {__version__}, "
            f"which reads formats up to {FORMAT}: upgrade vaekit"
        )
    if config.get("dtype") not in _DTYPES:
        got = printable(repr(config.get("dtype")))
        raise ValueError(f'{damaged}: "dtype" has to be one of {", ".join(_DTYPES)}, got {got}')
    missing = [name for name, kind in specs.KINDS.items() if name not in config and not kind.is_optional]
    if missing:
        raise ValueError(f"the config in {file} says nothing of: {', '.join(missing)}")
    return config


def _differences(model: Mapping[str, Outline], stored: Mapping[str, Outline]) -> str:
    """The names that are missing, unknown or different in `stored`, in words; "" if none are."""
    problems = [f"{name} is missing" for name in model if name not in stored]
    problems += [f"{name} is not part of the model" for name in stored if name not in model]
    problems += [
        f"{name} is {stored[name]}, the model has {outline}"
        for name, outline in model.items()
        if name in stored and stored[name] != outline
    ]
    more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    return "; ".join(printable(problem, 200) for problem in problems[:8]) + more


def _differs(copy: Path, config: Mapping[str, Any]) -> bool:
    """Whether `copy` exists and says something else than `config`."""
    try:
        if not copy.is_file():
            return False
        return copy.stat().st_size > 10 * len(json.dumps(config, indent=2)) or _parsed(copy.read_bytes()) != config
    except (OSError, ValueError, RecursionError):
        return True


def _parsed(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: invalid JSON, a key that appears twice in a mapping, or a number that is not finite or has over 20 digits.
        RecursionError: JSON that is nested too deeply.
    """
    return json.loads(
        text, object_pairs_hook=_mapping_of_unique_keys, parse_int=_integer, parse_float=_float, parse_constant=_float
    )


def _mapping_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key appears twice in one mapping")
    return mapping


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return float(text)
