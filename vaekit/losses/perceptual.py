"""Objectives for pictures as the eye sees them: distances on features, and a discriminator of patches.

The first stage of P. Esser, R. Rombach, B. Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021,
arXiv:2012.09841, equations 4 to 7, and of R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
2022, arXiv:2112.10752, section 3.1 and appendix G ("perceptual image compression").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_size
from vaekit.conditions.base import Condition
from vaekit.discriminators import Discriminator
from vaekit.distances import Distance
from vaekit.distances import registry as all_distances
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.adversarial import AdversarialLoss, hinge, mean_of_places, weight_by_gradients
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, repeated
from vaekit.ops.dispatch import uncompiled
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
from vaekit.registry import recorded_spec
from vaekit.schedules import Schedule, checked_schedule


@registry.register("perceptual")
class Perceptual(AdversarialLoss):
    """Another objective, with distances on features and a discriminator of patches: the recipe of latent diffusion.

    A likelihood of pixels prefers a blurred edge to one that is a pixel off. A distance on features sees that the edge is there,
    and a discriminator that texture is missing.

        total = objective's  +  mean of E sum_i w_i distance_i(x', x)  +  w lambda g,   g = mean of -D(x')
        auxiliary = objective's  +  1/2 mean of max(0, 1 - D(x)) + 1/2 mean of max(0, 1 + D(x'))

    where x' is the likelihood's mean of the reconstruction that the objective made, E the number of an example's elements, beside
    whose sum a mean over an example would be nothing, and D the discriminator's logits, of which the mean over all patches is
    taken. lambda = |grad nll| / (|grad g| + 1e-6), gradients at the weight of the decoder's last layer of the reconstruction with
    the distances and of g (equation 7): both pull alike there.

    Use it for pictures that have to look right: with the objective "elbo" and a small beta for the autoencoders of latent
    diffusion (preset "latent-diffusion"), with "vector_quantized" for a VQGAN. `total` is no bound on log p(x) any more; with
    neither distances nor a discriminator it is the objective. Start the discriminator when reconstructions are there.

    The discriminator learns from `auxiliary` alone and in the same step as the model, as it was before it; `total` takes its
    weights for constants. Without gradients, as in validation, nobody knows lambda: g then counts nothing, and a best epoch is
    one by reconstruction and distances. The processes of a run take lambda from the whole batch; of a step that `accumulate`
    puts together each part has its own, as the authors' code has. A frozen last layer has no such gradient: they are compared at
    what the decoder gives then. Where x has missing values, x' takes their place.
    Cost: a pass of the batch and two of the reconstructions through the discriminator, and those of the distances. torch.compile
    traces it with adaptive=False, and leaves it uncompiled otherwise.

    Esser et al., 2021, arXiv:2012.09841, equation 7; Rombach et al., 2022, arXiv:2112.10752.

    Args:
        latent_shape, input_shape: of one example's latents, and of one example; `vaekit.create_vae` fills them in.
        objective: a registered name, {"name": ..., option: ...}, or a `vaekit.Loss`, that decodes each example.
        distances: names, specs or objects of `vaekit.distances`, each with its weight.
        discriminator: a name, spec or object of `vaekit.discriminators`, "patch" for example; None for none.
        adversarial_weight: w: a number, a `vaekit.schedules.Schedule` of the step, or its spec. 0.5 is latent diffusion's.
        start: the step from which there is a discriminator; before it, it is neither asked nor trained.
        adaptive: take lambda from the gradients; otherwise it is 1.
        learning_rate, betas: Adam's for the discriminator; by default the run's learning rate and the authors' betas.

    In the terms `reconstruction` and `kl` are the objective's; the extras are the objective's, each distance by its name, [B],
    without its weight, and with a discriminator `adversarial`, g, `adversarial_weight`, w lambda, and `discriminator`, its loss:
    1 for one that cannot tell.

    Raises:
        TypeError, ValueError, UnknownNameError: parts or options that do not exist or do not fit.

    Example:
        >>> import torch, vaekit
        >>> loss = {
        ...     "name": "perceptual",
        ...     "objective": {"name": "elbo", "beta": 1e-6},
        ...     "distances": [{"name": "features", "network": torch.nn.Conv2d(1, 8, 3), "weight": 0.5}],
        ...     "discriminator": {"name": "patch", "channels": 8, "layers": 1},
        ... }
        >>> vae = vaekit.create_vae("conv-mnist", likelihood="laplace", loss=loss)
        >>> history = vaekit.fit(vae, torch.rand(20, 1, 28, 28), epochs=1, progress=False)
        >>> sorted(history)[:4]
        ['adversarial', 'adversarial_weight', 'discriminator', 'features']
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | None = None,
        input_shape: Sequence[int] | None = None,
        objective: str | Mapping[str, Any] | Loss = "elbo",
        distances: Sequence[str | Mapping[str, Any] | Distance] = (),
        discriminator: str | Mapping[str, Any] | Discriminator | None = None,
        adversarial_weight: float | Schedule | Mapping[str, Any] = 0.5,
        start: int = 0,
        adaptive: bool = True,
        learning_rate: float | None = None,
        betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(discriminator, input_shape, learning_rate, betas)
        shapes = {"latent_shape": latent_shape, "input_shape": input_shape}
        offers = {name: tuple(shape) for name, shape in shapes.items() if shape is not None}
        self.objective: Loss = registry.build(objective, offers)
        if self.objective.infers_condition:
            raise ValueError(
                f"the objective of 'perceptual' has to decode each example, and {type(self.objective).__name__} decodes those "
                "without a label once for each class"
            )
        if isinstance(distances, (str, Mapping)) or not isinstance(distances, Sequence):
            raise TypeError(f'distances has to be a list of distances, ["ms_ssim"] for example, got {distances!r}')
        self.distances = nn.ModuleList(all_distances.build(distance) for distance in distances)
        self.latent_shape, self.latents = self.objective.latent_shape, self.objective.latents
        self.compares_examples = self.objective.compares_examples
        self.adversarial_weight = checked_schedule("adversarial_weight", adversarial_weight)
        self.start, self.adaptive = checked_size("start", start, least=0), checked_flag("adaptive", adaptive)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The discriminator's, and the objective's."""
        return [*super().parameter_groups(), *self.objective.parameter_groups()]

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        asks_for_gradients = self.discriminator is not None and self.adaptive
        return (_terms_eagerly if asks_for_gradients else Perceptual._terms)(self, model, batch, context)

    def _terms(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        watched = _Watched(model)
        terms: LossTerms = self.objective(watched, batch, context)
        made, x = _reconstructions(model, watched.decoded, batch)
        apart, extras = self._distances(made, x, len(terms.reconstruction), context.step)
        terms = terms._replace(total=terms.total + batch_mean(apart), extras={**terms.extras, **extras})
        if self.discriminator is None:
            return terms
        kept = terms.reconstruction + apart
        return self._with_discriminator(terms, kept, made, x, watched, context.step)

    def _distances(self, made: Tensor, x: Tensor, rows: int, step: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the distances, for each example, and each of them by its name."""
        elements = math.prod(x.shape[1:])
        extras: dict[str, Tensor] = {}
        weighted = made.new_zeros(rows)
        for distance in self.distances:
            assert isinstance(distance, Distance)
            apart = distance(made, x)
            if apart.shape != (len(x),):
                raise ValueError(
                    f"{type(distance).__name__} has to give a number for each of {len(x)} examples, got the shape "
                    f"{list(apart.shape)}"
                )
            apart = apart.view(-1, rows).mean(0) if len(x) != rows else apart
            weighted = weighted + distance.weight(step) * elements * apart
            extras[_unused(_name_of(distance), extras)] = apart
        return weighted, extras

    def _with_discriminator(
        self, terms: LossTerms, kept: Tensor, made: Tensor, x: Tensor, watched: _Watched, step: int | None
    ) -> LossTerms:
        if step is not None and step < self.start:
            none = terms.total.new_zeros(())
            extras = {"adversarial": none, "adversarial_weight": none, "discriminator": none}
            return terms._replace(extras={**terms.extras, **extras})
        each = -mean_of_places(self.as_opponent(made)[-1])
        adversarial = batch_mean(each)
        weight = self.adversarial_weight(step) * self._balance(kept, adversarial, watched)
        judged = hinge(self.as_judge(x), self.as_judge(made))
        extras = {"adversarial": adversarial, "adversarial_weight": weight.detach(), "discriminator": judged.detach()}
        return terms._replace(
            total=terms.total + weight * adversarial,
            extras={**terms.extras, **extras},
            auxiliary=judged if terms.auxiliary is None else terms.auxiliary + judged,
        )

    def _balance(self, kept: Tensor, adversarial: Tensor, watched: _Watched) -> Tensor:
        """lambda, of kept [B] and the mean of g; 0 where there are no gradients."""
        if not self.adaptive:
            return kept.new_ones(())
        decoded, rows = watched.decoded, kept.shape[0]
        if not (torch.is_grad_enabled() and decoded.requires_grad):
            return kept.new_zeros(())
        return weight_by_gradients(kept.sum(), rows * adversarial, watched.output_weight, decoded, rows)


