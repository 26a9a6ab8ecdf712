"""`vaekit.report`: one or several runs as a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vaekit.files import write_atomically
from vaekit.layout import RUN_FILE
from vaekit.reporting import findings
from vaekit.reporting.page import page

FILE = "report.html"


def report(*folders: str | os.PathLike[str], data: Any = None, out: str | os.PathLike[str] | None = None) -> Path:
    """Write a report of a run, or of several side by side: one page of HTML that needs no network and nothing beside it.

    It has the command and config, the data with its schema, losses, the importance-weighted bound of log p(x) with its standard
    error, the latent dimensions in use, the run's pictures, what should make one look twice and what to do, and where the run
    was made. Bound, latent dimensions and errors are of up to 200 held-out examples, with 50 draws; what a model has no such
    figure for, of points or codes for example, is told with the reason.

    Args:
        folders: of runs.
        data: the held-out examples, as for `vaekit.evaluate`; by default those of the run, where its folder says which, as one
            of `vaekit train` does. Without any the page has no figures but the losses.
        out: the page; report.html in the first run's folder by default.

    Returns:
        where it is.

    Raises:
        TypeError: something else than folders.
        FileNotFoundError, ValueError: no folder, one that is no run or has no model yet; a damaged file; data that does not fit.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = vaekit.fit(vae, torch.rand(20, 4), epochs=1, out=f"{folder}/run", progress=False)
        ...     vaekit.report(f"{folder}/run", data=torch.rand(10, 4)).name
        'report.html'
    """
    if not folders:
        raise ValueError("report needs the folder of a run, runs/dense-mnist for example")
    if wrong := [folder for folder in folders if not isinstance(folder, (str, os.PathLike))]:
        raise TypeError(f'report takes folders one after the other, report("one", "two"), got {wrong[0]!r}')
    runs = [Path(folder) for folder in folders]
    for run in runs:
        if not (run / RUN_FILE).is_file():
            raise FileNotFoundError(f"there is no run at {run}: it has no {RUN_FILE}")
    target = runs[0] / FILE if out is None else Path(out)
    write_atomically(target, page([findings.read(run, data) for run in runs]).encode())
    return target
