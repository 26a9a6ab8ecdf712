"""Draws what a model has learned while it learns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vaekit.checks import checked_size
from vaekit.data import as_examples
from vaekit.inputs import check_examples
from vaekit.plots import catalogue
from vaekit.plots.drawing import save_figure
from vaekit.training.callbacks.base import Callback
from vaekit.training.state import RunState


class Pictures(Callback):
    """Draws the pictures that `vaekit train` ends with after every few epochs: reconstructions, samples, the latent space.

    With the averaged weights where the run keeps an average, and the same noise each time, so that pictures differ by what was
    learned. Neither the model nor the noise of the run is changed.

    Args:
        data: held-out examples, as `vaekit.fit` takes them whole; with their conditions, for a conditional model.
        every: so many epochs; the last epoch of a run is drawn only if it is one of them.
        folder: for files such as `reconstructions-0010.png`, by the epoch; made if need be. Without a folder the pictures go to
            the run's trackers: "tensorboard", "wandb" or "mlflow".

    Raises:
        ValueError: examples that do not fit the model, or no folder and no tracker that shows pictures; when the run begins.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3), torch.rand(50, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = vaekit.fit(vae, x, epochs=4, callbacks=[Pictures(x[:9], every=4, folder=folder)], progress=False)
        ...     print(*sorted(os.listdir(folder)))
        latent_space-0004.png loss-0004.png reconstructions-0004.png samples-0004.png traversals-0004.png
    """

    def __init__(self, data: Any, every: int = 1, folder: str | os.PathLike[str] | None = None) -> None:
        self.examples, self.every = as_examples(data), checked_size("every", every)
        # Absolute, as another callback may go to another folder.
        self.folder = None if folder is None else Path(folder).resolve()

    def on_fit_start(self, state: RunState) -> None:
        if state.rank:
            return
        check_examples(state.vae, self.examples, "the data of Pictures")
        if self.folder is None and not any(tracker.shows_pictures for tracker in state.trackers):
            raise ValueError(
                'Pictures has neither a folder nor a tracker that shows pictures: give it folder=..., or `fit` trackers=["csv", '
                '"tensorboard"] for example'
            )

    def on_epoch_end(self, state: RunState) -> None:
        if state.rank or state.history.epochs % self.every:
            return
        with state.averaged() as vae:
            for name, figure in catalogue.fitting(catalogue.Subject(vae, self.examples, state.history)):
                if self.folder is not None:
                    save_figure(figure, self.folder / f"{name}-{state.history.epochs:04}.png")
                    continue
                for tracker in state.trackers:
                    tracker.log_picture(name, figure, state.step)
