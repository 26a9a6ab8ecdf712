"""A model for the `Trainer` of Lightning (https://lightning.ai/docs/pytorch): the extra `vaekit[lightning]`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vaekit import saving, seeding, specs
from vaekit.data import Batch
from vaekit.data.stream import as_batch
from vaekit.evaluation.terms import evaluation_key, named_terms
from vaekit.inputs import check_values
from vaekit.losses.base import LossTerms
from vaekit.ops.precision import wide
from vaekit.schedules import Schedule
from vaekit.training import FitOptions, optimizers, preflight, step_key
from vaekit.training.plan import layers_seeds
from vaekit.training.rates import LearningRate
from vaekit.vae import VAE

try:
    from lightning.pytorch import LightningModule
except ModuleNotFoundError as error:
    raise ImportError("vaekit.integrations.lightning needs Lightning: pip install 'vaekit[lightning]'") from error


class LitVAE(LightningModule):
    """A VAE that the `Trainer` of `lightning.pytorch` trains as `vaekit.fit` would: the same noise, objective and optimizer.

    Noise, dropout's too, is a pure function of (seed, trainer.global_step). With batches in the same order the weights are those
    of `fit`, bit for bit on the CPU. What else `fit` does is the Trainer's affair: the order of the data
    (`lightning.pytorch.seed_everything`), clipping, checkpoints, precision ("bf16-mixed" is what "bf16" is in `fit`; weights in
    half precision are refused). No guard keeps an objective that is not finite from the weights; Trainer(detect_anomaly=True)
    finds it.

    A batch is what a loader gives to `fit`: x, (x, ...) or {"x": x}, and of a conditional model (x, y, ...) or {"x": x, "y": y}.
    Its values are checked in the first epoch, in validation and in tests.

    Logged, in nats, for each epoch: "loss", "reconstruction", "kl" and the objective's extras, "val_..." of them by
    `validation_step` and "test_..." by `test_step`: means over all examples, those of other processes included. Evaluation has
    the noise of `vaekit.evaluate`, the same each time.

    With accumulate_grad_batches=k, or on several devices, batches of one size draw what the one large batch that they make would,
    and give its gradient to rounding. Lightning weighs batches alike, and its DistributedSampler repeats examples to fill the
    last ones: where sizes differ, so does the run. An objective that compares examples is refused there; `fit` takes it.

    Args:
        vae: the model, or its `config()`, which composes a new one.
        learning_rate, optimizer, seed: as in `vaekit.fit`, but for an optimizer that is a function and a rate that depends on the
            history. A schedule of the rate goes by optimizer steps; one that leaves out `steps` gets the Trainer's estimate.

    Raises:
        TypeError, ValueError: what `fit` would refuse; a model whose `config()` could not compose it again.

    Checkpoints of the Trainer hold the model's config and the options as plain data, so that `load_from_checkpoint` needs no
    arguments, and no pickle (weights_only=True).

    Example:
        >>> import warnings, torch, vaekit
        >>> from lightning.pytorch import Trainer
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = Trainer(max_epochs=2, accelerator="cpu", **quiet)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # Lightning's advice on workers
        ...     trainer.fit(LitVAE(vae, learning_rate=1e-2), torch.utils.data.DataLoader(torch.rand(100, 4), batch_size=50))
        >>> trainer.global_step, vae.sample(3).shape
        (4, torch.Size([3, 4]))
    """

    def __init__(
        self,
        vae: VAE | Mapping[str, Any],
        *,
        learning_rate: float | Schedule | Mapping[str, Any] = 1e-3,
        optimizer: str | Mapping[str, Any] = "adam",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(vae, (VAE, Mapping)):
            raise TypeError(f"LitVAE takes a vaekit.VAE or its config(), got {type(vae).__name__}")
        options: dict[str, Any] = {"learning_rate": learning_rate, "optimizer": optimizer, "seed": seed}
        self._options = FitOptions(**options)
        self.vae = vae if isinstance(vae, VAE) else saving.composed(vae)
        plain = {name: specs.plain_value("run", name, value) for name, value in options.items()}
        self.save_hyperparameters({"vae": self.vae.config(), **plain})
        self._step, self._rows, self._parts, self._evaluated_rows = (
            -1,
            0,
            0,
            0,
        )  # how much has been seen of a step, and of an evaluation
        self._training = ExitStack()

    def forward(self, *arguments: Any, **options: Any) -> LossTerms:
        """The model's objective; see `vaekit.VAE.forward`."""
        terms: LossTerms = self.vae(*arguments, **options)
        return terms

    def configure_optimizers(self) -> Any:
        """The optimizer, over the parameter groups that the objective asks for, and the schedule of its rate."""
        steps = self.trainer.estimated_stepping_batches if isinstance(self._options.learning_rate, Mapping) else math.inf
        rate = LearningRate(self._options.learning_rate, int(steps) if math.isfinite(steps) else None)
        if rate.follows_history:
            raise ValueError(
                "learning_rate: the schedule depends on the history that fit keeps, which a Trainer does not; let its own "
                "lightning.pytorch.callbacks or torch.optim.lr_scheduler.ReduceLROnPlateau change the rate"
            )
        optimizer = optimizers.build(self._options.optimizer, self.vae, rate(0), not rate.is_constant)
        if rate.is_constant:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": _Rate(optimizer, rate), "interval": "step"}}

    def on_fit_start(self) -> None:
        """Refuse what `fit` would, and put the model into training mode, less what is frozen."""
        preflight.check_precision(self.vae, self.device)
        preflight.check_weights(self.vae)
        is_divided = self.trainer.accumulate_grad_batches > 1 or self.trainer.world_size > 1
        if is_divided and self.vae.loss.compares_examples:
            raise ValueError(
                f"the objective {type(self.vae.loss).__name__} compares the examples of a step with each other, and "
                f"accumulate_grad_batches={self.trainer.accumulate_grad_batches} on {self.trainer.world_size} device(s) shows it "
                "only some at a time; train it on one device without accumulation"
            )
        self._training.enter_context(preflight.training_mode(self.vae))

    def on_fit_end(self) -> None:
        """Put the model into evaluation mode, as `fit` does."""
        self._training.close()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The objective on one batch."""
        step, one = self.trainer.global_step, as_batch(batch, self.vae.condition is not None)
        if self.trainer.current_epoch == 0:
            check_values(self.vae, one, f"train, batch {batch_idx}")
        if step != self._step:
            self._step, self._rows, self._parts = step, 0, 0
        row_start, key = self._number(self._rows, one), step_key(self._options.seed, step)
        part = self._parts * self.trainer.world_size + self.global_rank  # of the step: each has draws of its own
        self._rows += len(one.x)
        self._parts += 1
        with seeding.own_generators(self.device):
            seeding.reseed(self.device, layers_seeds(key, part))
            terms = self(
                one.x,
                one.condition,
                key=key.to(self.device),
                step=step,
                dataset_size=_size(self.trainer.train_dataloader),
                row_start=row_start,
            )
        self._log_terms(terms, "", len(one.x), prog_bar=True)
        objective: Tensor = terms.objective
        return objective

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log "val_loss" and the other terms."""
        self._evaluate(batch, batch_idx, self.trainer.val_dataloaders, dataloader_idx, "val_")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log "test_loss" and the other terms."""
        self._evaluate(batch, batch_idx, self.trainer.test_dataloaders, dataloader_idx, "test_")

    def _evaluate(self, batch: Any, batch_idx: int, loaders: Any, loader: int, prefix: str) -> None:
        one = as_batch(batch, self.vae.condition is not None)
        check_values(self.vae, one, f"{prefix}batch {batch_idx}")
        if batch_idx == 0:
            self._evaluated_rows = 0
        row_start = self._number(self._evaluated_rows, one)
        self._evaluated_rows += len(one.x)
        key = evaluation_key(self._options.seed).to(self.device)
        size = _size(loaders[loader] if isinstance(loaders, (list, tuple)) else loaders)
        terms = self(one.x, one.condition, key=key, dataset_size=size, row_start=row_start)
        self._log_terms(terms, prefix, len(one.x))

    def _number(self, before: int, batch: Batch) -> int:
        """The number of a batch's first row among those of all devices, each of which has seen `before` rows already."""
        return self.trainer.world_size * before + self.trainer.global_rank * len(batch.x)

    def _log_terms(self, terms: LossTerms, prefix: str, count: int, prog_bar: bool = False) -> None:
        if not count:
            return
        for name, value in named_terms(terms).items():
            mean = value.to(wide(value.device)).mean()  # in the precision in which Lightning then adds up
            shown = prog_bar and name == "loss"
            self.log(prefix + name, mean, batch_size=count, on_step=False, on_epoch=True, sync_dist=True, prog_bar=shown)


class _Rate(LRScheduler):
    """A schedule of the learning rate, for the groups that have none of their own."""

    def __init__(self, optimizer: Optimizer, rate: LearningRate) -> None:
        self._of_step = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The rate of each group at the present step."""
        self._of_step.set(self.optimizer.param_groups, self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The step and the rates: plain data."""
        return {name: value for name, value in super().state_dict().items() if name != "_of_step"}


def _size(loader: Any) -> int | None:
    """The number of examples that a loader draws from, where it knows it."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None
