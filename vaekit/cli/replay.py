"""`vaekit replay`: the step at which a run failed, once more, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit.cli.console import fail, say, table
from vaekit.cli.options import named_path
from vaekit.training import explain
from vaekit.training.replay import replay as replayed_step


def replay(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=named_path, help="RUN/nonfinite-000123, which a run leaves that fails.")
    ],
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps; by default what the run had.")] = None,
) -> None:
    """Take the step again at which a loss or gradient was not finite, and show where that began."""
    step = replayed_step(folder, device)
    say(step.message)
    say("\ntaken again, forward:")
    say(table(step.table(), indent="  "))
    say("backward, from the loss to the input:")
    say(table(step.gradients(), indent="  "))
    if not step.fails and step.processes > 1:
        fail(explain.NEEDS_SEVERAL.format(world=step.processes), 1)
    if step.is_same:
        whose = "in the run" if step.processes == 1 else f"when one of the {step.processes} processes of the run took it again"
        say(f"every term and every gradient is as it was {whose}, bit for bit")
        return
    fail(
        f"other than in the run: {explain.listed(step.differences)}. Another machine, device, number of threads or version of "
        "torch adds up in another order; the numbers above are of this one",
        1,
    )
