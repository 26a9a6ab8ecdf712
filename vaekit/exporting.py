"""A model's encoder, decoder and sampler as files that run without vaekit: ONNX, or programs of torch.export."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.checks import checked_word
from vaekit.conditions import Labels
from vaekit.files import write_atomically, written_at_once
from vaekit.modes import evaluation_mode
from vaekit.vae import VAE

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
PARTS = ("encoder", "decoder", "sampler")
_EXAMPLES = 3  # in the batch that is traced; 0 and 1 would be taken for constants


class _Encoder(nn.Module):
    """x [B, *input_shape] -> the mean of q(z | x), and its standard deviation where that is known."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        posterior = self.vae.encode(x, condition)
        variances = posterior.variances
        return (posterior.mean,) if variances is None else (posterior.mean, variances.sqrt())


class _Decoder(nn.Module):
    """z [B, *latent_shape] -> the mean of p(x | z)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.vae.decode(z, condition)


class _Sampler(nn.Module):
    """Standard normal noise [B, *latent_shape] -> the mean of p(x | z) at the draws of z that the prior makes of it."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.vae.decode(self.vae.prior.from_noise(noise), condition)


class _Part(NamedTuple):
    """What is exported: a module, an example of its inputs by name, and the names of its outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def export(vae: VAE, folder: str | os.PathLike[str], to: str = "onnx") -> dict[str, Path]:
    """Write encoder, decoder and sampler as files that run without vaekit, for batches of any size.

    - encoder: "x" [B, *input_shape], NaN where the likelihood ignores missing values, to "mean" [B, *latent_shape], and where it
      is known "standard_deviation", of q(z | x);
    - decoder: "z" [B, *latent_shape] to "x", the likelihood's mean, of a class the most probable one;
    - sampler: "noise" [B, *latent_shape], standard normal, to "x" at the draws of z that the prior makes of it. A prior that
      draws more than that, a mixture for example, has none: make z by it, and decode.

    Of a conditional model each takes "condition" as well: labels int64 [B], or floats [B, K].

    Args:
        vae: the model; what is exported is its evaluation mode. It is left as it was.
        folder: made if need be; files of the same names in it are replaced. All are there at the end, or none is.
        to: "onnx", for onnxruntime and others, which needs the extra `export`; "torch", for torch.export.load.

    Returns:
        {"encoder": path, "decoder": path, "sampler": path}; the last one is missing where the prior has no sampler.

    Raises:
        ModuleNotFoundError: "onnx" without the extra.
        ValueError: another word for `to`; a condition of one's own, of which it is not known what is given.

    Example:
        >>> import tempfile, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"name": "mlp", "hidden": (8,)}, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = export(vae, folder, to="torch")
        ...     decoder = torch.export.load(files["decoder"]).module()
        >>> torch.allclose(decoder(torch.zeros(7, 2)), vae.decode(torch.zeros(7, 2)))
        True
    """
    checked_word("to, what is exported to,", to, tuple(ENDINGS))
    if to == "onnx":
        _require_onnx()
    with written_at_once(folder) as new, evaluation_mode(vae), torch.no_grad():
        parts = _parts(vae)
        for name, part in parts.items():
            file, program = new / f"{name}{ENDINGS[to]}", _program(part)
            if to == "torch":
                write_atomically(file, functools.partial(torch.export.save, program))
            else:
                write_atomically(file, _onnx(program, part))
    return {name: Path(folder) / f"{name}{ENDINGS[to]}" for name in parts}


def _parts(vae: VAE) -> dict[str, _Part]:
    told = {} if vae.condition is None else {"condition": _example_condition(vae)}
    x, z = (torch.zeros((_EXAMPLES, *shape), dtype=vae.dtype, device=vae.device) for shape in (vae.input_shape, vae.latent_shape))
    encoder = _Encoder(vae)
    outputs = ("mean", "standard_deviation")[: len(encoder(x, *told.values()))]
    parts = {
        "encoder": _Part(encoder, {"x": x, **told}, outputs),
        "decoder": _Part(_Decoder(vae), {"z": z, **told}, ("x",)),
    }
    try:
        vae.prior.from_noise(z)
    except NotImplementedError:
        return parts
    return {**parts, "sampler": _Part(_Sampler(vae), {"noise": z, **told}, ("x",))}


def _example_condition(vae: VAE) -> Tensor:
    condition = vae.condition
    if isinstance(condition, Labels):
        return torch.zeros(_EXAMPLES, dtype=torch.int64, device=vae.device)
    if condition is None or condition.columns is None:
        raise ValueError(f"a condition of the kind {type(condition).__name__} does not say how many columns it is given")
    return torch.zeros(_EXAMPLES, condition.columns, dtype=vae.dtype, device=vae.device)


def _program(part: _Part) -> Any:
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in part.inputs)
    return torch.export.export(part.module, tuple(part.inputs.values()), dynamic_shapes=shapes, strict=False)


def _require_onnx() -> None:
    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'exporting to ONNX needs the package onnxscript, but {error.name} is not installed: pip install "vaekit[export]"',
            name=error.name,
        ) from error


def _onnx(program: Any, part: _Part) -> bytes:
    with _silent():
        made = torch.onnx.export(
            program,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=tuple({0: "batch"} for _ in part.inputs),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch.onnx and onnxscript say of their own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
