"""The files that hold a model.

A model is one folder. `model.safetensors` is the authority: the weights, and in its metadata the config that composes the
model again. `config.json` beside it is a copy for people. Nothing is pickled, so that loading a model runs no code from it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit import specs
from vaekit.files import writable_folder, write_atomically
from vaekit.layout import BEST
from vaekit.registry import UnknownNameError
from vaekit.vae import VAE

FORMAT = 2  # see `specs.upgraded` for the earlier ones
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


def save(vae: VAE, folder: str | os.PathLike[str]) -> Path:
    """Write `model.safetensors` and `config.json` into `folder`; a crash at any point leaves the old file or the new one.

    Returns:
        the folder.

    Raises:
        ValueError: a part whose class is not registered.
        OSError: the folder cannot be made or written.
    """
    from safetensors.torch import save

    text = json.dumps(config_of(vae), indent=2)
    folder = writable_folder(folder)
    write_atomically(folder / WEIGHTS_FILE, save(_separate(vae.state_dict()), metadata={"vaekit": text}))
    write_atomically(folder / CONFIG_FILE, (text + "\n").encode())
    return folder


def config_of(vae: VAE) -> dict[str, Any]:
    """Plain data from which `load` composes the model again; see `VAE.config`."""
    from vaekit import __version__

    dtypes = {str(p.dtype).removeprefix("torch.") for p in vae.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(f"the model's weights are of several dtypes, {', '.join(sorted(dtypes))}; vae.float() makes them one")
    parts = {kind: part for kind in specs.KINDS if (part := getattr(vae, kind)) is not None}
    return {
        "format": FORMAT,
        "vaekit": __version__,
        "dtype": str(next(vae.parameters()).dtype).removeprefix("torch."),
        **{kind: specs.spec_of(kind, part) for kind, part in parts.items()},
    }


def load(path: str | os.PathLike[str]) -> VAE:
    """The model that `VAE.save` wrote, on the CPU.

    Args:
        path: the folder, or the model.safetensors in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a truncated, foreign or newer file, or weights that do not fit; the message says what differs.
        UnknownNameError: a part that is not registered here; import the module that registers it first.

    Example:
        >>> import tempfile, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(vae.save(folder))
        >>> torch.equal(again.decode(torch.ones(1, 2)), vae.decode(torch.ones(1, 2)))
        True
    """
    tensors, saved = read_model(path)
    saved = specs.upgraded(saved)
    missing = [name for name, kind in specs.KINDS.items() if name not in saved and not kind.is_optional]
    if missing:
        raise ValueError(f"the config in {path} says nothing of: {', '.join(missing)}")
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once
            parts = {name: kind.registry.build(saved[name]) for name, kind in specs.KINDS.items() if name in saved}
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} If a module of yours registers it, import that before loading {path}.") from error
    vae = VAE(**parts).to(getattr(torch, saved.get("dtype", "float32")))
    load_weights(vae, tensors, path)
    return vae


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the config in a folder that `write_model` made, or in its model.safetensors.

    Raises:
        FileNotFoundError: there is no such file; the message says what is there.
        ValueError: a truncated or foreign file, or one written by a newer vaekit.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        where = path if path.is_dir() else path.parent
        inside = sorted(p.name for p in where.iterdir())[:10] if where.is_dir() else []
        hint = f"; did you mean {where / BEST}?" if (where / BEST / WEIGHTS_FILE).is_file() else ""
        raise FileNotFoundError(f"there is no model at {file}; {where} holds: {', '.join(inside) or 'nothing'}{hint}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a complete safetensors file ({error}); it may have been cut short when it was copied: copy it again"
        ) from error
    if "vaekit" not in metadata:
        raise ValueError(f"{file} was not written by vaekit: it has weights but no config of a model in its metadata")
    config = _parsed(metadata["vaekit"])
    if not isinstance(config, dict):
        raise ValueError(f"{file} has weights, but what its metadata says of the model is damaged: {metadata['vaekit'][:60]!r}")
    if config.get("format", 0) > FORMAT:
        from vaekit import __version__

        raise ValueError(
            f"{file} has format {config['format']}, written by vaekit {config.get('vaekit')}; this is vaekit {__version__}, "
            f"which reads formats up to {FORMAT}: upgrade vaekit"
        )
    copy = file.with_name(CONFIG_FILE)
    if copy.is_file() and _parsed(copy.read_bytes()) != config:
        warnings.warn(
            f"{copy} differs from the config inside {file.name}, which is the one that counts; "
            "a changed model has to be composed and saved anew",
            UserWarning,
            stacklevel=3,
        )
    return tensors, config


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Copy `tensors` into the model, refusing any difference in names or shapes.

    Raises:
        ValueError: weights that are missing, unknown or of another shape, each by name.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not part of the model" for name in tensors if name not in own]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    problems += [
        f"{name} is {tensors[name].dtype}, the model has {own[name].dtype}"
        for name in own
        if name in tensors and own[name].dtype != tensors[name].dtype
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"the weights in {source} do not fit the model: {'; '.join(problems[:8])}{more}")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state on the CPU, every tensor with memory of its own: safetensors refuses tied weights."""
    return {name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in state.items()}


def _parsed(text: str | bytes) -> Any:
    """What the JSON says; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
