"""A run that fits a prior to the model of another run: its settings, and the folder that it leaves within that run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaekit import data, runs
from vaekit.from_data import condition_of
from vaekit.layout import RUN_FILE
from vaekit.settings import FIT_KEYS, MODEL, READING, Settings, amended, assign
from vaekit.specs import plain_value
from vaekit.training import History, record
from vaekit.training.prior_fitting import DEFAULT_PRIOR, PriorOptions, prior_and_history
from vaekit.vae import VAE

PRIOR = "prior"
_KEYS = (PRIOR, *FIT_KEYS)


def merged_settings(
    run: Path, weights: str | None, config: Path | None, assignments: Sequence[str], values: Mapping[str, Any]
) -> Settings:
    """The settings of a fit: `values` win over `assignments`, those over the file.

    Args:
        run: the folder of the run or of the model.
        weights: of the run, "best" or "last"; the best by default.
        config: the run.json of a fit to go on with.
        assignments: PART.OPTION=VALUE, each, of the prior and of the fit.
        values: setting -> value; None is as if it were not there.

    Raises:
        ValueError: a setting that is not the prior's or the fit's; a file of another run; a run without a model.
    """
    settings = {} if config is None else runs.read_settings(config)
    model = str(runs.model_folder(run, weights).resolve())
    if config is not None and settings.get(MODEL) != model:
        raise ValueError(f"{config} is not of a prior that was fitted to {model}, but of {settings.get(MODEL, 'a model itself')}")
    assigned: Settings = {}
    for assignment in assignments:
        assign(assigned, assignment)
    if others := [key for key in assigned if key not in _KEYS]:
        raise ValueError(
            f"--set {others[0]}: the model stays as it is; a fit of a prior has {PRIOR}.OPTION, {', '.join(FIT_KEYS)}"
        )
    settings |= {key: amended(key, settings.get(key), value) for key, value in assigned.items()}
    settings |= {key: value for key, value in values.items() if value is not None}
    prior = settings.get(PRIOR, {})
    settings[PRIOR] = prior if isinstance(prior, str) else {"name": DEFAULT_PRIOR, **prior}
    return {"seed": 0, **settings, MODEL: model}


@dataclass(frozen=True)
class PriorRun:
    """A fit of a prior that is ready to begin.

    Attributes:
        settings: everything that it is made from: the model's folder, the prior, the options of the fit, and other data than the
            model's where there are such.
        vae: the model.
        train, test: the data; test is held out.
    """

    settings: Settings
    vae: VAE
    train: data.Examples
    test: data.Examples
    name: str = PRIOR

    @classmethod
    def prepare(cls, settings: Settings, progress: bool = True) -> PriorRun:
        """Load the model and the data.

        Raises:
            ValueError, TypeError, KeyError, OSError, ImportError: settings that are wrong or do not fit, by name.
        """
        options = PriorOptions(**{key: settings[key] for key in FIT_KEYS if key in settings})  # refuses what `fit_prior` would
        folder = Path(settings[MODEL])
        vae = runs.saved_model(folder)
        source = settings.get("data")
        if source is None:
            train, test = runs.data_of(folder, progress)
        else:
            settings = {**settings, READING: settings.get(READING, runs.reading_of(folder, source))}
            settings["data"] = source if source in data.names() else str(Path(source).resolve())
            train, test = data.load_parts(settings["data"], None, settings["seed"], progress, settings[READING])
        prior = settings[PRIOR]
        if isinstance(prior, dict) and prior.get("condition") is not None:
            prior = {**prior, "condition": condition_of(prior["condition"], train, test)}
        settings = {**settings, PRIOR: plain_value("run", PRIOR, prior), **record.plain_options(options)}
        order = (MODEL, "data", READING, *_KEYS)
        return cls({key: settings[key] for key in order if key in settings}, vae, train, test)

    def fit(self, folder: Path | None, progress: bool = True, resume: bool = False) -> History | None:
        """Fit the prior; returns None for one that is counted.

        Args:
            folder: what `runs.claimed_folder` gives, or that of the fit to go on with; None for a process that leaves nothing.
            progress: show how far it is.
            resume: go on with the fit in the folder.
        """
        options = {key: self.settings[key] for key in FIT_KEYS}
        out = None if folder is None else record.ClaimedFolder(folder)
        how = {**options, "out": out, "resume": resume}
        prior = self.settings[PRIOR]
        return prior_and_history(self.vae, self.train, prior, how, validation=self.test, progress=progress).history


def folder_within(run: Path) -> Path:
    """Where a fit's results go by default: a new folder within the run's, or beside the model's own."""
    return (run.parent if not (run / RUN_FILE).is_file() and (run.parent / RUN_FILE).is_file() else run) / "prior-{n}"
