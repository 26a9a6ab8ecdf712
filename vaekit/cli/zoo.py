"""`vaekit zoo`: the models that come with vaekit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vaekit import zoo
from vaekit.cli.console import say, table


def list_zoo(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One model, of which everything is said.")] = None,
) -> None:
    """Show the small trained models that come with vaekit: `zoo://NAME` in place of a run's folder, no network needed."""
    if name is None:
        rows = [_row(each, zoo.about(each)) for each in zoo.names()]
        say(table([("name", "KB", "loss, held out", "what it is"), *rows]))
        return
    about = zoo.about(name)
    say(f"{about['summary']} {about.get('note', '')}".rstrip())
    figures = [(each["name"], f"{each['value']:.2f}", _error(each["standard_error"])) for each in about["figures"]]
    say(table([(f"on {about['examples']:,} held-out examples", "value", "standard error"), *figures], indent="  "))
    facts = [
        ("trained on", f"{about['trained_on']:,} examples of {about['data']}"),
        ("held out", about["held_out"]),
        ("licence", f"{about['license']}; of the data {about['data_license']}"),
        ("weights", f"{_bytes(name):,} bytes, stored in float16 and given as float32"),
        ("made by", f"{about['made']['script']}, with {_versions(about['made']['versions'])}"),
        ("use", f'vaekit.load("{zoo.SCHEME}{name}"); vaekit sample {zoo.SCHEME}{name} --out FILE'),
    ]
    say(table(facts, indent="  "))


def _row(name: str, about: dict[str, Any]) -> tuple[str, ...]:
    loss = about["figures"][0]
    return name, f"{_bytes(name) / 1000:.0f}", f"{loss['value']:.2f} +- {_error(loss['standard_error'])} nats", about["summary"]


def _bytes(name: str) -> int:
    return (zoo.folder(name) / "model.safetensors").stat().st_size


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
