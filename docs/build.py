"""Build the documentation: `python docs/build.py`, with the extra `docs`. It leaves `site/`, which needs no network.

Written pages lie beside this file. The pages of parts are made from the registries, the reference from the docstrings, the tables
of `numbers.md` from benchmarks/results/, the pictures that a page calls `made/NAME.png` by running it, and the tutorials from
notebooks, which `notebooks.py` executes: shortly, or as a reader would with VAEKIT_TUTORIALS=full. A warning is an error.
"""

from __future__ import annotations

import csv
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import notebooks
import tomllib
import yaml

from vaekit.registry import Registry

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SITE = ROOT / "site"

# Public modules, in the order of the reference; the names in each are those of its __all__, or without one its own public ones.
MODULES = (
    "vaekit",
    *(
        f"vaekit.{name}"
        for name in (
            "data",
            "plots",
            "evaluation",
            "reporting",
            "sharing",
            "zoo",
            "cells",
            "training",
            "training.optimizers",
            "schedules",
        )
    ),
    *(
        f"vaekit.{name}"
        for name in ("training.trackers", "encoders", "decoders", "posteriors", "likelihoods", "priors", "losses")
    ),
    *(f"vaekit.{name}" for name in ("conditions", "divergences", "distances", "discriminators", "layers", "ops", "presets")),
    *(f"vaekit.integrations.{name}" for name in ("sklearn", "lightning")),
)
KINDS = {
    "encoders": "Networks from an example to its posterior.",
    "decoders": "Networks from latents to the likelihood's parameters.",
    "posteriors": "The family of q(z | x).",
    "fusions": "How what several modalities say of z is put together: the option `fusion` of a multimodal encoder.",
    "likelihoods": "p(x | z): what kind of numbers the data holds.",
    "priors": "p(z).",
    "losses": "What training minimises.",
    "distances": "How far a picture is from its reconstruction, beside the likelihood.",
    "discriminators": "Networks that tell data from what a model makes.",
    "conditions": "What a conditional model is told of each example.",
    "schedules": "Weights and learning rates as functions of the step.",
    "optimizers": "What updates the weights.",
    "trackers": "Where a run's numbers are written.",
    "presets": "Whole models by name.",
}


