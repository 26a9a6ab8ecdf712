"""A run: what it is made from, as run.json has it, and the folder that it leaves.

Settings are plain data by name: the data, the preset, what `vaekit.create_vae` and `vaekit.fit` take. They are put together from
a run.json, from assignments such as "encoder.hidden=[2000,256]", and from single values, each of which wins over those before it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from vaekit import data, files, saving, specs
from vaekit.addresses import Address
from vaekit.compose import create_vae, likelihood_by
from vaekit.data.cells import is_cells_file
from vaekit.data.framed import HOW_A_FILE_IS_READ, names_in, same_kind_of_file
from vaekit.from_data import condition_of, named_by
from vaekit.layout import BEST, HISTORY_FILE, LAST, RUN_FILE
from vaekit.settings import FIT_KEYS, KEYS, MODEL, READING, Settings, amended, assign, check_key
from vaekit.training import FitOptions, History, fit, record
from vaekit.training.engine import described, resolved
from vaekit.training.precision import Precision
from vaekit.vae import VAE
from vaekit.zoo import ZooAddress

Where: TypeAlias = Path | Address  # a folder of a run or of a model, or a model elsewhere

DEFAULT_PRESET = "dense-mnist"
TABLE_PRESET = "table"  # of a table, whose schema then chooses the likelihood
CELLS_PRESET = "single-cell"
DEFAULT_DATA = "mnist5k"


def merged_settings(
    config: Path | None, assignments: Sequence[str], values: Mapping[str, Any], resumes: bool = False
) -> Settings:
    """The settings of a run: `values` win over `assignments`, those over the file, that over the defaults.

    Args:
        config: a run.json.
        assignments: PART.OPTION=VALUE, each.
        values: setting -> value; None is as if it were not there.
        resumes: whether they are to go on with the run whose file it is.

    Raises:
        ValueError: a file that is not a run.json; a setting that a run does not have; a run to go on with, on data that nothing
            names.
        OSError: the file cannot be read.
    """
    settings = {} if config is None else read_settings(config)
    assigned: Settings = {}
    for assignment in assignments:
        assign(assigned, assignment)
    settings |= {key: amended(key, settings.get(key), value) for key, value in assigned.items()}
    settings |= {key: value for key, value in values.items() if value is not None}
    settings = {key: value for key, value in settings.items() if value is not None}
    if MODEL in settings:
        raise ValueError(
            f"these are the settings of a prior, which vaekit fit-prior has fitted to the model in {settings[MODEL]}; "
            f"that command goes on with it, and a model is trained by its own {RUN_FILE}"
        )
    if resumes and config is not None and "data" not in settings:
        raise ValueError(
            f"{config} does not say on what data: the run was begun by vaekit.fit. Give DATA, a file with the same data, or call "
            f"vaekit.resume({str(config.parent)!r}, ...)"
        )
    source = settings.get("data")
    preset = TABLE_PRESET if data.is_table_source(source) else CELLS_PRESET if is_cells_file(source) else DEFAULT_PRESET
    defaults = {"data": DEFAULT_DATA, "seed": 0, **({} if _describes_a_model(settings) else {"preset": preset})}
    return {**defaults, **settings}


def run_file_of(folder: Path) -> Path:
    """The run.json of the run in a folder.

    Raises:
        FileNotFoundError: it is not the folder of a run.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        inside = f"; {folder.parent} is the folder of one" if (folder.parent / RUN_FILE).is_file() else ""
        raise FileNotFoundError(f"{folder} has no {RUN_FILE}: it is not the folder of a run{inside}")
    return file


def _describes_a_model(settings: Settings) -> bool:
    """Whether the settings name every part that a model needs, so that it is composed without a preset."""
    needed = [settings.get(kind) for kind, described in specs.KINDS.items() if not described.is_optional]
    return "latent_dim" in settings and all(
        isinstance(part, str) or (isinstance(part, dict) and "name" in part) for part in needed
    )


