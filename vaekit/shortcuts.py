"""Methods of a model that are short for functions in other rooms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from vaekit import coding, looking

if TYPE_CHECKING:
    from vaekit.evaluation import Imputation, Scores
    from vaekit.vae import VAE


class Shortcuts(nn.Module):
    """What `vaekit.VAE` does by way of other rooms: codes, classes, imputation, scores, files."""

    @property
    def _vae(self) -> VAE:
        return cast("VAE", self)

    def completed(self, x: Tensor, condition: Any = None) -> Any:
        """The condition of each example, with the most probable value where it is missing, if the model infers it.

        Other models have it back as it was given.
        """
        x = self._vae.joined(x)
        if self._vae.condition is None or not self._vae.condition.infers:
            return condition
        return self._vae.condition.completed(
            self._vae.likelihood.encoder_input(x), self._vae.condition.as_rows(condition, x.shape[0])
        )

    def classify(self, x: Tensor, *, probabilities: bool = False) -> Tensor:
        """The most probable class of each example, int64 [B], by a model that infers it; looked at as by `reconstruct`.

        Args:
            x: [B, *input_shape].
            probabilities: give q(c | x) of every class instead, [B, K].

        Raises:
            TypeError: a model without a condition, or one that has to be told it.

        Example:
            >>> import torch, vaekit
            >>> condition = {"name": "inferred_labels", "classes": 3}
            >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, condition=condition, loss="semi_supervised")
            >>> vae.classify(torch.rand(5, 4), probabilities=True).shape
            torch.Size([5, 3])
        """
        return looking.classify(self._vae, self._vae.joined(x), probabilities)

    def indices(self, x: Tensor, condition: Any = None) -> Tensor:
        """The codes of x by their numbers, int64 [B, *code_shape], looked at as by `reconstruct`; TypeError without codes."""
        return coding.indices(self._vae, x, condition)

    def decode_codes(self, indices: Tensor, condition: Any = None) -> Tensor:
        """`decode` of codes by their numbers, int64 [B, *code_shape], each from 0 to K - 1: [B, *input_shape]."""
        return self._vae.decode(coding.embedded(self._vae, indices), condition)

    def impute(
        self, x: Any, *, draws: int | None = None, samples: int = 500, seed: int = 0, key: Tensor | None = None
    ) -> Imputation:
        """Fill the missing values of x, NaN: `vaekit.evaluation.impute`, which says what it takes, gives and raises.

        Example:
            >>> import torch, vaekit
            >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood={"name": "gaussian", "missing": "ignore"})
            >>> vae.impute(torch.tensor([[1.0, float("nan"), 2.0]])).x[0, [0, 2]]
            tensor([1., 2.])
        """
        from vaekit import evaluation

        made = evaluation.impute(self._vae, x, draws=draws, samples=samples, seed=seed, key=key)
        if not isinstance(x, Mapping):
            return made
        parted: Any = self._vae.likelihood.parted
        return made._replace(x=parted(made.x), draws=None if made.draws is None else parted(made.draws))

    def score(self, x: Any, *, elements: bool = False, samples: int = 500, seed: int = 0, key: Tensor | None = None) -> Scores:
        """log p(x) of each example, in nats: `vaekit.evaluation.score`, which says what it takes, gives and raises."""
        from vaekit import evaluation

        return evaluation.score(self._vae, x, elements=elements, samples=samples, seed=seed, key=key)

    def config(self) -> dict[str, Any]:
        """Plain data from which `vaekit.load` composes this model again: the options that its parts were constructed with.

        Raises:
            ValueError: a model that could not be composed again: a part whose class is not registered, weights of several dtypes,
                layers that were replaced by hand; the message says what to do.
        """
        from vaekit import saving

        return saving.config_of(self._vae)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write weights and config into `folder` (model.safetensors, and config.json to read); returns the folder.

        Raises:
            ValueError: a model that `vaekit.load` could not bring back, as for `config`; weights without values, or sparse ones.
            OSError: the folder cannot be written.
        """
        from vaekit import saving

        return saving.save(self._vae, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push this model with its card to the Hugging Face hub; `vaekit.sharing.push_to_hub` says what it takes and raises.

        `vae.push_to_hub("me/digits", license="mit", private=True, data=test)`; `vaekit.load("hf://me/digits")` is the way back.
        """
        from vaekit import sharing

        return sharing.push_to_hub(self._vae, repo_id, **options)
