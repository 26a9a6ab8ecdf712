"""Tutorials are notebooks, docs/tutorials/*.ipynb: this executes them, and writes what they show as pages of the site.

In git a notebook has its cells and nothing else: no outputs, no counts, nothing that an editor adds, so that a diff shows what
was written. After an edit in Jupyter the first command leaves that; the second lets `git diff` show notebooks as text:

    python docs/notebooks.py clean docs/tutorials/*.ipynb
    git config diff.notebook.textconv "python docs/notebooks.py show"

A line `epochs = 30  # quick: 6` says what is enough for a look. A reader's notebook has 30; the build puts 6 in its place, on the
page as well, unless the environment says VAEKIT_TUTORIALS=full. A cell that draws says in its first line what is to be seen, for
those who cannot see it: `#| fig-alt: Digits above their reconstructions`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
QUICK = re.compile(r"^(\w+ = )(.+?)  # quick: (.+)$", re.M)
ALTERNATIVE = re.compile(r"^#\| fig-alt: (.+)\n", re.M)
ABOUT = (
    '<p class="notebook">This page is <a href="{name}.ipynb" download>a notebook</a> that the site\'s build has executed{scale}.'
    " <code>docs/tutorials/{name}.ipynb</code> is the same file.</p>"
)
SHORTER = ", with fewer epochs than yours has: lines that say so name the notebook's value"


# --- in git --------------------------------------------------------------------------------------------------------------


def read(file: Path) -> Notebook:
    """A notebook, each cell's source as one text."""
    notebook: Notebook = json.loads(file.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def clean(notebook: Notebook) -> Notebook:
    """Its cells, without what executing and editing leave."""
    cells = []
    for cell in notebook["cells"]:
        kept = {"cell_type": cell["cell_type"], "id": cell["id"], "metadata": {}, "source": cell["source"]}
        cells.append({**kept, "execution_count": None, "outputs": []} if cell["cell_type"] == "code" else kept)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def written(notebook: Notebook) -> str:
    """The text of a notebook's file: a line for a line, as Jupyter writes it."""
    cells = [{**cell, "source": cell["source"].splitlines(keepends=True)} for cell in notebook["cells"]]
    return json.dumps({**notebook, "cells": cells}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def as_text(notebook: Notebook) -> str:
    """What is written in the cells, as Markdown."""
    fences = {"code": "```python\n{}\n```", "markdown": "{}"}
    return "\n\n".join(fences[cell["cell_type"]].format(cell["source"]) for cell in notebook["cells"]) + "\n"


# --- executed ------------------------------------------------------------------------------------------------------------


def is_full() -> bool:
    """Whether the notebooks are executed as a reader would."""
    return os.environ.get("VAEKIT_TUTORIALS") == "full"


def quick(source: str) -> str:
    """A cell with the smaller values that its lines name, and the notebook's own in the comment."""
    return QUICK.sub(r"\1\3  # in the notebook: \2", source)


def executed(notebook: Notebook, root: Path) -> Notebook:
    """The notebook with its outputs, executed in an empty folder by this Python with the vaekit in `root`.

    On one thread, so that the figures on the site do not depend on the machine's processors.

    Raises:
        SystemExit: a cell that fails, with its traceback.
    """
    import nbclient
    import nbformat

    cells = [cell if is_full() else {**cell, "source": quick(cell["source"])} for cell in notebook["cells"]]
    made = nbformat.from_dict({**notebook, "cells": cells})
    path = os.pathsep.join([str(root), *filter(None, sys.path[1:])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("MPLBACKEND", None)  # the notebook's own
    with tempfile.TemporaryDirectory() as work:
        client = nbclient.NotebookClient(
            made,
            timeout=None,
            startup_timeout=600,
            coalesce_streams=True,
            kernel_name="python3",
            extra_arguments=["--log-level=40"],  # not that it listens without encryption, as it listens to this machine alone
            resources={"metadata": {"path": work}},
        )
        try:
            client.execute(env=environment)
        except nbclient.exceptions.CellExecutionError as error:
            plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # without the terminal's colours
            raise SystemExit(f"a tutorial does not run:\n{plain}") from None
    return made


# --- as a page -----------------------------------------------------------------------------------------------------------


def page(notebook: Notebook, name: str, folder: Path) -> str:
    """Markdown of an executed notebook; its pictures go to `folder`/made.

    Raises:
        SystemExit: a picture that no words stand for, or a warning of what will go.
    """
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
        else:
            parts.append(f"```python\n{ALTERNATIVE.sub('', cell['source'])}\n```")
            parts += shown(cell, name, folder)
    is_shorter = any("  # in the notebook: " in cell["source"] for cell in notebook["cells"])
    parts.insert(1, ABOUT.format(name=name, scale=SHORTER if is_shorter else ""))
    return "\n\n".join(parts) + "\n"


def shown(cell: dict[str, Any], name: str, folder: Path) -> Iterator[str]:
    """What a cell has put out, in Markdown."""
    words = ALTERNATIVE.search(cell["source"])
    for number, output in enumerate(cell["outputs"]):
        data = output.get("data", {})
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                yield from said(output["text"])
                continue
            text = output["text"].rstrip()
        elif "image/png" in data:
            if not words:
                raise SystemExit(f"{name}.ipynb, cell {cell['id']!r}: draws, and has no first line `#| fig-alt: WORDS`")
            picture = f"made/{name}-{cell['id']}-{number}.png"
            (folder / "made").mkdir(exist_ok=True)
            (folder / picture).write_bytes(base64.b64decode(data["image/png"]))
            yield f"![{words[1]}]({picture})"
            continue
        elif 'class="dataframe"' in data.get("text/html", ""):
            yield frame(data["text/html"])
            continue
        else:
            text = data.get("text/plain", "").rstrip()
        if text:
            yield f"```text\n{text}\n```"


def said(errors: str) -> Iterator[str]:
    """The warnings in what was written to the error stream, without files' paths and bars of progress, each once.

    Raises:
        SystemExit: a warning that something will go.
    """
    for kind, words in dict.fromkeys(re.findall(r"^\S+:\d+: (\w*Warning): (.+)$", errors, flags=re.M)):
        if kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
            raise SystemExit(f"a tutorial uses what will go: {words}")
        yield f'!!! warning "{kind}"\n    {words}'


def frame(html: str) -> str:
    """A DataFrame as a table that the site's style knows."""
    html = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.S)
    html = re.sub(r'<table border="1" class="dataframe">', "<table>", html)
    return re.sub(r"\n\s*", "\n", re.sub(r' style="text-align: right;"', "", html)).strip()


def main(arguments: list[str]) -> None:
    """`clean FILE...` or `show FILE`."""
    if arguments[:1] == ["clean"]:
        for file in map(Path, arguments[1:]):
            file.write_text(written(clean(read(file))), encoding="utf-8")
    elif arguments[:1] == ["show"] and len(arguments) == 2:
        print(as_text(read(Path(arguments[1]))), end="")
    else:
        raise SystemExit(f"expected `clean FILE...` or `show FILE`, got {arguments}")


if __name__ == "__main__":
    main(sys.argv[1:])