def read_settings(file: Path) -> Settings:
    """What a run.json says.

    Raises:
        ValueError: it is not JSON, not an object, or has a setting that a run does not have.
        OSError: it cannot be read.
    """
    try:
        settings = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} has to hold a JSON object with some of: {', '.join(KEYS)}")
    if isinstance(options := settings.get("fit"), dict):  # {"fit": {"epochs": 3}} is {"epochs": 3}
        if twice := [key for key in options if key in settings]:
            raise ValueError(f"{file} sets {', '.join(twice)} twice, by itself and as an option of fit")
        settings = {**{key: value for key, value in settings.items() if key != "fit"}, **options}
    for key in settings:
        check_key(key, f"{file}")
    return settings


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        settings: everything that it is made from, so that they make it again: with the data's path in full, its shape, and what
            the condition has from it.
        vae: a new model.
        train, test: the data; test is held out.
        name: what its folder may be called.
    """

    settings: Settings
    vae: VAE
    train: data.Examples
    test: data.Examples
    name: str

    @classmethod
    def prepare(cls, settings: Settings, progress: bool = True) -> Run:
        """Load the data and compose the model.

        Raises:
            ValueError, TypeError, KeyError, OSError, ImportError: settings that are wrong or do not fit the data, by name.
        """
        options = FitOptions(**{key: settings[key] for key in FIT_KEYS if key in settings})  # refuses what `fit` would
        source = settings["data"]
        if settings.get("preset") == TABLE_PRESET and not _is_named(settings.get("likelihood")) and data.is_table_source(source):
            settings = {**settings, READING: {"schema": "guess", **settings.get(READING, {})}}
        train, test = _parts_of(settings, progress)
        if train.schema is not None:
            settings = _with_schema(settings, train.schema)
        elif train.columns is not None and data.is_table_source(source):  # so that other tables are read by name
            settings = {**settings, READING: {**settings.get(READING, {}), "columns": list(train.columns)}}
        path = None if source in data.names() else Path(source).resolve()
        settings = {**settings, "data": source if path is None else str(path), **record.plain_options(options)}
        if Path(str(settings.get("validation", ""))).is_file():
            settings["validation"] = str(Path(settings["validation"]).resolve())
        settings.setdefault("input_shape", list(train.x.shape[1:]))
        if isinstance(train, data.Cells):
            settings = named_by(train, settings)
        if "condition" in settings:
            settings["condition"] = condition_of(settings["condition"], train, test, settings.get(READING, {}).get("label"))
        parts = {key: settings[key] for key in specs.MODEL_OPTIONS if key in settings}
        vae = create_vae(settings.get("preset"), seed=settings["seed"], **parts)
        settings = {key: settings[key] for key in KEYS if key in settings}  # in one order, whoever gave them
        return cls(settings, vae, train, test, str(settings.get("preset", source)) if path is None else path.stem)

    def where(self) -> str:
        """The device and the precision that the model is trained on and in, in words."""
        device = resolved(self.settings.get("device", "auto"))
        return described(device, Precision.choose(self.settings.get("precision", "32"), device, self.vae.dtype))

    def fit(self, folder: Path | None, progress: bool = True, resume: bool = False) -> History:
        """Train the model.

        Args:
            folder: what `claimed_folder` gives, or that of the run to go on with; None for a process that leaves nothing.
            progress: show how far it is.
            resume: go on with the run in the folder.
        """
        options = {key: self.settings[key] for key in FIT_KEYS if key in self.settings}
        out = None if folder is None else record.ClaimedFolder(folder)
        return fit(self.vae, self.train, validation=self.test, out=out, resume=resume, progress=progress, **options)


def _parts_of(settings: Settings, progress: bool = True) -> tuple[data.Examples, data.Examples]:
    """What a run is trained on and what is held out: a function of its settings."""
    return data.load_parts(
        settings["data"], settings.get("validation"), settings.get("seed", 0), progress, settings.get(READING, {})
    )


def _with_schema(settings: Settings, schema: data.Schema) -> Settings:
    """The settings with the schema itself in the place of "guess", and the likelihood that it chooses unless there is one."""
    given = settings.get("likelihood")
    likelihood = given if _is_named(given) else likelihood_by(schema, given)
    return {**settings, "likelihood": likelihood, READING: {**settings[READING], "schema": schema.to_config()}}


def _is_named(part: Any) -> bool:
    """Whether a part is chosen, rather than an option of whichever will be."""
    return isinstance(part, str) or "name" in (part or {})


class Prepared(Protocol):
    """What a folder is claimed for."""

    @property
    def settings(self) -> Settings: ...

    @property
    def name(self) -> str: ...


@contextmanager
def claimed_folder(out: Path | None, run: Prepared) -> Iterator[Path]:
    """A folder that is this run's alone, with its run.json; as it was before if the run leaves nothing in it.

    Args:
        out: made if need be; with {n} in its name a new one, of the first number that is free; None is a new one under runs/.
        run: what is to be written down.

    Raises:
        ValueError: the folder holds a run, or another process has just claimed it.
        OSError: it cannot be written.
    """
    if out is None or files.NUMBER in str(out):
        folder = files.writable_folder(files.new_folder(_usual_names(run.name) if out is None else files.numbered(out)))
        made = [folder]
    else:
        made = list(itertools.takewhile(lambda parent: not parent.exists(), (out, *out.parents)))
        folder = files.writable_folder(out)
    try:
        _claim(folder, run.settings)
        try:
            yield folder
        finally:
            if not record.is_trained(folder):
                (folder / RUN_FILE).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # which are not empty, or belong to others by now
            for each in made:
                each.rmdir()


def _usual_names(name: str) -> Iterator[Path]:
    """runs/name, runs/name-2, runs/name-3, ..."""
    first = Path("runs", name.replace("/", "-"))
    return itertools.chain([first], (first.with_name(f"{first.name}-{number}") for number in itertools.count(2)))


def _claim(folder: Path, settings: Settings) -> None:
    """Write run.json, which only one process can be the first to do."""
    if record.is_trained(folder):
        raise ValueError(f"{folder} holds a run already; choose another --out, or remove it")
    try:
        record.claim(folder, settings)
    except FileExistsError as error:
        raise ValueError(
            f"{folder} holds a run already, which has saved nothing yet: it has just begun, or was killed; choose another --out, "
            "or remove it"
        ) from error


def saved_model(where: Where, weights: str | None = None) -> VAE:
    """The model in a run's folder, the best one unless `weights` says otherwise; in a folder that `VAE.save` wrote; elsewhere.

    Raises:
        ValueError: other weights than best or last; a run that has not come so far; a damaged model.
        FileNotFoundError: there is no model.
        UnknownNameError, ImportError, OSError: as `vaekit.load`.
    """
    if isinstance(where, Path):
        return saving.load(model_folder(where, weights))
    if weights is not None:
        raise ValueError(f"--weights chooses among those of a run, and {where} is one model")
    return saving.load(str(where))


def model_folder(folder: Path, weights: str | None = None) -> Path:
    """Where the model of `saved_model` is, if it is anywhere.

    Raises:
        ValueError: other weights than best or last; a run that has not come so far.
    """
    if weights not in (None, BEST, LAST):
        raise ValueError(f"--weights takes {BEST} or {LAST}, got {weights!r}")
    if folder.is_file() and folder.suffix != Path(saving.WEIGHTS_FILE).suffix:
        raise ValueError(f"RUN has to be the folder of a run or of a model, got the file {folder}; DATA comes after it")
    for name in (BEST, LAST) if weights is None else (weights,):
        if (folder / name / saving.WEIGHTS_FILE).is_file():
            return folder / name
    if weights is not None:
        raise ValueError(f"{folder} has no {weights!r} weights: it is not the folder of a run that has come so far")
    return folder


def held_out_data(where: Where, source: str | None = None) -> data.Examples:
    """The test set that the run was validated on; or of other data its test set, and all of it where it has none.

    Raises:
        ValueError: nothing says what the run was trained on.
    """
    if source is not None:
        return data.load_test(source, **reading_of(where, source))
    return data_of(where)[1]


def data_of(where: Where, progress: bool = True) -> tuple[data.Examples, data.Examples]:
    """What the run was trained on, and what was held out.

    Raises:
        ValueError: nothing says what that was.
    """
    for settings in _settings_of(where):
        if settings.get("data") is not None:
            return _parts_of(settings, progress)
    raise ValueError(f"{where} has no {RUN_FILE} that says what it was trained on; name the data with --data")


def _settings_of(where: Where) -> Iterator[Settings]:
    """What is known of the run in a folder: a model's may be one within a run, and a prior was fitted to another run's model."""
    if isinstance(where, Path):
        candidates: Sequence[Path] = (where / RUN_FILE, where.parent / RUN_FILE)
    else:
        candidates = (where.file(RUN_FILE),) if isinstance(where, ZooAddress) else ()
    for file in candidates:
        if file.is_file():
            settings = read_settings(file)
            yield settings
            if MODEL in settings:
                yield from _settings_of(Path(settings[MODEL]))


def held_out_source(where: Where) -> Path | None:
    """The file that the test set of a run is in, or a part of; None where nothing says so, or it is no file."""
    settings = next((settings for settings in _settings_of(where) if "data" in settings), {})
    named = [Path(str(settings.get(key, ""))) for key in ("validation", "data")]
    return next((path for path in named if path.is_file()), None)


def reading_of(where: Where, source: str) -> Settings:
    """How other data is read: as that of the run, where both are tables, or both are cells."""
    for settings in _settings_of(where):
        for is_of_kind in (data.is_table_source, is_cells_file):
            if is_of_kind(source):
                options = settings.get(READING, {}) if is_of_kind(settings.get("data")) else {}
                return _of_other_table(settings, source) if options and is_of_kind is data.is_table_source else options
    return {}


def _of_other_table(settings: Settings, source: str) -> Settings:
    """The options of reading a table that has to have the columns of x, in any order, and may lack what else the run's has.

    What it may lack are the columns by which the run's data was split, those that it left out, and the label unless that is the
    model's condition.
    """
    options = dict(settings[READING])
    if not same_kind_of_file(settings["data"], source):
        options = {name: value for name, value in options.items() if name not in HOW_A_FILE_IS_READ}
    if "columns" not in options and "schema" not in options:  # a run of an older version, which wrote no names down
        return options
    options = {name: value for name, value in options.items() if name not in ("drop", "group", "time")}
    if "label" in options and "condition" not in settings and options["label"] not in names_in(source, options):
        del options["label"]
    return options


def read_history(folder: Path) -> History | None:
    """How the run's training went; None where the folder does not say, or says that no epoch has ended yet.

    Raises:
        ValueError: a damaged file.
    """
    file = folder / HISTORY_FILE
    try:
        return History.from_csv(file) if file.is_file() and file.stat().st_size else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not the history of a run, or is damaged: {error}") from error