# A compiled graph gives its buffers away in its first backward pass, and lambda asks for gradients before that.
_terms_eagerly: Callable[..., LossTerms] = uncompiled(Perceptual._terms)


class _Watched:
    """A model as the objective sees it, of which it keeps what was decoded first."""

    def __init__(self, model: LatentVariableModel) -> None:
        self._model = model
        self._decoded: Tensor | None = None
        self._weight: Tensor | None = None

    @property
    def prior(self) -> Prior:
        return self._model.prior

    @property
    def likelihood(self) -> Likelihood:
        return self._model.likelihood

    @property
    def decoder(self) -> nn.Module:
        return self._model.decoder

    @property
    def condition(self) -> Condition | None:
        return self._model.condition

    @property
    def output_weight(self) -> Tensor | None:
        return self._weight

    def encode(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        return self._model.encode(x, condition)

    def natural_parameters(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if self._decoded is not None:
            return self._model.natural_parameters(z, condition)
        with _weight_in_use(self._model) as in_use:
            self._decoded = self._model.natural_parameters(z, condition)
        self._weight = in_use[0] if in_use else self._model.output_weight
        return self._decoded

    def prior_given(self, condition: Tensor | None, count: int) -> Prior:
        return self._model.prior_given(condition, count)

    @property
    def decoded(self) -> Tensor:
        """[K B, P, *S], or [B, P, *S]."""
        if self._decoded is None:
            raise TypeError("the objective 'perceptual' is about reconstructions, but its objective has decoded nothing")
        return self._decoded


@contextmanager
def _weight_in_use(model: LatentVariableModel) -> Iterator[list[Tensor]]:
    """The whole weight of the last layer that is divided among processes, which it is only while the layer computes."""
    weight, in_use = model.output_weight, list[Tensor]()
    owners = [] if weight is None or type(weight) in (nn.Parameter, Tensor) else _owners(model.decoder, weight)
    hooks = [
        module.register_forward_pre_hook(lambda layer, inputs, name=name: in_use.append(getattr(layer, name)))
        for module, name in owners
    ]
    try:
        yield in_use
    finally:
        for hook in hooks:
            hook.remove()


def _owners(module: nn.Module, weight: Tensor) -> list[tuple[nn.Module, str]]:
    """The module that holds a parameter, and its name there."""
    return [(part, name) for part in module.modules() for name, own in part.named_parameters(recurse=False) if own is weight]


def _reconstructions(model: LatentVariableModel, decoded: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The likelihood's means [N, *S], and what they reconstruct: x, as often as it was drawn for."""
    made, x = model.likelihood.mean(decoded), batch.x
    if made.shape[0] != x.shape[0]:
        x = repeated(x, made.shape[0] // max(x.shape[0], 1))
    if model.likelihood.missing == "ignore":
        x = torch.where(x.isnan(), made.detach(), x)
    return made, x


def _name_of(distance: Distance) -> str:
    spec = recorded_spec(distance)
    return type(distance).__name__ if spec is None else str(spec["name"])


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 2))
    return name if name not in taken else next(other for other in numbered if other not in taken)
