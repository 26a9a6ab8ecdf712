"""`vaekit completion`: a script for a shell that completes commands, options and names of parts.

typer's own completion starts the command at each press of the key, and so imports torch, which takes seconds. What can be
completed is known when the script is made: the script holds it, and starts nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, NamedTuple

import typer

from vaekit import data, presets
from vaekit.cli.console import say
from vaekit.cli.parts import REGISTRIES
from vaekit.training import optimizers, trackers

_VALUES: Mapping[str, Sequence[str]] = {  # of options whose values are few
    "--device": ("auto", "cpu", "cuda", "mps"),
    "--layout": ("auto", "NCHW", "NHWC", "NHW", "NCL", "NC"),
    "--on-nonfinite": ("stop", "skip"),
    "--optimizer": optimizers.registry.names(),
    "--precision": ("32", "bf16", "16", "auto"),
    "--preset": presets.registry.names(),
    "--strategy": ("auto", "ddp", "fsdp"),
    "--trackers": trackers.registry.names(),
}
_BASH = """\
_vaekit() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} words= command= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --import) ((i++)) ;;
            -*) ;;
            *) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $command,$before in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _vaekit vaekit"""


class Shell(str, Enum):
    """The shells that there is a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


class Command(NamedTuple):
    """A command of `vaekit`: its options, their help, and what its argument may be besides a file."""

    name: str
    help: str
    options: Mapping[str, str]
    arguments: Sequence[str]


def completion(
    context: typer.Context, shell: Annotated[Shell, typer.Argument(help="Which shell the script is for: bash, zsh or fish.")]
) -> None:
    """Print a script that completes commands, options and parts: source <(vaekit completion bash)."""
    group: Any = context.parent.command if context.parent else None
    commands = [_command(name, command) for name, command in group.commands.items()]
    say(_fish(commands) if shell is Shell.fish else _bash(commands, shell))


def _command(name: str, command: Any) -> Command:
    options = {
        option: parameter.help or ""
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    arguments = {"train": data.names(), "list": (*REGISTRIES, "data"), "completion": [shell.value for shell in Shell]}.get(
        name, ()
    )
    return Command(name, command.get_short_help_str(100), {**options, "--help": "Show this message and exit."}, arguments)


def _bash(commands: Sequence[Command], shell: Shell) -> str:
    cases: list[tuple[str, str, Sequence[str]]] = [
        ("", "*", [*(command.name for command in commands), "--import", "--version", "--help"])
    ]
    cases += [("*", option, values) for option, values in _VALUES.items()]
    cases += [("list", kind, registry.names()) for kind, registry in REGISTRIES.items()]
    cases += [(command.name, "*", [*command.arguments, *command.options]) for command in commands]
    lines = [f"        {command},{before}) words={shlex.quote(' '.join(words))} ;;" for command, before, words in cases]
    script = _BASH.format(cases="\n".join(lines))
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{script}" if shell is Shell.zsh else script


def _fish(commands: Sequence[Command]) -> str:
    return "\n".join(_fish_lines(commands))


def _fish_lines(commands: Sequence[Command]) -> Iterator[str]:
    for command in commands:
        yield f"complete -c vaekit -n __fish_use_subcommand -f -a {command.name} -d {shlex.quote(command.help)}"
        used = shlex.quote(f"__fish_seen_subcommand_from {command.name}")
        if command.arguments:
            yield f"complete -c vaekit -n {used} -a {shlex.quote(' '.join(command.arguments))}"
        for option, text in command.options.items():
            values = f" -x -a {shlex.quote(' '.join(_VALUES[option]))}" if option in _VALUES else ""
            yield f"complete -c vaekit -n {used} -l {option.removeprefix('--')}{values} -d {shlex.quote(text.partition('.')[0])}"
    for kind, registry in REGISTRIES.items():
        used = shlex.quote(f"__fish_seen_subcommand_from list; and __fish_seen_subcommand_from {kind}")
        yield f"complete -c vaekit -n {used} -f -a {shlex.quote(' '.join(registry.names()))}"
