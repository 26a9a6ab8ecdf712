"""The folder that is shared: a model, its card, its pictures, and what its run was made from; and how it gets to the hub.

Nothing of the machine goes along: of paths the last name stays, and environment.json, which names the host, stays at home.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaekit import hub, runs, saving
from vaekit.data import Examples, as_examples
from vaekit.files import write_atomically, written_at_once
from vaekit.inputs import named_as_trained
from vaekit.layout import HISTORY_FILE, RUN_FILE
from vaekit.ops import build_info
from vaekit.reporting import findings
from vaekit.sharing.card import Card
from vaekit.sharing.estimates import estimates
from vaekit.table import Table
from vaekit.vae import VAE

CARD_FILE = "README.md"
_SAFE = re.compile(r"\w[\w.+-]*")
_FOLDERS = re.compile(r"(?:(?<=[=,:\s\"'])|^)(?:[A-Za-z]:)?[\\/~][^=,:\"']*[\\/]")  # of a path, but for its last name


def push_to_hub(
    source: VAE | Table | str | os.PathLike[str],
    repo_id: str,
    *,
    commit_message: str = "Push a model of vaekit",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **card: Any,
) -> str:
    """Push a model with its card to a repository of one's own on the Hugging Face hub, as one commit.

    The repository is made unless it is there; other files in it stay. `vaekit.load("hf://owner/name")` is the way back.

    Args:
        source: a model or a table in memory, or the folder of a run, or of a saved model.
        repo_id: "owner/name".
        commit_message: of the commit.
        private: of a new repository; None for what its owner has set. One that is there has to be as asked, or nothing is pushed.
        token: None for that of `hf auth login`, or HF_TOKEN.
        revision: a branch, made unless it is there; None for the main one.
        create_pr: propose it as a pull request instead.
        card: as of `write`: license, tags, datasets, data, pictures, weights.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        ImportError: huggingface_hub is not installed: `pip install "vaekit[hub]"`.
        ValueError: no name of a repository; one that is there and not as private as asked; and as `write`.
        PermissionError, FileNotFoundError, ConnectionError: the hub refuses, or cannot be reached.
    """
    hub.check(repo_id, revision, create_pr)
    hub.client.package("pushing a model")
    with tempfile.TemporaryDirectory() as home:
        folder = write(source, Path(home, "model"), repo_id, revision=revision, **card)
        return hub.push(
            folder,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )


def write(
    source: VAE | Table | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    datasets: Sequence[str] = (),
    data: Any = None,
    pictures: bool = True,
    weights: str | None = None,
    revision: str | None = None,
) -> Path:
    """Write the folder that `push_to_hub` would push: the model, README.md, pictures, history.csv and run.json.

    README.md is a model card: the hub's header, how to load the model, numbers with their standard errors, pictures, data, model,
    licence, versions and command. What nobody has said and no file says is left out. Of paths the last name alone is written.
    Pictures show held-out examples.

    Args:
        source: as of `push_to_hub`.
        folder: where to write.
        repo_id: "owner/name", for the card.
        license: as the hub writes it, "mit" or "cc-by-4.0" for example.
        tags: further ones.
        datasets: the hub's names of the data, "ylecun/mnist" for example.
        data: held-out examples, as for `vaekit.evaluate`; by default those of the run, where its folder says which. Without any
            the card has no numbers.
        pictures: whether those of the run, or some that are drawn from the data, go along.
        weights: of a run, "best" or "last"; the best by default.
        revision: for the card, the branch that it will be in.

    Returns:
        the folder.

    Raises:
        TypeError: another source; options that are no strings.
        FileNotFoundError, ValueError: no run or model; a table's data that is no frame; data that does not fit; what is
            no name of a repository, a licence or a tag.
        OSError: the folder cannot be written.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> with tempfile.TemporaryDirectory() as home:
        ...     made = write(vae, f"{home}/digits", "me/digits", license="mit", data=torch.rand(20, 4), pictures=False)
        ...     sorted(file.name for file in made.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    hub.check(repo_id, None, False)
    words = {"license": () if license is None else (license,), "tags": tags, "datasets": datasets}
    for what, given in words.items():
        _check_words(what, given)
    held = source if isinstance(source, (VAE, Table)) else _folder(source)
    path = held if isinstance(held, Path) else None
    if weights is not None and path is None:
        raise ValueError(f"weights={weights!r} chooses among those of a run, and a model in memory has its own")
    vae = _model_of(held, weights)
    found, examples = _found(held, path, vae, data)
    shown = found.pictures if pictures else ()
    text = Card(
        repository=repo_id,
        license=license,
        tags=tags,
        datasets=datasets,
        trained_on=_last_name(found.settings.get("data")),
        task="unconditional-image-generation" if len(vae.input_shape) == 3 and vae.condition is None else "other",
        model=found.model,
        data=[(what, _without_folders(value)) for what, value in found.data],
        environment=_environment(found.environments),
        schema=found.schema,
        estimates=[] if examples is None else estimates(vae, examples),
        warnings=found.warnings,
        pictures=[f"{name}.png" for name, _ in shown],
        is_table=isinstance(held, Table) or (path is not None and _is_table(path, weights)),
        command=_command(found.environments),
        revision=revision,
    ).text()
    with written_at_once(folder) as made:
        _write_model(held, made, weights)
        write_atomically(made / CARD_FILE, text.encode())
        for name, png in shown:
            write_atomically(made / f"{name}.png", png)
        if found.settings:
            settings = json.dumps(_shareable(found.settings), indent=2) + "\n"
            write_atomically(made / RUN_FILE, settings.encode())
        if path is not None and (path / HISTORY_FILE).is_file():
            write_atomically(made / HISTORY_FILE, (path / HISTORY_FILE).read_bytes())
    return Path(folder)


def _check_words(what: str, given: Sequence[str]) -> None:
    if isinstance(given, str) or not all(isinstance(word, str) for word in given):
        raise TypeError(f"{what} has to be {'a string' if what == 'license' else 'a sequence of strings'}, got {given!r}")
    if wrong := [word for word in given if not all(_SAFE.fullmatch(part) for part in word.split("/", 1))]:
        raise ValueError(f"{what} has to be of letters, digits, '-', '.' and '+', as the hub writes it, got {wrong[0]!r}")


def _folder(source: Any) -> Path:
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"what is shared is a vaekit.VAE, a vaekit.Table or a folder, got a {type(source).__name__}")
    return Path(source)


