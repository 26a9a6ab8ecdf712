"""Takes a step again and looks at everything in it: where the first value that is not finite comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaekit import divergences, seeding
from vaekit.data.fingerprint import hash_of
from vaekit.losses.base import LossTerms
from vaekit.posteriors.base import Posterior
from vaekit.training.explain import listed, names_of, span, term_of
from vaekit.training.gate import Buffers
from vaekit.training.plan import Step, layers_seeds
from vaekit.vae import VAE

_MOST_DIMENSIONS = 3  # of those whose divergence is finite


class Layer(NamedTuple):
    """What a module gave.

    Attributes:
        name: of the module in the model.
        kind: its class.
        low, high: the range of the finite values of its output; NaN where there are none.
        bad: how many values were not finite.
        total: of how many.
    """

    name: str
    kind: str
    low: float
    high: float
    bad: int
    total: int


class Gradient(NamedTuple):
    """The gradient of a parameter.

    Attributes:
        name: of the parameter.
        largest: of the finite entries' sizes.
        bad: how many entries were not finite.
        total: of how many.
    """

    name: str
    largest: float
    bad: int
    total: int


class Findings(NamedTuple):
    """What was found in a step that was taken again.

    Attributes:
        terms: of each part, without gradients.
        layers: in the order in which they were done; the innermost first.
        gradients: in the order in which they were done, from the loss to the input. Of a step of several parts they are what was
            added up so far.
        logvar: the range of the posterior's log variance; None of a posterior without one, NaN where all of it is.
        largest_logvar: from which on its exponential overflows.
        dimensions: latent dimensions whose divergence is not finite, or else the largest ones, in words with "z[3]".
        x: the range of the data in the step.
        digests: of each gradient as it was in the end, and of the terms of each part: a hash of the values.
    """

    terms: Sequence[LossTerms]
    layers: Sequence[Layer]
    gradients: Sequence[Gradient]
    logvar: tuple[float, float] | None
    largest_logvar: float
    dimensions: str
    x: tuple[float, float]
    digests: Mapping[str, str]

    @property
    def fails(self) -> bool:
        """Whether something in the step was not finite: a term, what a module gave, or a gradient."""
        bad = [*(layer.bad for layer in self.layers), *(gradient.bad for gradient in self.gradients)]
        terms = [term_of(part, name) for part in self.terms for name in names_of(part)]
        return any(bad) or not all(bool(term.isfinite().all()) for term in terms)

    def lines(self) -> list[str]:
        """The facts, one a line."""
        said = []
        if (layer := next((layer for layer in self.layers if layer.bad), None)) is not None:
            said.append(f"the first output that is not finite: {layer.name} ({layer.kind}), {layer.bad} of {layer.total} values")
        else:
            said.append("the output of every module is finite")
        if (gradient := next((gradient for gradient in self.gradients if gradient.bad), None)) is not None:
            said.append(f"the first gradient that is not finite: {gradient.name}, {gradient.bad} of {gradient.total} entries")
        said += [self.dimensions] if self.dimensions else []
        if self.logvar is not None:
            said.append(f"logvar is {span(*self.logvar)}; its exponential overflows beyond {self.largest_logvar:.1f}")
        return [*said, f"the values of x are {span(*self.x)}"]


def examine(vae: VAE, step: Step, take: Callable[[Step], Sequence[LossTerms]]) -> Findings:
    """Take a step again, as far as its gradients, with the noise that it had, and look at what happens in it.

    The buffers are afterwards as before; the gradients of the step are in the parameters.

    Args:
        vae: the model, with the weights and in the mode that it had.
        step: the step.
        take: does the forward and backward passes, and gives the terms of each part.
    """
    layers: list[Layer] = []
    posteriors: list[Posterior] = []
    gradients: dict[str, Gradient] = {}
    buffers = Buffers(vae)
    buffers.keep()
    vae.zero_grad(set_to_none=True)
    seeding.reseed(vae.device, layers_seeds(step.key))
    with ExitStack() as hooks:
        for handle in _hooks(vae, layers, posteriors, gradients):
            hooks.callback(handle.remove)
        try:
            terms = take(step)
        finally:
            buffers.put_back(torch.ones((), dtype=torch.bool, device=vae.device))
    logvars = [logvar.detach() for p in posteriors if isinstance(logvar := getattr(p, "logvar", None), Tensor)]
    final = {f"the gradient of {name}": p.grad for name, p in vae.named_parameters() if p.grad is not None}
    return Findings(
        terms,
        layers,
        list(gradients.values()),
        _range(logvars) if logvars else None,
        math.log(torch.finfo(vae.dtype).max),
        _dimensions(vae, posteriors),
        _range([part.batch.x for part in step.parts]),
        {**digests_of(terms), **digests(final)},
    )


def digests_of(terms: Sequence[LossTerms]) -> dict[str, str]:
    """A hash of the values of each term of each part of a step."""
    named: dict[str, Tensor] = {}
    for number, part in enumerate(terms):
        where = f" of part {number}" if len(terms) > 1 else ""
        named |= {f"{name}{where}": term_of(part, name) for name in names_of(part)}
    return digests(named)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A hash of the values of each tensor; all NaN count as the same."""
    return {name: str(hash_of([tensor.detach().cpu()], 8).hexdigest()) for name, tensor in tensors.items()}


