"""The model card: README.md as the Hugging Face hub reads it, a YAML header and Markdown. What is not known is left out.

M. Mitchell et al., "Model Cards for Model Reporting", 2019, arXiv:1810.03993; the header is described in
https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaekit.files import printable
from vaekit.hub import HubAddress
from vaekit.sharing.estimates import Estimate

TAGS = ("variational-autoencoder", "vae", "pytorch")
ON_THE_HUB = {  # our names of data -> the hub's
    "mnist": "ylecun/mnist",
    "mnist5k": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
_LONGEST = 400  # letters of a cell

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """What there is to say of a model.

    Attributes:
        repository: owner/name.
        license: as the hub writes it, "mit" for example; None where nobody has said.
        tags, datasets: further tags, and the hub's names of the data.
        trained_on: the data's own name; None where it is not known.
        task: among the hub's, "unconditional-image-generation" for example.
        model, data, environment: (what, value) in words.
        schema: of a table, printed; "" for other data.
        estimates: numbers.
        warnings: what should make one look twice.
        pictures: names of the files.
        is_table: whether vaekit.Table loads it.
        command: that made it; "" where it is not known.
        revision: the branch that it will be in; None for the main one.
        revision: the branch that it will be in; None for the main one.
    """

    repository: str
    license: str | None = None
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    trained_on: str | None = None
    task: str = "other"
    model: Rows = ()
    data: Rows = ()
    environment: Rows = ()
    schema: str = ""
    estimates: Sequence[Estimate] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[str] = ()
    is_table: bool = False
    command: str = ""
    revision: str | None = None

    def text(self) -> str:
        """README.md."""
        return "\n".join(["---", *_yaml(self._header()), "---", "", *self._body()]).rstrip() + "\n"

    def _header(self) -> dict[str, Any]:
        datasets = list(self.datasets)
        if not datasets and self.trained_on in ON_THE_HUB:
            datasets = [ON_THE_HUB[self.trained_on]]
        header: dict[str, Any] = {
            "license": self.license,
            "library_name": "vaekit",
            "tags": list(dict.fromkeys([*TAGS, *self.tags])),
            "datasets": datasets,
            "metrics": list(dict.fromkeys(each.kind for each in self.estimates)),
        }
        if self.estimates and self.trained_on is not None:
            results = {
                "task": {"type": self.task},
                "dataset": {"name": self.trained_on, "type": datasets[0] if datasets else self.trained_on, "split": "held out"},
                "metrics": [{"type": each.kind, "name": each.name, "value": each.value} for each in self.estimates],
            }
            header["model-index"] = [{"name": self.repository.partition("/")[2], "results": [results]}]
        return {name: value for name, value in header.items() if value}

    def _body(self) -> Iterator[str]:
        yield from (f"# {self.repository.partition('/')[2]}", "", "A variational autoencoder of the Python library vaekit.", "")
        yield from self._loading()
        for warning in self.warnings:
            yield from (f"> **Look twice:** {_plain(warning)}", "")
        if self.estimates:
            yield from ("## Numbers", "", f"Means over {self.estimates[0].examples:,} held-out examples.", "")
            yield from ("| what | value | standard error |", "|---|---|---|", *map(_row_of, self.estimates), "")
        if self.pictures:
            yield from ("## Pictures", "")
            for file in self.pictures:
                name = file.rpartition(".")[0].replace("_", " ")
                yield from (f"![{_plain(name)}]({file})", "")
        yield from _section("Data", self.data)
        if self.schema:
            yield from ("```", printable_lines(self.schema), "```", "")
        yield from _section("Model", self.model)
        if self.license:
            yield from ("## Licence", "", _plain(self.license), "")
        yield from _section("Environment", self.environment)
        if self.command:
            yield from ("Made by", "", "```", printable_lines(self.command), "```", "")

    def _loading(self) -> Iterator[str]:
        address = HubAddress(self.repository, self.revision)
        load = (
            [f'table = vaekit.Table.load("{address}")', "frame = table.sample(16)"]
            if self.is_table
            else [f'vae = vaekit.load("{address}")', "samples = vae.sample(16)"]
        )
        yield from (
            "## Use",
            "",
            "```",
            'pip install "vaekit[hub]"',
            "```",
            "",
            "```python",
            "import vaekit",
            "",
            *load,
            "```",
            "",
        )
        yield from ("The weights are safetensors with the model's config inside; no pickle, and no code comes with it.", "")


def _section(title: str, rows: Rows) -> Iterator[str]:
    if rows:
        yield from (f"## {title}", "", "| | |", "|---|---|")
        yield from (f"| {_plain(what)} | {_plain(value)} |" for what, value in rows)
        yield ""


def _row_of(estimate: Estimate) -> str:
    error = "" if estimate.standard_error is None else f"{estimate.standard_error:.2g}"
    return f"| {_plain(estimate.name)} | {estimate.value:.5g} | {error} |"


def _plain(text: str) -> str:
    """What a file says as a cell's or a line's text, without a meaning in Markdown or HTML."""
    shown = printable(text, _LONGEST)
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", shown).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def printable_lines(text: str) -> str:
    """Lines for a block of code, which they cannot end."""
    return "\n".join(printable(line, 4000).replace("```", "'''") for line in text.splitlines())


def _yaml(header: Mapping[str, Any]) -> Iterator[str]:
    """The mapping in YAML, of which JSON is a part."""
    for name, value in header.items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            yield f"{name}:"
            yield from (f"- {_scalar(each)}" for each in value)
        else:
            yield f"{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and re.fullmatch(r"[a-z][a-z0-9_./-]*", value)
        and value not in ("true", "false", "null", "yes", "no")
    ):
        return value
    return json.dumps(_printable_values(value), ensure_ascii=False, allow_nan=False)


def _printable_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _printable_values(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_printable_values(each) for each in value]
    return printable(value) if isinstance(value, str) else value