def _model_of(source: VAE | Table | Path, weights: str | None) -> VAE:
    if isinstance(source, Path):
        return runs.saved_model(source, weights)
    return source.vae if isinstance(source, Table) else source


def _found(source: Any, path: Path | None, vae: VAE, data: Any) -> tuple[findings.Findings, Examples | None]:
    """What there is to say, and the held-out examples."""
    if isinstance(source, Table) and data is not None:
        data = source.tensor(data)
    if path is None or not (path / RUN_FILE).is_file():
        found = findings.of_model(vae, data)
    else:
        found = findings.read(path, data)
        if data is None and found.settings.get("data") is not None:
            data = runs.held_out_data(path)
    return found, None if data is None else named_as_trained(vae, as_examples(data))


def _is_table(path: Path, weights: str | None) -> bool:
    return "table" in saving.read_config(runs.model_folder(path, weights))


def _write_model(source: VAE | Table | Path, made: Path, weights: str | None) -> None:
    if not isinstance(source, Path):
        source.save(made)
        return
    model = runs.model_folder(source, weights)
    file = model / saving.WEIGHTS_FILE if model.is_dir() else model
    write_atomically(made / saving.WEIGHTS_FILE, file.read_bytes())
    config = json.dumps(saving.read_config(file), indent=2) + "\n"
    write_atomically(made / saving.CONFIG_FILE, config.encode())


def _environment(environments: Sequence[Mapping[str, Any]]) -> Sequence[tuple[str, str]]:
    """The versions that trained the model, or else those here, and what it ran on."""
    if not environments:
        built = build_info()
        return [(f"{name}, when it was shared", str(built[name])) for name in ("vaekit", "torch")]
    last = environments[-1]
    rows = [(str(name), str(version)) for name, version in last.get("versions", {}).items()]
    rows += [(key, str(last[key])) for key in ("device", "precision", "threads") if key in last]
    system = last.get("host", {}).get("system")
    return [*rows, *([] if system is None else [("system", str(system))])]


def _command(environments: Sequence[Mapping[str, Any]]) -> str:
    """How the last start of the run was called."""
    command = environments[-1].get("command") if environments else None
    return " ".join(_without_folders(str(word)) for word in command) if isinstance(command, list) else ""


def _last_name(data: Any) -> str | None:
    return None if data is None else re.split(r"[\\/]", str(data))[-1]


def _without_folders(text: str) -> str:
    """The text with the last name alone of every path that begins at the root, or at home.

    Example:
        >>> _without_folders("--data=/home/jane/x.csv"), _without_folders("a/b")
        ('--data=x.csv', 'a/b')
    """
    return _FOLDERS.sub("", text)


def _shareable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _shareable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shareable(each) for each in value]
    return _without_folders(value) if isinstance(value, str) else value
