"""What an objective takes and gives, and what it asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from vaekit.conditions.base import Condition
from vaekit.data.batch import Batch as Batch
from vaekit.latents import LatentKind
from vaekit.likelihoods.base import Likelihood
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
from vaekit.registry import Part, Registry


class StepContext(NamedTuple):
    """Where in a run a batch is seen.

    Attributes:
        key: int64 [2], the noise of this step; see `vaekit.fold_in` for a second draw.
        step: the optimizer's step, 0, 1, ...; None outside training, where scheduled weights take their final values.
        dataset_size: the number of training examples, where it is known.
        row_start: the number of the batch's first row in what the key draws noise for: so evaluation does not depend on the
            size of its batches.
    """

    key: Tensor
    step: int | None = None
    dataset_size: int | None = None
    row_start: int = 0


class LossTerms(NamedTuple):
    """An objective and its terms, in nats.

    Attributes:
        total: scalar, what is minimised; a mean over the batch (0 for an empty one).
        reconstruction: [B], -log p(x | z), summed over the elements of each x.
        kl: [B], the divergence from the prior, summed over latent dimensions, before any weight.
        extras: further named scalars or [B], for the history; of a posterior with several levels of latents "kl_level_1", ...,
            the divergence of each, [B], from the one that is drawn first.
        auxiliary: scalar, what the objective's own parameters, a discriminator's for example, are trained on: its gradient
            reaches those alone, and total's never does. None for an objective without any.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    extras: dict[str, Tensor]
    auxiliary: Tensor | None = None

    def detach(self) -> LossTerms:
        """The same terms without gradients."""
        extras = {name: value.detach() for name, value in self.extras.items()}
        auxiliary = None if self.auxiliary is None else self.auxiliary.detach()
        return LossTerms(self.total.detach(), self.reconstruction.detach(), self.kl.detach(), extras, auxiliary)

    @property
    def objective(self) -> Tensor:
        """total, and auxiliary where there is one: what a training loop calls backward on."""
        return self.total if self.auxiliary is None else self.total + self.auxiliary


class LatentVariableModel(Protocol):
    """What an objective asks of a model; `condition` is the batch's, [B] or [B, K], None for a model without one."""

    @property
    def prior(self) -> Prior: ...

    @property
    def likelihood(self) -> Likelihood: ...

    @property
    def decoder(self) -> nn.Module: ...

    @property
    def condition(self) -> Condition | None: ...

    @property
    def output_weight(self) -> Tensor | None: ...

    def encode(self, x: Tensor, condition: Tensor | None = None) -> Posterior: ...

    def natural_parameters(self, z: Tensor, condition: Tensor | None = None) -> Tensor: ...

    def prior_given(self, condition: Tensor | None, count: int) -> Prior: ...


class Loss(Part, nn.Module, ABC):
    """An objective, called as loss(model, batch, context).

    An objective with an option `latent_shape` or `input_shape` (what the encoder reads) gets it from `vaekit.create_vae`. One
    with parameters of its own trains them on `LossTerms.auxiliary`, and says in `parameter_groups` how.

    Attributes:
        latent_shape: the shape [*S] of one example's latents, where the objective is one for latents of that shape only.
        latents: what kind of latents it is for.
        compares_examples: whether its value for an example, or what it learns from one, depends on the others of the batch. With
            batches of another size, or put together otherwise, it is another objective; it takes its rows through
            `vaekit.gathering.gathered`, so that a batch may be split over processes.
        hides_modalities: whether it is for models of several modalities, of which it hides some.
        infers_condition: whether it is for models whose condition may be missing (`Condition.infers`), and for no others.
    """

    latent_shape: tuple[int, ...] | None = None
    latents: LatentKind = LatentKind.VECTORS
    compares_examples: bool = False
    hides_modalities: bool = False
    infers_condition: bool = False
    __call__: Callable[..., LossTerms]

    def __init__(self) -> None:  # nn.Module.__init__ would swallow unknown options
        super().__init__()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The objective's own parameters with options of the optimizer for them, as groups of `torch.optim`; none by default.

        `vaekit.fit` adds them to its optimizer: "params", "lr", and any other option that the chosen optimizer takes, "betas" of
        Adam for example; one that it does not take is refused. What is left out is as for the rest of the model, and what the
        user's own groups set (`vaekit.optimizers`) comes before it.

        Example, a loop of one's own:
            >>> import torch, vaekit
            >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "factor", "hidden": (32, 32)})
            >>> rest = [*vae.encoder.parameters(), *vae.decoder.parameters()]
            >>> adam = torch.optim.Adam([{"params": rest}, *vae.loss.parameter_groups()], lr=1e-3)
            >>> for x in torch.rand(200, 4).split(100):
            ...     adam.zero_grad()
            ...     vae(x).objective.backward()
            ...     adam.step()
        """
        return []

    @abstractmethod
    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        """The terms of one batch."""


registry: Registry[Loss] = Registry("loss", "vaekit.losses", Loss)
