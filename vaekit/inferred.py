"""A condition that may be missing: a class of which a network says how probable each is, given x.

D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised Learning with Deep Generative Models", NeurIPS 2014,
arXiv:1406.5298, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.checks import checked_number, checked_sizes
from vaekit.conditions import Labels
from vaekit.conditions.base import registry
from vaekit.data.conversion import MISSING
from vaekit.encoders.base import Encoder
from vaekit.encoders.base import registry as encoders
from vaekit.ops.dispatch import is_traced


@registry.register("inferred_labels")
class InferredLabels(Labels):
    """One of K classes, as "labels", which may be missing: -1. A classifier q(c | x) says then how probable each class is.

    With the loss "semi_supervised" classifier and model are trained together, on labelled and unlabelled examples. The networks
    are told a class, always: `vae.encode`, `vae.reconstruct` and the pictures take the most probable one where it is missing,
    `vae.sample` draws it from p(c), and `vae.score` and `vae.impute` from q(c | x), with weights that correct for it.

    Args:
        classes: K.
        input_shape: what the classifier reads, the encoder's; `vaekit.create_vae` fills it in.
        classifier: any encoder by its name, {"name": ..., option: ...} or as an object; the K numbers of its last layer, or the
            mean of a posterior of its own, are log q(c | x) up to a constant.
        prior: p(c), K probabilities; all the same by default.
        dim: the size of the learned vectors of the classes; None for one-hot ones.
        names: of the classes in the order of their numbers.
        column: the column of a table that says which class an example is of.

    Raises:
        TypeError, ValueError: as `Labels`; a prior that is no K probabilities; a classifier of another shape, told a condition
            itself, or with latents that have positions.

    Example:
        >>> import vaekit
        >>> condition = {"name": "inferred_labels", "classes": 3, "classifier": {"name": "mlp", "hidden": (16,)}}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, condition=condition, loss="semi_supervised")
        >>> vae(torch.rand(5, 4), torch.tensor([2, -1, 0, -1, -1])).total.shape, vae.classify(torch.rand(5, 4)).shape
        (torch.Size([]), torch.Size([5]))
    """

    infers = True

    def __init__(
        self,
        classes: int,
        input_shape: Sequence[int],
        classifier: str | Mapping[str, Any] | Encoder = "mlp",
        prior: Sequence[float] | None = None,
        dim: int | None = None,
        names: Sequence[str] | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(classes, dim, names, column)
        self.input_shape = checked_sizes("input_shape", input_shape)
        spec = {"name": "mlp", **classifier} if isinstance(classifier, Mapping) else classifier
        offers = {"input_shape": self.input_shape, "latent_dim": self.classes, "posterior": "point"}
        self.classifier = encoders.build(spec, offers=offers)
        if (self.classifier.input_shape, self.classifier.latent_shape) != (self.input_shape, (self.classes,)):
            raise ValueError(
                f"the classifier has to read {self.input_shape} and give {self.classes} numbers, one for each class; it reads "
                f"{self.classifier.input_shape} and gives numbers of the shape {self.classifier.latent_shape}"
            )
        if self.classifier.condition_dim:
            raise ValueError("the classifier is told x alone; leave its condition_dim out")
        self.given_as = f"a class number from 0 to {self.classes - 1} for each example, or {MISSING} where it is missing"
        self.register_buffer("_prior", torch.tensor(_checked_prior(prior, self.classes)).log(), persistent=False)
        self._prior: Tensor

    def forward(self, condition: Tensor) -> Tensor:
        if condition.device.type == "cpu" and not is_traced() and self.is_missing(condition).any():
            raise ValueError(
                f"the class is missing ({MISSING}) in {int(self.is_missing(condition).sum())} of {len(condition)} examples, but "
                "the networks are told one: vae.completed(x, condition) takes the most probable"
            )
        return super().forward(condition)

    def as_tensor(self, condition: Any) -> Tensor:
        if condition is None:
            return torch.tensor(MISSING)
        texts = None if isinstance(condition, Tensor) else np.asarray(condition, dtype=object)
        if self.names is None or texts is None or not any(isinstance(text, str) for text in texts.reshape(-1)):
            return super().as_tensor(condition)
        numbers = [MISSING if text is None else int(super(InferredLabels, self).as_tensor(text)) for text in texts.reshape(-1)]
        return torch.tensor(numbers).reshape(texts.shape)

    def check(self, condition: Tensor) -> None:
        super().check(condition[~self.is_missing(condition)])

    def log_prior(self) -> Tensor:
        return self._prior

    def log_posterior(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.classifier(x).mean, dim=-1)

    def label(self, condition: Tensor) -> str:
        return "not known" if int(condition) == MISSING else super().label(condition)


def _checked_prior(prior: Sequence[float] | None, classes: int) -> list[float]:
    if prior is None:
        return [1.0 / classes] * classes
    if isinstance(prior, (str, Mapping)) or not isinstance(prior, Sequence) or len(prior) != classes:
        raise ValueError(f"prior has to be {classes} probabilities, one for each class, got {prior!r}")
    checked = [checked_number("every entry of prior", value, above=0.0, most=1.0) for value in prior]
    if abs(sum(checked) - 1.0) > 1e-6:
        raise ValueError(f"the probabilities in prior have to add up to 1, those given to {sum(checked):g}: {prior!r}")
    return checked
