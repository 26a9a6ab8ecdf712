"""What a tracker is: it receives what a run records, and writes it down where somebody looks at it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.registry import Part, Registry
from vaekit.training.history import History

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from vaekit.vae import VAE


@dataclass(frozen=True)
class Summary:
    """What was seen in some steps, or in an epoch.

    Attributes:
        step: the number of optimizer steps done by then.
        epoch: the number of the epoch, 1, 2, ...; of steps, that in which the last of them was.
        terms: means in nats: "loss", "reconstruction", "kl", the objective's others, and of an epoch "val_..." of them.
        learning_rate: of the last step.
        examples: that went through the model in training.
        seconds: how long it took; of an epoch, with its validation.
    """

    step: int
    epoch: int
    terms: Mapping[str, float]
    learning_rate: float
    examples: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """Examples by seconds; NaN where no time has passed."""
        return self.examples / self.seconds if self.seconds > 0 else math.nan

    def scalars(self, prefix: str) -> dict[str, float]:
        """Everything but where it is, under names such as "epoch/val_loss"."""
        others = {"learning_rate": self.learning_rate, "seconds": self.seconds, "samples_per_second": self.samples_per_second}
        return {f"{prefix}/{name}": value for name, value in {**self.terms, **others}.items()}


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins.

    Attributes:
        folder: the run's, `out` of `vaekit.fit`; None where it has none.
        history: of the run; it grows with every epoch.
        vae: the model.
        options: the run's `FitOptions`.
        is_resumed: whether it goes on with an earlier one, of which the tracker has records.
        step: the steps done so far, 0 in a new run. Of a run that is resumed, what was recorded after them has to go: those steps
            are taken again.
    """

    folder: Path | None
    history: History
    vae: VAE
    options: Any
    is_resumed: bool = False
    step: int = 0

    def settings(self) -> dict[str, Any]:
        """What the run is made from, as plain data: "fit", its options, and "model", the config; None if it has none."""

        from vaekit.training.record import plain_options  # which knows the options, and those know the trackers

        try:
            model: Any = self.vae.config()
        except ValueError:  # it cannot be saved either
            model = None
        return {"fit": plain_options(self.options), "model": model}

    def folder_for(self, tracker: Tracker, option: str) -> Path:
        """The run's folder, for a tracker that needs one.

        Raises:
            ValueError: the run has none.
        """
        if self.folder is None:
            raise ValueError(
                f"the tracker {type(tracker).__name__} writes into the run's folder, and this run has none: give `fit` a folder, "
                f"out=..., or the tracker its {option}"
            )
        return self.folder


class Tracker(Part):
    """Receives what a run records; extend it, override what you need, and give it to `vaekit.fit(..., trackers=[...])`.

    Every number has been read already: no method makes a step wait for the device. Only the first of several processes has
    trackers. What a method raises ends the run, which is saved as always.

    Attributes:
        wants_steps: whether `log_steps` is called.
        shows_pictures: whether `log_picture` does something.

    Example:
        >>> class Print(Tracker):
        ...     def log_epoch(self, record):
        ...         print(record.epoch, sorted(record.terms))
        >>> import vaekit
        >>> import torch
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> history = vaekit.fit(vae, torch.rand(100, 4), epochs=2, progress=False, trackers=[Print()])
        1 ['kl', 'loss', 'reconstruction']
        2 ['kl', 'loss', 'reconstruction']
    """

    wants_steps = True
    shows_pictures = False

    def begin(self, run: TrackedRun) -> None:
        """Before the first step of the run; drop what was recorded after `run.step`.

        Raises:
            ImportError: a package is missing.
            ValueError, OSError: there is no place to write to.
        """

    def log_steps(self, record: Summary) -> None:
        """After every 50 steps: their means."""

    def log_epoch(self, record: Summary) -> None:
        """After every epoch."""

    def log_picture(self, name: str, figure: Figure, step: int) -> None:
        """A picture called `name`, drawn after so many steps."""

    def end(self, status: str) -> None:
        """After the run, "finished", "interrupted" or "failed"."""


registry: Registry[Tracker] = Registry("tracker", "vaekit.trackers", Tracker)
register, create, names, describe = registry.register, registry.create, registry.names, registry.describe


def build(specs: Sequence[str | Mapping[str, Any] | Tracker]) -> tuple[Tracker, ...]:
    """The trackers that names, {"name": ..., option: ...} and objects describe.

    Raises:
        TypeError: something else, one name that is not in a sequence for example.
        UnknownNameError: a name that is not registered.
        ImportError: the package that a tracker writes for is not installed.

    Example:
        >>> [type(tracker).__name__ for tracker in build(["csv", {"name": "jsonl"}])]
        ['Csv', 'JsonLines']
    """
    if isinstance(specs, (str, bytes, Mapping)) or not isinstance(specs, Iterable):
        raise TypeError(
            f'trackers takes a sequence of names, {{"name": ..., option: ...}} and objects, ("csv",) for example, got {specs!r}'
        )
    return tuple(registry.build(spec) for spec in specs)


def require(package: str, extra: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        ImportError: it is not; the message names the extra that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"the tracker {extra!r} needs the package {package}: pip install 'vaekit[{extra}]'")


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """A figure as an image, uint8 [H, W, 3]."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
