"""A model at a glance: its parts, the shapes along the way, how many weights there are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaekit.markup import html_table
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import Family
from vaekit.registry import parameters_of, recorded_spec
from vaekit.weights import name_of

if TYPE_CHECKING:
    from vaekit.vae import VAE

_WIDEST = 60  # of what a terminal shows of a part's options
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SHAPES = (
    "input_shape",
    "output_shape",
    "latent_dim",
    "latent_shape",
    "features_shape",
    "parameters_per_element",
    "condition_dim",
)  # which the parts are told by each other, and which stand beside them
_ELSEWHERE = ("name", "posterior", *_SHAPES)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Row:
    """A part, or a layer of the part above.

    Attributes:
        name: "encoder"; a layer's path in it behind two spaces, "  body.0".
        what: how the part was made, as it is written in a spec; the class of a layer.
        gives: the shape that comes out; "" where it is not known.
        weights: how many numbers it holds that can be trained, those of its layers included.
    """

    name: str
    what: str
    gives: str
    weights: int


@dataclass(frozen=True)
class Summary:
    """What `print(vae)` shows, and a notebook in HTML.

    Attributes:
        title: from the data through the latents to the data again, and how many weights there are.
        rows: parts and layers, in the order in which an example meets them.
    """

    title: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, vae: VAE) -> Summary:
        """Nothing is computed but shapes, on a copy of the networks without their weights: the model is as it was."""
        encoder, decoder = _shapes(vae)
        rows = [
            *_network("encoder", vae.encoder, encoder),
            Row("posterior", _spec(vae.encoder.family), f"z {_shape((1, *vae.latent_shape))}", _count(vae.encoder.family)),
            *_network("decoder", vae.decoder, decoder),
        ]
        for name in ("likelihood", "prior", "loss", "condition"):
            part = getattr(vae, name)
            if part is not None:
                rows.append(Row(name, _spec(part), "", _count(part)))
        through = f"x {_shape((1, *vae.input_shape))} to z {_shape((1, *vae.latent_shape))} and back"
        return cls(f"VAE from {through}; {_weights(vae)}", tuple(rows))

    def __str__(self) -> str:
        cells = [(name, _cut(what), *rest) for name, what, *rest in self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            f"  {name:{widths[0]}}  {what:{widths[1]}}  {gives:{widths[2]}}  {weights:>{widths[3]}}".rstrip()
            for name, what, gives, weights in cells
        ]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return html_table(("part", "made as", "gives", "weights"), self._cells(), self.title)

    def _cells(self) -> list[tuple[str, str, str, str]]:
        return [(row.name, row.what, row.gives, f"{row.weights:,}" if row.weights else "") for row in self.rows]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 4]} ..."


def _spec(part: object) -> str:
    """How a part is written, name(option=value), without defaults and without shapes; the class of one that is not registered."""
    spec = recorded_spec(part)
    if spec is None:
        return type(part).__name__
    defaults = {name: parameter.default for name, parameter in parameters_of(type(part)).items()}
    given = {
        name: value for name, value in spec.items() if name not in _ELSEWHERE and not _is(value, defaults.get(name, _SHAPES))
    }
    options = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{spec['name']}({options})" if options else str(spec["name"])


def _is(value: Any, default: Any) -> bool:
    """Whether an option has its default's value; tensors and arrays are never said to."""
    try:
        return bool(value == default)
    except (ValueError, RuntimeError, TypeError):
        return False


def _network(name: str, network: nn.Module, shapes: Mapping[str, str]) -> Iterator[Row]:
    """A network, and what is in it: layers that have weights, and what changes the shape."""
    yield Row(name, _spec(network), shapes.get("", ""), _count(network))
    before = None
    for path, layer in _layers(network):
        gives, weights = shapes.get(path, ""), _count(layer)
        if weights or gives != before:
            yield Row(f"  {path}", type(layer).__name__, gives, weights)
        before = gives


def _layers(network: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Layers by their path, those in containers by their own; what a layer is made of is the layer's."""
    for name, layer in network.named_children():
        if isinstance(layer, _CONTAINERS):
            yield from _layers(layer, f"{path}{name}.")
        elif not isinstance(layer, Family):  # which has a row of its own
            yield f"{path}{name}", layer


def _shapes(vae: VAE) -> tuple[dict[str, str], dict[str, str]]:
    """What the layers of encoder and decoder give for one example, by path, "" for the whole; {} where they cannot say."""
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    bare = _without_weights(vae)
    bare.encoder.posterior = partial(_noted, bare.encoder.posterior, found[0])  # type: ignore[method-assign]
    bare.decoder.register_forward_hook(partial(_note, found[1], ""))
    networks = ((bare.encoder, vae.encoder.input_shape), (bare.decoder, vae.latent_shape))
    for (network, shape), shapes in zip(networks, found, strict=True):
        for path, layer in _layers(network):
            layer.register_forward_hook(partial(_note, shapes, path))
        condition = [_example((network.condition_dim,))] if network.condition_dim else []
        # What cannot be computed without numbers, codes in a table for example, ends here; what came before it is known.
        with suppress(Exception), torch.no_grad():
            network(_example(shape), *condition)
    return found


def _example(shape: Sequence[int]) -> Tensor:
    return torch.zeros(1, *shape, device="meta")


def _noted(posterior: Callable[[Tensor], Posterior], shapes: dict[str, str], numbers: Tensor) -> Posterior:
    shapes[""] = _shape(numbers.shape)
    return posterior(numbers)


def _note(shapes: dict[str, str], path: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
    if isinstance(outputs, Tensor):
        shapes[path] = _shape(outputs.shape)


def _without_weights(vae: VAE) -> VAE:
    """A copy whose tensors have shapes and no numbers, and which nobody else watches."""
    held = [*vae.parameters(), *vae.buffers()]
    held += [value for module in vae.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(t): _shaped_like(t) for t in held}
    bare = copy.deepcopy(vae, memo)
    for module in bare.modules():
        for hooks in _HOOKS:
            getattr(module, hooks).clear()
    return bare.eval()


def _shaped_like(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(['B', *map(str, shape[1:])])}]"


def _count(module: object) -> int:
    return sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0


def _weights(vae: VAE) -> str:
    weights = list(vae.parameters())
    dtypes = ", ".join(sorted({name_of(p.dtype) for p in weights}))
    devices = ", ".join(sorted({str(p.device) for p in weights}))
    frozen = sum(p.numel() for p in weights if not p.requires_grad)
    return f"{sum(p.numel() for p in weights):,} weights" + (f" ({frozen:,} frozen)" if frozen else "") + f", {dtypes}, {devices}"
