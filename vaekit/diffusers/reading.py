"""`from_diffusers`: an AutoencoderKL from a folder, a repository or a state dict, as a model.

Nothing that is read is trusted: no pickle is opened, and the tensors' names and shapes are compared with what the config
composes before memory is taken for any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit import hub, weights
from vaekit.compose import create_vae
from vaekit.diffusers.config import model_options
from vaekit.diffusers.names import gathered, names_of, renamed
from vaekit.files import printable
from vaekit.vae import VAE
from vaekit.weights import outline_of

CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
_MOST_CONFIG_BYTES = 1 << 20


def from_diffusers(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    subfolder: str = "",
    revision: str | None = None,
    variant: str | None = None,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    likelihood: Any = "laplace",
    prior: Any = None,
    loss: Any = None,
) -> VAE:
    """The model that computes what an AutoencoderKL of diffusers does, with its weights, on the CPU and in evaluation mode.

    Its latents are those of the pipelines: (z - shift_factor) scaling_factor of the z that diffusers' `encode` gives, and
    `vae.decode` takes them as they are. Of `encode(x).mean` and `decode(z)` the numbers are diffusers', to rounding; the log
    variances are too, but for diffusers' own limits to them, -30 and 20, which are left out. Images are in [-1, 1].

    Args:
        source: a folder with config.json and diffusion_pytorch_model.safetensors; the name of a repository on the Hugging Face
            hub, "stabilityai/sdxl-vae", which takes the package huggingface_hub; or a state dict, together with `config`.
        config: of a state dict, `model.config` for example.
        subfolder: where in the folder or repository it is; "vae" in those of whole pipelines.
        revision: branch, tag or commit of a repository; None for its main branch.
        variant: "fp16" for diffusion_pytorch_model.fp16.safetensors.
        size: height and width of the images that the model is for; None for the config's sample_size.
        dtype: of the weights; those of the file are converted.
        likelihood, prior, loss: as of `vaekit.create_vae`; a likelihood with one parameter for each element. By default a
            Laplace, whose nll is an absolute error, as Rombach et al. train.

    Raises:
        FileNotFoundError: no such folder or repository, no such revision or file in it; pickled weights alone.
        ConnectionError, PermissionError: the hub cannot be reached, or does not give the files; the message has its reason.
        ValueError: another class than AutoencoderKL, options that vaekit has no part for, tensors that do not fit the config.
        ImportError: huggingface_hub is needed and not installed.

    Example:
        >>> import tempfile, vaekit
        >>> both = {"name": "resnet", "groups": 2, "norm_eps": 1e-6}
        >>> vae = vaekit.create_vae(
        ...     input_shape=(3, 8, 8), latent_dim=4, likelihood="laplace",
        ...     encoder={**both, "channels": (4, 8), "blocks": 1, "spatial": True, "downsample_padding": "end"},
        ...     decoder={**both, "channels": (8, 4), "blocks": 2},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = from_diffusers(vaekit.to_diffusers(vae, folder))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> torch.equal(again.reconstruct(x), vae.reconstruct(x))
        True
    """
    parts = {"likelihood": likelihood, "prior": prior, "loss": loss}
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("a state dict says nothing of groups and scaling; give its config too, config=model.config")
        tensors = {renamed(name): tensor for name, tensor in source.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return _composed(config, shapes, tensors.__getitem__, size, dtype, parts)
    if config is not None:
        raise ValueError("config= goes with a state dict; a folder or a repository has its own config.json")
    weights_file = WEIGHTS_FILE if variant is None else WEIGHTS_FILE.replace(".safetensors", f".{variant}.safetensors")
    config_path, weights_path = _files(source, subfolder, revision, weights_file)
    read = _read_config(config_path)
    with weights.opened(weights_path) as stored:
        original = {renamed(name): name for name in stored.outlines}
        shapes = {name: stored.outlines[old].shape for name, old in original.items()}
        return _composed(read, shapes, lambda name: stored.tensor(original[name]), size, dtype, parts)


def _composed(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tensor: Callable[[str], Tensor],
    size: int | None,
    dtype: torch.dtype,
    parts: Mapping[str, Any],
) -> VAE:
    """The model of a config, with the tensors of these names and shapes."""
    options = model_options(config, size)
    if options["encoder"]["blocks"] * len(options["encoder"]["channels"]) > len(shapes):
        raise ValueError(f"the config asks for more layers than the {len(shapes)} tensors can be of")
    with torch.device("meta"):
        twin = create_vae(**options, **parts)
    if twin.decoder.parameters_per_element != 1:
        raise ValueError(
            f"{type(twin.likelihood).__name__} takes {twin.decoder.parameters_per_element} parameters for each element, and an "
            "AutoencoderKL gives one, the mean; take 'laplace' or 'gaussian' with a scale that is fixed or shared"
        )
    _check_that_they_fit(twin, shapes)
    vae = create_vae(**options, **parts).to(dtype)
    own = vae.state_dict()
    for name, theirs in names_of(vae).items():
        own[name].copy_(gathered(own[name].shape, map(tensor, theirs)))
    return vae.eval()


def _check_that_they_fit(vae: VAE, shapes: Mapping[str, tuple[int, ...]]) -> None:
    own, names = vae.state_dict(), names_of(vae)
    problems, expected = [], set()
    for name, theirs in names.items():
        shape = outline_of(own[name]).shape
        for their in theirs:
            expected.add(their)
            part = (shape[0] // len(theirs), *shape[1:])
            fits = {part, part[:2]} if ".attentions." in their and len(part) > 2 else {part}  # dense layers or 1x1 convolutions
            if their not in shapes:
                problems.append(f"{their} is missing")
            elif shapes[their] not in fits:
                problems.append(f"{their} has the shape {shapes[their]} instead of {part}")
    problems += [f"{name} belongs nowhere" for name in shapes if name not in expected]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"the weights do not fit the config: {printable('; '.join(problems[:8]), 1000)}{more}")


def _files(source: str | os.PathLike[str], subfolder: str, revision: str | None, weights_file: str) -> tuple[Path, Path]:
    """The config and the weights, downloaded if the source is a repository."""
    folder = Path(source) / subfolder
    if not Path(source).is_dir():
        if not hub.is_repository(os.fspath(source)):
            raise FileNotFoundError(
                f"there is no folder {source}; give one with {CONFIG_FILE} and {weights_file}, or a repository, "
                "'stabilityai/sdxl-vae' for example"
            )
        hub.client.package(f"there is no folder {source} here, and reading a repository")
        config, file = (hub.file(os.fspath(source), name, subfolder, revision) for name in (CONFIG_FILE, weights_file))
        return config, file
    for name in (CONFIG_FILE, weights_file):
        if not (folder / name).is_file():
            raise FileNotFoundError(_what_is_there(folder, name))
    return folder / CONFIG_FILE, folder / weights_file


def _what_is_there(folder: Path, missing: str) -> str:
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    hint = ""
    if (folder / "vae" / CONFIG_FILE).is_file():
        hint = "; this is a whole pipeline: give subfolder='vae'"
    elif any(name.endswith((".bin", ".ckpt", ".pt")) for name in inside):
        hint = (
            "; pickled weights are not read, because a pickle can run any code: save the model with diffusers as safetensors, "
            "model.save_pretrained(folder)"
        )
    return f"there is no {missing} in {folder}, which holds: {printable(', '.join(inside[:10]) or 'nothing')}{hint}"


def _read_config(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MOST_CONFIG_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, far more than a config of an AutoencoderKL")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no valid JSON: {printable(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} has to hold a mapping of options, got {printable(repr(config), 60)}")
    return config