def main() -> None:
    """Write the pages, build the site from them, and check that every public name is in it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pages = work / "docs"
        shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
        shutil.copytree(ROOT / "benchmarks" / "pictures", pages / "pictures")
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        (pages / "changelog.md").write_text(changelog.replace("](docs/", "]("), encoding="utf-8")
        write_parts(pages / "parts")
        write_reference(pages / "reference")
        write_tutorials(pages / "tutorials")
        for page in sorted(pages.rglob("*.md")):
            finish(page, pages)
        (work / "mkdocs.yml").write_text(configuration(pages), encoding="utf-8")
        build(work)
        check_reference(work / "site" / "objects.inv")
        shutil.rmtree(SITE, ignore_errors=True)
        shutil.copytree(work / "site", SITE)
    print(f"built {len(list(SITE.rglob('*.html')))} pages in {SITE}")


def build(work: Path) -> None:
    """Run Zensical in a folder with mkdocs.yml and docs/.

    Raises:
        SystemExit: what it warned of.
    """
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    said = done.stdout + done.stderr
    if done.returncode or re.search(r"warning|griffe", said, re.I):
        raise SystemExit(f"the site has warnings, which are errors:\n{said}")


def configuration(pages: Path) -> str:
    """mkdocs.yml with the generated pages in place of the entries `parts/` and `reference/` of its navigation."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    for section in settings["nav"]:
        for title, entries in section.items():
            if entries == "parts/":
                section[title] = ["parts/index.md", *({kind.capitalize(): _in(pages, f"parts/{kind}")} for kind in KINDS)]
            elif entries == "reference/":
                section[title] = ["reference/index.md", *(f"reference/{name}.md" for name in MODULES)]
    python = settings["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT)]
    python["options"]["extensions"] = [str(DOCS / "docstrings.py")]
    listed = set(re.findall(r"[\w./-]+\.md", yaml.safe_dump(settings["nav"])))
    written = {page.relative_to(pages).as_posix() for page in pages.rglob("*.md")}
    if listed != written:
        raise SystemExit(f"mkdocs.yml and docs/ differ: {sorted(listed ^ written)}")
    return yaml.safe_dump(settings, sort_keys=False)


def _in(pages: Path, folder: str) -> list[str]:
    names = sorted(page.relative_to(pages).as_posix() for page in (pages / folder).glob("*.md") if page.name != "index.md")
    return [f"{folder}/index.md", *names]


# --- parts ---------------------------------------------------------------------------------------------------------------


def registries() -> dict[str, Any]:
    """Every registry, by the kind's name in the plural."""
    return dict(importlib.import_module("vaekit.cli.parts").REGISTRIES)


def formulas() -> dict[str, dict[str, str]]:
    """LaTeX by kind and name."""
    return tomllib.loads((DOCS / "formulas.toml").read_text(encoding="utf-8"))


def write_parts(folder: Path) -> None:
    """A page for each registered part, a list for each kind, and a list of the kinds."""
    kinds = registries()
    if set(kinds) != set(KINDS):
        raise SystemExit(f"docs/build.py knows the kinds {sorted(KINDS)}, but there are {sorted(kinds)}")
    latex = formulas()
    overview = ["# Parts", "", "What a model and its training are made of, by name. `vaekit list` shows the same pages.", ""]
    for kind, purpose in KINDS.items():
        registry = kinds[kind]
        (folder / kind).mkdir(parents=True)
        rows = [f"| [`{name}`]({name}.md) | {_cell(registry.describe(name).summary)} |" for name in registry.names()]
        lines = [f"# {kind.capitalize()}", "", purpose, "", "| name | what it is |", "|---|---|", *rows]
        _write(folder / kind / "index.md", lines)
        overview += [f"- [{kind.capitalize()}]({kind}/index.md) ({len(rows)}): {purpose}"]
        for name in registry.names():
            _write(folder / kind / f"{name}.md", part_page(kind, name, registry, latex.get(kind, {}).get(name)))
    _write(folder / "index.md", overview)


def part_page(kind: str, name: str, registry: Any, latex: str | None) -> Iterator[str]:
    """Markdown of one part: how it is chosen, its formula, and its docstring with options, costs, source and example."""
    part = registry._parts[name]
    option = {"losses": "loss"}.get(kind, kind[:-1])
    yield f"# {name}"
    yield ""
    if kind in ("trackers", "optimizers", "schedules", "distances", "discriminators"):
        yield f'A part of the kind {kind}, chosen by name, `"{name}"`, or with options, `{{"name": "{name}", ...}}`.'
    elif kind == "fusions":
        yield f'`vaekit.create_vae(modalities=..., encoder={{"fusion": "{name}"}})`, or with options `{{"name": "{name}", ...}}`.'
    elif kind == "presets":
        yield f'`vaekit.create_vae("{name}")`, or `vaekit train --preset {name}`.'
    else:
        yield f'`vaekit.create_vae(..., {option}="{name}")`, or with options `{option}={{"name": "{name}", ...}}`.'
    yield ""
    if latex:
        yield mathml(latex)
        yield ""
    yield f"::: {public_path(part, kind)}"
    yield "    options:"
    yield "      heading_level: 2"
    yield "      members: false"


def public_path(part: Any, kind: str) -> str:
    """Where a part is imported from: its kind's module, if that offers it, and otherwise where it is defined."""
    elsewhere = {"fusions": "encoders.fusion", "optimizers": "training.optimizers", "trackers": "training.trackers"}
    module = f"vaekit.{elsewhere.get(kind, kind)}"
    is_offered = getattr(importlib.import_module(module), part.__name__, None) is part
    return f"{module}.{part.__name__}" if is_offered else f"{part.__module__}.{part.__qualname__}"


def mathml(latex: str) -> str:
    """A displayed formula that a browser renders by itself."""
    converted = importlib.import_module("latex2mathml.converter").convert(" ".join(latex.split()), display="block")
    return f'<div class="formula">{converted}</div>'


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _write(page: Path, lines: Any) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- reference -----------------------------------------------------------------------------------------------------------


def public_names(module: str) -> list[str]:
    """The names that a module offers, sorted."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__)
    own = (name for name, value in vars(loaded).items() if getattr(value, "__module__", None) == module)
    return sorted(name for name in own if not name.startswith("_"))


def documented(module: str) -> dict[str, str]:
    """The public names of a module that are classes, functions or values of its own, and where each is defined.

    Modules have pages of their own, and the calls of a registry (`vaekit.losses.create`) are its methods'.
    """
    loaded, found = importlib.import_module(module), {}
    for name in public_names(module):
        value = getattr(loaded, name)
        if isinstance(value, (type(importlib), Registry)) or getattr(value, "__self__", None) is not None:
            continue
        home = getattr(value, "__module__", None) or module
        found[name] = f"{home}.{getattr(value, '__qualname__', name)}" if home.startswith("vaekit") else f"{module}.{name}"
    return found


def write_reference(folder: Path) -> None:
    """A page for each public module; a name that several offer is on the first one's, and linked from the others'."""
    parts = {
        f"{part.__module__}.{part.__qualname__}": f"../parts/{kind}/{name}.md"
        for kind, registry in registries().items()
        for name, part in ((name, registry._parts[name]) for name in registry.names())
    }
    placed: dict[str, str] = dict(parts)
    index = ["# Reference", "", "Every public name, by module.", ""]
    for module in MODULES:
        summary = (importlib.import_module(module).__doc__ or "").strip().partition("\n")[0]
        lines = [f"# {module}", "", summary, ""]
        own = []
        for name, home in documented(module).items():
            if home in placed:
                own.append(f"- [`{name}`]({placed[home]})")
            else:
                placed[home] = f"{module}.md#{module}.{name}"
                lines += [f"::: {module}.{name}", "    options:", "      heading_level: 2", ""]
        if own:
            lines += ["## Elsewhere", "", *own]
        index.append(f"- [`{module}`]({module}.md): {summary}")
        _write(folder / f"{module}.md", lines)
    _write(folder / "index.md", index)


def check_reference(inventory: Path) -> None:
    """Compare the built site's inventory with the public names.

    Raises:
        SystemExit: names that are missing.
    """
    from mkdocstrings import Inventory

    with inventory.open("rb") as file:
        built = set(Inventory.parse_sphinx(file))
    missing = [home for module in MODULES for home in documented(module).values() if home not in built]
    if missing:
        raise SystemExit(f"the reference lacks {missing}")


# --- tutorials -----------------------------------------------------------------------------------------------------------


def write_tutorials(folder: Path) -> None:
    """A page beside each notebook, from what it shows when it is executed; says what each took of the processor."""
    for file in sorted(folder.glob("*.ipynb")):
        before = os.times()
        notebook = notebooks.executed(notebooks.read(file), ROOT)
        after = os.times()
        file.with_suffix(".md").write_text(notebooks.page(notebook, file.stem, folder), encoding="utf-8")
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{file.name}: {seconds:.0f} s of processor time")


# --- pages ---------------------------------------------------------------------------------------------------------------


def finish(page: Path, pages: Path) -> None:
    """Put tables of figures in, make the page's pictures, and point links at what the site has."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^<!-- figures: (.+?) -->$", lambda found: figures(found[1]), text, flags=re.M)
    if made := [name for name in re.findall(r"\]\((made/[\w-]+\.png)\)", text) if not (page.parent / name).exists()]:
        make_pictures(text, made, page.parent)
    to_root = os.path.relpath(pages, page.parent)
    text = re.sub(r"\]\((?:\.\./)+benchmarks/pictures/", f"]({to_root}/pictures/", text)
    text = re.sub(r"(\]\([\w./-]+)\.ipynb\)", r"\1.md)", text)  # a notebook's page
    page.write_text(text, encoding="utf-8")


def make_pictures(text: str, made: list[str], folder: Path) -> None:
    """Run a page's blocks as one program, and take the pictures that they save in made/."""
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S))
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "made").mkdir()
        environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
        subprocess.run([sys.executable, "-c", program], cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
        for name in made:
            (folder / "made").mkdir(exist_ok=True)
            shutil.copy(Path(work) / name, folder / name)


def figures(words: str) -> str:
    """The table that a comment asks for: `FILE.csv COLUMN, COLUMN=HEADING, ... [where COLUMN=VALUE]`."""
    file, _, rest = words.partition(" ")
    asked, _, condition = rest.partition(" where ")
    columns = [tuple((column.strip().split("=") * 2)[:2]) for column in asked.split(",")]
    with (ROOT / "benchmarks" / "results" / file).open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if condition:
        column, value = condition.split("=")
        rows = [row for row in rows if row[column] == value]
    if not rows or any(column not in rows[0] for column, _ in columns):
        raise SystemExit(f"{file} has no such columns or rows: {words}")
    head = ["| " + " | ".join(heading for _, heading in columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *("| " + " | ".join(_cell(row[column]) for column, _ in columns) + " |" for row in rows)])


if __name__ == "__main__":
    main()
