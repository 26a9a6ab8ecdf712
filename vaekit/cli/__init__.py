"""The `vaekit` command: train, fit priors, replay, look at runs, write numbers, models and reports, share, list, zoo, doctor.

A command says what was done and hands its work on; the work itself is done in the rooms below.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vaekit import __version__
from vaekit.cli import (
    completion,
    console,
    doctor,
    exports,
    look,
    outputs,
    parts,
    prior,
    replay,
    reports,
    share,
    signals,
    torchrun,
    train,
    zoo,
)
from vaekit.cli.current_folder import import_named
from vaekit.training import NonFiniteLossError

app = typer.Typer(
    name="vaekit",
    help="Train variational autoencoders and look at what they learned.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        console.say(f"vaekit {__version__}")
        raise typer.Exit


@app.callback()
def imports(
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a module first, which registers parts of yours; repeatable. Where no such module is installed it is "
            "taken from the current folder: the module alone, or a package with what is in it. What else it imports has to be "
            "installed, or imported by an --import before it.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train variational autoencoders and look at what they learned."""
    for module in modules or []:
        import_named(module)


app.command()(train.train)
app.command()(prior.fit_prior)
app.command()(replay.replay)
app.command()(signals.as_interrupts()(look.evaluate))
app.command()(signals.as_interrupts()(outputs.encode))
app.command()(signals.as_interrupts()(look.reconstruct))
app.command()(signals.as_interrupts()(look.sample))
app.command()(signals.as_interrupts()(outputs.impute))
app.command()(signals.as_interrupts()(outputs.score))
app.command()(signals.as_interrupts()(exports.export))
app.command()(signals.as_interrupts()(look.plot))
app.command()(signals.as_interrupts()(reports.report))
app.command()(signals.as_interrupts()(share.push))
app.command("list")(parts.list_parts)
app.command("zoo")(zoo.list_zoo)
app.command()(doctor.doctor)
app.command()(completion.completion)

# Some versions of typer carry a copy of click and others depend on click: the class has no one place to be imported from.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command's entry point: a mistake is one line and exit code 2; VAEKIT_TRACEBACK=1 shows where it was raised."""
    try:
        _run(arguments)
    except SystemExit as end:
        torchrun.end_without_threads(end.code if isinstance(end.code, int) else 0)
        raise


def _run(arguments: Sequence[str] | None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    format_warning, warnings.formatwarning = warnings.formatwarning, console.one_line_warning
    try:
        code = app(list(arguments) or ["--help"], standalone_mode=False, obj=list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # `vaekit list | head`
        console.drop_output()
        sys.exit(1)
    except _UsageError as error:
        context = error.ctx
        hint = f" (see `{context.command_path} --help`)" if context else ""
        console.fail(f"{error.format_message()}{hint}", 2)
    except NonFiniteLossError as error:
        console.say(f"vaekit: {error}", error=True)
        sys.exit(1)
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, MemoryError, OverflowError) as error:
        if os.environ.get("VAEKIT_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error  # whose str is a repr, in quotes
        console.fail(str(text) or type(error).__name__, 2)
    finally:
        warnings.formatwarning = format_warning
