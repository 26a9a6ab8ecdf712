"""A VAE as an estimator of scikit-learn: in pipelines, grid searches and joblib's files. For the extras `tables`, `sampler`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vaekit.data import Schema, is_frame
from vaekit.data.frames import is_numeric, package
from vaekit.table import BATCH, Table

_WHOLE = {"kind": "number", "transform": "standardise", "decimals": None, "range": None}


class VAEEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A VAE that is fitted to X [N, F]: `transform` gives latents, `score_samples` log p.

    X is an array of numbers, NaN where they are missing, each standardised; or a frame, whose columns are what
    `vaekit.data.Schema` guesses, levels and dates among them.

    Args:
        latent_dim, hidden, epochs, beta, batch_size, learning_rate: as `vaekit.Table.fit` has them.
        samples: draws of z for each row of `score_samples`.
        random_state: fixes weights, noise and order; None draws a seed from NumPy's generator.

    Attributes:
        table_: the fitted `vaekit.Table`; `table_.vae` is the model.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 3))
        >>> model = VAEEstimator(latent_dim=2, epochs=2, random_state=0).fit(x)
        >>> model.transform(x).shape, model.score_samples(x).shape, model.inverse_transform(np.zeros((5, 2))).shape
        ((60, 2), (60,), (5, 3))
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (128, 128),
        epochs: int | None = None,
        beta: float = 0.5,
        batch_size: int = BATCH,
        learning_rate: float = 3e-3,
        samples: int = 100,
        random_state: Any = None,
    ) -> None:
        self.latent_dim, self.hidden, self.epochs, self.beta = latent_dim, hidden, epochs, beta
        self.batch_size, self.learning_rate, self.samples, self.random_state = batch_size, learning_rate, samples, random_state

    def fit(self, X: Any, y: Any = None) -> VAEEstimator:
        """Fit the model to X [N, F]; y is not looked at."""
        from sklearn.utils import check_random_state

        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31)
        frame = self._frame(X, reset=True)
        settings = None if self.frames_ else {str(name): _WHOLE for name in frame.columns}
        self.table_ = Table.fit(
            frame,
            Schema.guess(frame, settings),
            epochs=self.epochs,
            latent_dim=self.latent_dim,
            hidden=self.hidden,
            beta=self.beta,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=int(seed),
        )
        self._n_features_out = self.table_.vae.latent_shape[0]
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """The mean of each row's posterior: [N, F] -> [N, latent_dim]."""
        return self._of(self._table().encode(self._frame(X)))

    def inverse_transform(self, Z: Any) -> Any:
        """What the latents [N, latent_dim] decode to: an array [N, F], or a frame where the model was fitted to one."""
        table = self._table()
        z = torch.as_tensor(np.asarray(Z), dtype=table.vae.dtype)
        frame = table.decode(z)
        return frame if self.frames_ else frame.to_numpy(dtype=np.float64)

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """log p of each row in nats, by the importance-weighted bound: [N, F] -> [N]."""
        return self._table().score(self._frame(X), samples=self.samples)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, which a grid search maximises."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int = 0) -> Any:
        """Synthetic rows: an array [n_samples, F], or a frame where the model was fitted to one."""
        frame = self._table().sample(n_samples, seed=random_state)
        return frame if self.frames_ else frame.to_numpy(dtype=np.float64)

    def _table(self) -> Table:
        check_is_fitted(self, "table_")
        return self.table_

    def _frame(self, X: Any, reset: bool = False) -> Any:
        """X as a frame: itself, or an array of numbers with names of their own for its columns."""
        if not reset:
            check_is_fitted(self, "table_")
        is_mixed = is_frame(X) and not all(map(is_numeric, package("narwhals").from_native(X, eager_only=True).iter_columns()))
        if reset:
            self.frames_ = is_mixed
        if self.frames_ and is_frame(X):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X
        array = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
        )
        return package("pandas").DataFrame({f"x{number}": values for number, values in enumerate(array.T)})

    @staticmethod
    def _of(z: torch.Tensor) -> npt.NDArray[np.float64]:
        return np.asarray(z.double().numpy())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
