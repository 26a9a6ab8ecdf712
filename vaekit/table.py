"""A model of a whole table: fitted to a frame, it encodes, samples, imputes and scores frames.

Everything is the VAE's, with the schema before and after it. Beside the schema's columns the model has one for each column that
may be missing, which says whether it is: a Bernoulli given z, so that a synthetic table misses what it should.
Latents are drawn from a mixture of Gaussians that is fitted to the codes after training and becomes the model's prior: P. Ghosh,
M. S. M. Sajjadi, A. Vergari, M. Black, B. Schölkopf, "From Variational to Deterministic Autoencoders", 2020, arXiv:1903.12436,
section 4. What is given of a sample is held by importance resampling: D. B. Rubin, "Using the SIR algorithm to simulate posterior
distributions", 1988.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit import plots, saving
from vaekit.checks import checked_size, checked_word, is_number
from vaekit.compose import create_vae
from vaekit.data import Schema
from vaekit.data.kinds import table_parts
from vaekit.evaluation.sampler import fitted_mixture
from vaekit.evaluation.terms import evaluation_key
from vaekit.modes import evaluation_mode
from vaekit.ops import philox, streams
from vaekit.plots.units import Named
from vaekit.training.fit import fit
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURES = ("marginals", "pairs", "associations", "column_reconstructions", "column_traversals", "missingness", "latent_space")
_KEY = "table"  # in the model's config
_CANDIDATES, _FOR_EACH = 20_000, 20  # draws of z among which what is given chooses: at least, and for each sample
BATCH, _STEPS, _LEAST_EPOCHS = 64, 4000, 20  # of training by default
_STEPS_OF_AN_EPOCH = 100  # at least, of a small table's rows, repeated
_FEWEST_FOR_A_COMPONENT, _MOST_COMPONENTS = 40, 30  # examples, of the mixture
_PIECE = 5000  # latents that are decoded at a time


class Table:
    """A VAE of a table with the schema of its columns; made by `Table.fit` or `Table.load`.

    Args:
        vae: a model of what `tensor` makes of a frame.
        schema: of the frame.

    Attributes:
        vae: the model, an ordinary `vaekit.VAE` over [N, columns and indicators].
        schema: of the columns.
        indicators: the names of the columns that may be missing, in the order of their indicators behind the columns.

    Raises:
        ValueError: a model of another number of columns, or one that refuses missing values.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [31, 45, 62, 28] * 20, "smoker": ["no", None, "yes", "no"] * 20})
        >>> table = Table.fit(frame, epochs=2)
        >>> table.sample(3, given={"smoker": "yes"})["smoker"].tolist()
        ['yes', 'yes', 'yes']
        >>> table.encode(frame).shape, table.score(frame).shape
        (torch.Size([80, 4]), (80,))
        >>> table.impute(frame)["smoker"].isna().any()
        np.False_
    """

    def __init__(self, vae: VAE, schema: Schema) -> None:
        self.vae, self.schema = vae, schema
        self.indicators = tuple(column.name for column in schema if column.missing)
        if vae.input_shape != (len(schema) + len(self.indicators),) or vae.likelihood.missing != "ignore":
            raise ValueError(
                f"the model takes examples of shape {vae.input_shape}, but a table of {len(schema)} columns with "
                f"{len(self.indicators)} indicators of missing values needs ({len(schema) + len(self.indicators)},) and a "
                'likelihood with missing="ignore"; Table.fit composes one'
            )

    @classmethod
    def fit(
        cls,
        frame: Any,
        schema: Schema | Mapping[str, Mapping[str, Any]] | None = None,
        *,
        epochs: int | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (128, 128),
        beta: float = 0.5,
        components: int | None = None,
        hide: float = 0.0,
        batch_size: int = BATCH,
        learning_rate: float = 3e-3,
        validation: Any = None,
        seed: int = 0,
        progress: bool = False,
        **options: Any,
    ) -> Table:
        """Guess the schema unless one is given, compose a model for it, train it, and fit the mixture to its codes.

        The defaults are the same for every table. Of those in benchmarks/tables.py, iris and wine chose `beta`, and iris the
        repeated rows; the others chose nothing.

        Args:
            frame: a DataFrame of pandas or polars, or a pyarrow.Table.
            schema: a `vaekit.data.Schema`, or the settings that `Schema.guess` takes of some columns.
            epochs: passes over the frame; by default as many as make 4,000 steps, and at least 20. Without further options
                `vaekit.fit` is given a small frame's rows several times over, and fewer epochs.
            latent_dim: twice the number of columns by default, between 4 and 32.
            hidden: the layers of the encoder, and backwards of the decoder.
            beta: the weight of the divergence. 0.5, ctgan's choice too, keeps columns closer together than 1, the bound's own.
            components: of the mixture; 0 leaves the standard normal. By default one for 40 rows, and at most 30.
            hide: what the encoder is not shown of a row in training, the largest share, see `vaekit.likelihoods.Likelihood`; 0.4
                for a table whose gaps are to be filled. It is told then what it is not shown.
            validation: a share of the rows that is held out, 0.1 for example, the name of a column that says which are, or a
                frame. The schema is guessed, and the mixture fitted, without them; levels that they alone have are missing.
            batch_size, learning_rate, progress, options: as `vaekit.fit` has them.
            seed: fixes the weights, the noise and the order of the examples.

        Raises:
            ModuleNotFoundError: a package of the extras `tables` and `sampler` is missing.
            TypeError, ValueError: as `Schema.guess`, `Schema.encode` and `vaekit.fit`.
        """
        train, held_out, schema = table_parts(frame, schema, validation, seed)
        likelihood = schema.likelihood()
        indicators = {_indicator(column.name, schema): {"name": "bernoulli"} for column in schema if column.missing}
        columns = {**likelihood["columns"], **indicators}
        vae = create_vae(
            latent_dim=min(max(2 * len(schema), 4), 32) if latent_dim is None else latent_dim,
            encoder={"name": "mlp", "hidden": tuple(hidden)},
            decoder={"name": "mlp", "hidden": tuple(reversed(hidden))},
            likelihood={**likelihood, "columns": columns, "missing": {"mark": True, "hide": hide} if hide else "ignore"},
            loss={"name": "elbo", "beta": beta},
            seed=seed,
        )
        table = cls(vae, schema)
        x = table._with_indicators(train)
        if held_out is not None:
            options["validation"] = table._with_indicators(held_out)
        components = _checked_components(components, len(x))
        batch_size = checked_size("batch_size", batch_size)
        epochs = usual_epochs(len(x), batch_size) if epochs is None else checked_size("epochs", epochs)
        repeats = 1 if options or not is_number(learning_rate) else _repeats(len(x), batch_size, epochs)
        options = {"initialize_output_bias": True, **options, "batch_size": batch_size, "learning_rate": learning_rate}
        fit(vae, x.repeat(repeats, 1), epochs=epochs // repeats, seed=seed, progress=progress, **options)
        if components:
            vae.prior = fitted_mixture(vae, x, components=components, seed=seed)
            vae.prior.attach(vae.encoder)
        return table

    def tensor(self, frame: Any) -> Tensor:
        """What the model is given of a frame: float32 [N, columns and indicators], NaN where a value is missing.

        Raises:
            TypeError, ValueError: as `Schema.encode`.
        """
        return self._with_indicators(self.schema.encode(frame, self.vae.dtype))

    def _with_indicators(self, x: Tensor) -> Tensor:
        """The encoded columns [N, F], and behind them whether values are missing: [N, columns and indicators]."""
        names = list(self.schema.columns)
        places = torch.tensor([names.index(name) for name in self.indicators], dtype=torch.long)
        return torch.cat([x, x[:, places].isnan().to(x.dtype)], 1)

    @torch.no_grad()
    def encode(self, frame: Any) -> Tensor:
        """The latents of each row, the mean of its posterior: [N, latent_dim]."""
        with evaluation_mode(self.vae):
            return torch.cat([self.vae.encode(x).mean for x in self.tensor(frame).to(self.vae.device).split(_PIECE)]).cpu()

    def sample(self, n: int, given: Mapping[str, Any] | None = None, *, seed: int = 0) -> Any:
        """A synthetic table of n rows, with missing values where the model has some.

        Args:
            n: how many; 0 for a frame with the columns and dtypes, but without rows.
            given: {column: value} that all rows have; None for a missing one. Latents are drawn from the prior and kept with
                the probability that the given values have under each (sampling importance resampling), which is right for any
                model and any columns as the number of draws grows; it is 20,000 here, and at least 20 for each row.
            seed: fixes the draws.

        Raises:
            TypeError: a `given` that is no mapping, a value of another sort than its column's.
            ValueError: n below 0, an unknown column or level, a missing value in a column that has none, a value beyond its
                column's range or of more digits.

        Warns:
            UserWarning: what is given is so rare that few of the draws are kept.
        """
        n = checked_size("n, the number of rows,", n, least=0)
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f'given has to be a mapping, {{"smoker": "yes"}} for example, got {given!r}')
        key = evaluation_key(seed).to(self.vae.device)
        row = self._row(given or {}).to(self.vae.device)
        if not given or not n:
            return self._frame(self.vae.sample(n, draw=True, key=key))
        with torch.no_grad(), evaluation_mode(self.vae):
            z = self._resampled(row, n, key)
            data_key, drawn = philox.fold_in(key, streams.Given.DATA), []
            for start in range(0, n, _PIECE):
                parameters = self.vae.natural_parameters(z[start : start + _PIECE])
                drawn.append(self.vae.likelihood.sample(parameters, key=data_key, row_start=start))
        x = torch.cat(drawn)
        return self._frame(torch.where(row.isnan(), x, row.expand_as(x)))

    def impute(self, frame: Any, draws: int | None = None, *, samples: int = 500, seed: int = 0) -> Any:
        """The frame with its missing values filled, by importance weighting; the observed ones are as they were.

        Args:
            frame: with the schema's columns.
            draws: how many completed frames to draw, for multiple imputation; None for one with the expected values, of levels
                the most probable.
            samples: draws of z for each row.
            seed: fixes them.

        Returns:
            a frame, or a list of `draws` frames; a column that had no values at all stays without.

        Raises:
            TypeError, ValueError: as `Schema.encode` and `vaekit.evaluation.impute`.
        """
        x = self.tensor(frame)
        if draws is not None:
            draws = checked_size("draws, the number of completed frames,", draws)
        tables = [x] * (draws or 1)
        if len(x):
            filled = self.vae.impute(x, draws=draws, samples=samples, seed=seed)
            tables = [filled.x] if filled.draws is None else list(filled.draws)
        frames = [self.schema.filled(frame, self._without_unknown(x)) for x in tables]
        return frames[0] if draws is None else frames

    def score(self, frame: Any, *, samples: int = 500, seed: int = 0) -> npt.NDArray[np.float64]:
        """log p of each row in nats, by the importance-weighted bound: float64 [N]; the lower, the stranger the row.

        The density is that of the encoded columns, whose numbers are transformed as the schema says. A row's missing values
        are left out, but that they are missing counts.
        """
        x = self.tensor(frame)
        if not len(x):
            return np.zeros(0)
        return self.vae.score(x, samples=samples, seed=seed).log_likelihood.double().numpy()

    @torch.no_grad()
    def decode(self, z: Tensor | npt.NDArray[Any]) -> Any:
        """The frame of latents [N, latent_dim]: what is expected under each, of levels the most probable; nothing is missing."""
        latents = torch.as_tensor(z).to(self.vae.device, self.vae.dtype)
        with evaluation_mode(self.vae):
            x = torch.cat([self.vae.decode(part) for part in latents.split(_PIECE)])
        return self.schema.decode(x[:, : len(self.schema)])

    def plot(self, picture: str, frame: Any, **options: Any) -> Figure:
        """A picture by `vaekit.plots` of held-out rows and of what the model makes of them, missing values among it.

        Args:
            picture: "marginals", "pairs", "associations", "column_reconstructions", "column_traversals", "missingness" or
                "latent_space".
            frame: the rows, with the schema's columns.
            options: that the picture takes, columns=["age"] or color="age" for example.

        Raises:
            ValueError: another picture; as the picture's own function.

        Example:
            >>> import pandas
            >>> frame = pandas.DataFrame({"age": [31, 45, 62, 28] * 20, "smoker": ["no", None, "yes", "no"] * 20})
            >>> len(Table.fit(frame, epochs=1).plot("marginals", frame, columns=["smoker"]).axes)
            1
        """
        checked_word("picture", picture, _PICTURES)
        named = Named(self.vae, tuple(self.schema.columns), self.schema, self.indicators)
        figure: Figure = getattr(plots, picture)(named, self.tensor(frame), **options)
        return figure

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model with the schema in its config, as `VAE.save` does; `vaekit.load` takes the VAE out of it.

        Raises:
            ValueError, OSError: as `VAE.save`.
        """
        return saving.save(self.vae, folder, {_KEY: self.schema.to_config()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """The table that `save` wrote, in a folder or at an address, as for `vaekit.load`.

        Raises:
            FileNotFoundError, ValueError, OSError, ImportError: as `vaekit.load`; a model that was saved without a schema.
        """
        config = saving.read_config(path)
        if _KEY not in config:
            raise ValueError(f"the model in {os.fspath(path)} was saved without a schema; vaekit.load loads it")
        return cls(saving.load(path), Schema.from_config(config[_KEY]))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and joblib: plain data and arrays."""
        weights = {name: value.numpy(force=True) for name, value in self.vae.state_dict().items()}
        return {"model": json.dumps(self.vae.config()), "weights": weights, "schema": self.schema.to_config()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vae = saving.composed(json.loads(state["model"]))
        vae.load_state_dict({name: torch.as_tensor(value) for name, value in state["weights"].items()})
        self.__init__(vae.eval(), Schema.from_config(state["schema"]))  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Table of {len(self.schema)} columns, {self.vae.latent_shape[0]} latent dimensions\n{self.schema}"

    def _frame(self, x: Tensor) -> Any:
        """The frame of drawn columns and indicators [N, columns and indicators]."""
        x, names = x.detach().cpu().clone(), list(self.schema.columns)
        for number, name in enumerate(self.indicators):
            x[x[:, len(names) + number] > 0.5, names.index(name)] = torch.nan
        return self.schema.decode(self._without_unknown(x))

    def _without_unknown(self, x: Tensor) -> Tensor:
        """The columns, without their indicators; those of which no value was ever seen are missing."""
        unknown = torch.tensor([column.is_unknown for column in self.schema])
        return x[:, : len(self.schema)].masked_fill(unknown, torch.nan)

    def _row(self, given: Mapping[str, Any]) -> Tensor:
        """[1, columns and indicators] of what is given, NaN where nothing is."""
        self.schema.check_values(given)
        encoded = self.schema.encode_values(given).to(self.vae.dtype)
        row = torch.full((1, self.vae.input_shape[0]), torch.nan, dtype=self.vae.dtype)
        row[0, : len(self.schema)] = encoded
        for number, name in enumerate(self.indicators):
            if name in given:
                row[0, len(self.schema) + number] = float(encoded[list(self.schema.columns).index(name)].isnan())
        return row

    def _resampled(self, row: Tensor, n: int, key: Tensor) -> Tensor:
        """n latents [n, D] from the posterior of what is given, among draws from the prior."""
        count = max(_CANDIDATES, _FOR_EACH * n)
        prior = self.vae.prior
        with evaluation_mode(prior):
            z = prior.sample(
                (count, *self.vae.latent_shape), key=philox.fold_in(key, streams.Given.LATENTS), dtype=self.vae.dtype
            )
        nll = torch.cat(
            [self.vae.likelihood.nll(self.vae.natural_parameters(part), row.expand(len(part), -1)) for part in z.split(_PIECE)]
        )
        weights = (-nll.double().cpu()).softmax(0)
        effective = float(1.0 / weights.square().sum())
        if effective < min(100, n):
            warnings.warn(
                f"what is given is rare: of {count} draws of the latents {effective:.0f} count, so that the {n} rows are less "
                "varied than the model has them",
                UserWarning,
                stacklevel=3,
            )
        start = philox.uniform(philox.fold_in(key, streams.Given.PLACES).cpu(), (1,), torch.float64)
        places = (torch.arange(n, dtype=torch.float64) + start) / n  # systematic resampling
        chosen = torch.searchsorted(weights.cumsum(0), places).clamp(max=count - 1)
        order = torch.argsort(philox.uniform(philox.fold_in(key, streams.Given.ORDER).cpu(), (n,), torch.float64))
        return z[chosen[order].to(z.device)]


def _checked_components(components: int | None, rows: int) -> int:
    """How many the mixture has, checked before anything is trained."""
    if components is None:
        return min(rows // _FEWEST_FOR_A_COMPONENT, _MOST_COMPONENTS)
    components = checked_size("components, of the mixture,", components, least=0)
    if components > rows:
        raise ValueError(f"a mixture of {components} components needs at least as many rows, but the table has {rows}")
    return components


def usual_epochs(rows: int, batch_size: int) -> int:
    """As many as make 4,000 steps, and at least 20."""
    repeats = _most_repeats(rows, batch_size)
    return max(math.ceil(_STEPS * batch_size / rows / repeats) * repeats, _LEAST_EPOCHS)


def _most_repeats(rows: int, batch_size: int) -> int:
    return max(1, _STEPS_OF_AN_EPOCH * batch_size // rows)


def _repeats(rows: int, batch_size: int, epochs: int) -> int:
    """How often a small table's rows are repeated in what training takes for an epoch, a divisor of the passes over them.

    What an epoch costs beside its steps takes as long as two of them, which is half of the time where it has only two.
    """
    most = min(_most_repeats(rows, batch_size), epochs)
    return next(number for number in range(most, 0, -1) if epochs % number == 0)


def _indicator(name: str, schema: Schema) -> str:
    """What the indicator of a column is called."""
    called = f"{name} is missing"
    while called in schema.columns:
        called += "?"
    return called
