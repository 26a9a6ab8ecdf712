"""Going on with a run: what has to be the same as before, and `vaekit.resume`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaekit import saving
from vaekit.layout import CHECKPOINTS
from vaekit.training import optimizers, trackers
from vaekit.training.fit import fit
from vaekit.training.history import History
from vaekit.training.options import FitOptions
from vaekit.training.snapshots import Snapshots


def resume(folder: str | os.PathLike[str], train: Any, *, validation: Any = None, **changes: Any) -> History:
    """Go on with a run that was interrupted or killed, from the last checkpoint in its folder.

    On the same machine and number of threads the weights, the history and the best epoch at the end are bit for bit those of a
    run that was never interrupted. A run that is finished is left as it is, unless it is given more epochs.

    Args:
        folder: `out` of `vaekit.fit`, or the folder of `vaekit train`.
        train, validation: the data of the run; other data is refused.
        changes: arguments of `fit` that may change: callbacks, progress, and the options epochs, time_limit, trackers, keep,
            checkpoint_minutes, device, devices and strategy. Callbacks have to be given again, and trackers or an optimizer that
            are not registered. The others come from the checkpoint.

    Returns:
        the history from the first epoch on. `vaekit.load(folder / "last")` is the model.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        FileExistsError: another process has resumed the run already.
        ValueError: no checkpoint is whole; data that differs from the run's.
        TypeError: an argument of `fit` that may not change, or one that has to be given again.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0), torch.rand(100, 4)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     history = vaekit.fit(vae, x, epochs=1, out=run, progress=False)
        ...     vaekit.resume(run, x, epochs=3, progress=False).epochs
        3
    """
    snapshot = Snapshots(Path(folder) / CHECKPOINTS, keep=1).newest()
    if snapshot is None:
        raise FileNotFoundError(f"{folder} has no checkpoint to go on from: it is not the folder of a run, or kept none")
    options = dict(snapshot.about["options"])
    lasting = {*FitOptions.lasting(), "planned_epochs", "vae", "out", "resume"}
    if isinstance(optimizer := options["optimizer"], str) and optimizer not in optimizers.names():
        if "optimizer" not in changes:
            raise TypeError(f"the optimizer of the run was {optimizer}, which is not registered; give optimizer= again")
        lasting.remove("optimizer")
    if "trackers" not in changes and (gone := _unregistered(options["trackers"])):
        raise TypeError(f"the run had the tracker {gone[0]}, which is not registered; give trackers= again")
    if refused := [name for name in changes if name in lasting]:
        raise TypeError(
            f"resume takes no {' and '.join(refused)}: a run keeps what it has begun with; `vaekit.fit` begins another"
        )
    may_change = {"callbacks", "progress", *options} - lasting
    if unknown := changes.keys() - may_change:
        raise TypeError(f"resume takes no {' and '.join(sorted(unknown))}; it takes {', '.join(sorted(may_change))}")
    vae = saving.composed(snapshot.about["model"])
    for name in snapshot.about["frozen"]:
        vae.get_parameter(name).requires_grad_(False)
    for name in snapshot.about["evaluating"]:
        vae.get_submodule(name).training = False
    return fit(vae, train, validation=validation, out=folder, resume=True, **{**options, **changes})


def _unregistered(specs: Sequence[str | Mapping[str, Any]]) -> list[str]:
    names = [spec if isinstance(spec, str) else str(spec["name"]) for spec in specs]
    return [name for name in names if name not in trackers.names()]