def _hooks(
    vae: VAE, layers: list[Layer], posteriors: list[Posterior], gradients: dict[str, Gradient]
) -> Iterator[RemovableHandle]:
    for name, module in vae.named_modules():
        if name and module is not vae.loss:  # which gives terms, and those have names of their own
            yield module.register_forward_hook(_layer_hook(name, layers, posteriors))
    for name, parameter in vae.named_parameters():
        if parameter.requires_grad:
            yield parameter.register_post_accumulate_grad_hook(_gradient_hook(name, gradients))


def _layer_hook(name: str, layers: list[Layer], posteriors: list[Posterior]) -> Callable[[nn.Module, Any, Any], None]:
    def look(module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Posterior) and not any(output is other for other in posteriors):
            posteriors.append(output)
        tensors = [tensor.detach() for tensor in _tensors(output)]
        if tensors:
            bad = sum(int((~tensor.isfinite()).sum()) for tensor in tensors)
            count = sum(tensor.numel() for tensor in tensors)
            layers.append(Layer(name, type(module).__name__, *_range(tensors), bad, count))

    return look


def _gradient_hook(name: str, gradients: dict[str, Gradient]) -> Callable[[Tensor], None]:
    def look(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or (name in gradients and gradients[name].bad):  # the first time that it was not finite counts
            return
        gradients.pop(name, None)
        finite = gradient[gradient.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else math.nan
        gradients[name] = Gradient(name, largest, gradient.numel() - finite.numel(), gradient.numel())

    return look


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a module gave: a tensor, a posterior, or a nest of them."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Posterior):
        yield from {
            id(value): value for value in vars(output).values() if isinstance(value, Tensor) and value.is_floating_point()
        }.values()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def _range(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """The lowest and the highest value, infinity included and NaN left out; NaN where there is nothing else."""
    values = [tensor[~tensor.isnan()] for tensor in tensors]
    values = [value for value in values if value.numel()]
    if not values:
        return math.nan, math.nan
    return min(float(value.min()) for value in values), max(float(value.max()) for value in values)


@torch.no_grad()
def _dimensions(vae: VAE, posteriors: Sequence[Posterior]) -> str:
    """Which latent dimensions are not finite, by their divergence where it comes apart by dimension; or have most of it."""
    if not posteriors:
        return ""
    has_kl = vae.prior.condition is None and all(divergences.known_by_dimension(posterior, vae.prior) for posterior in posteriors)
    key = torch.zeros(2, dtype=torch.int64, device=vae.device)
    values = [p.rsample_kl_per_dimension(vae.prior, key=key)[1] if has_kl else p.mean.detach() for p in posteriors]
    whole, of = torch.cat([value.float() for value in values]), "the divergence" if has_kl else "the posterior's mean"
    bad = (~whole.isfinite()).any(0)
    names = [f"z[{', '.join(map(str, place))}]" for place in bad.nonzero().tolist()]
    if names:
        return f"latent dimensions in which {of} is not finite: {listed(names)}"
    if not has_kl or not len(whole):
        return ""
    most = whole.amax(0)
    order = most.flatten().argsort(descending=True)[:_MOST_DIMENSIONS].tolist()
    places = [torch.unravel_index(torch.tensor(place), most.shape) for place in order]
    largest = [f"{most[place].item():.4g} nats in z[{', '.join(str(int(p)) for p in place)}]" for place in places]
    return f"the divergence is finite in every latent dimension, at most {listed(largest)}"
