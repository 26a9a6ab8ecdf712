"""Learning from examples of which only some have a label: M2.

D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, "Semi-supervised Learning with Deep Generative Models", NeurIPS 2014,
arXiv:1406.5298, equations 6 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.ops.dispatch import is_traced
from vaekit.schedules import Schedule, checked_schedule


@registry.register("semi_supervised")
class SemiSupervised(Loss):
    """M2: the ELBO given the class where it is known, its mean over the classes where it is missing, and a classifier.

    With L(x, c) = -log p(x | z, c) + beta KL(q(z | x, c) || p(z)) - log p(c), of one draw z, an example costs

        labelled:    L(x, c) - alpha log q(c | x)
        unlabelled:  sum over c of q(c | x) (L(x, c) + log q(c | x))

    and total is the mean over the batch. With beta 1 and without alpha it is a bound on -log p(x, c) of labelled examples and on
    -log p(x) of the others; nothing is drawn of c. Without any label missing it is the ELBO of the conditional model, with the
    constant -log p(c), and a classifier trained beside it, whose weights the rest does not share.

    Use it where few examples have a label and many have none, and what an example looks like depends on its class. Cost: a batch
    in which a label is missing is encoded and decoded once for each class; use it for tens of classes.

    D. P. Kingma et al., "Semi-supervised Learning with Deep Generative Models", 2014, arXiv:1406.5298, equations 6 to 9.

    Args:
        alpha: the weight of -log q(c | x) of each labelled example: a number of at least 0, a `vaekit.schedules.Schedule` of the
            step, or its spec. The paper's is 0.1 N / N_labelled here: 0.1 N for a mean over the labelled ones of N.
        beta: the weight of the divergence, the same.

    In the terms `reconstruction` and `kl` are those given the class, or their means over q(c | x); the extras are `class`,
    -log p(c) or KL(q(c | x) || p(c)), [B], and `classification`, -log q(c | x), [B], 0 where the class is missing.

    Raises:
        TypeError: alpha or beta that is no weight.
        ValueError: negative ones; when composed, a condition that is not inferred.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,), latent_dim=2, condition={"name": "inferred_labels", "classes": 3}, loss="semi_supervised"
        ... )
        >>> terms = vae(torch.rand(6, 4), torch.tensor([0, -1, -1, 2, -1, -1]))
        >>> sorted(terms.extras), int((terms.extras["classification"] > 0).sum())
        (['class', 'classification'], 2)
    """

    infers_condition = True

    def __init__(
        self, alpha: float | Schedule | Mapping[str, Any] = 10.0, beta: float | Schedule | Mapping[str, Any] = 1.0
    ) -> None:
        super().__init__()
        self.alpha, self.beta = checked_schedule("alpha", alpha), checked_schedule("beta", beta)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        told, given = model.condition, batch.condition
        assert told is not None
        assert given is not None
        log_posterior, log_prior = told.log_posterior(model.likelihood.encoder_input(batch.x)), told.log_prior()
        missing, number = told.is_missing(given), told.numbers(given)
        rows = torch.arange(batch.x.shape[0], device=number.device)
        given_each = _terms_given_each(model, batch, context, told.values(given.device), missing)
        reconstruction, kl = given_each if given_each.ndim == 2 else _expected(given_each, log_posterior, missing, number)
        inferred = (log_posterior.exp() * (log_posterior - log_prior)).sum(1)
        of_class = torch.where(missing, inferred, -log_prior[number])
        classification = torch.where(missing, 0.0, -log_posterior[rows, number])
        each = reconstruction + self.beta(context.step) * kl + of_class + self.alpha(context.step) * classification
        return LossTerms(batch_mean(each), reconstruction, kl, {"class": of_class, "classification": classification})


def _terms_given_each(model: LatentVariableModel, batch: Batch, context: StepContext, values: Tensor, missing: Tensor) -> Tensor:
    """Reconstruction and divergence given each value, [2, V, B], with the same noise for all; given their own, [2, B], where
    none is missing and looking costs nothing."""
    if missing.device.type == "cpu" and not is_traced() and not missing.any():
        _, _, reconstruction, kl, _ = drawn(model, batch, context)
        return torch.stack((reconstruction, kl))
    given = [replace(batch, condition=value.expand(batch.x.shape[0], *value.shape)) for value in values]
    each = [torch.stack(drawn(model, one, context)[2:4]) for one in given]
    return torch.stack(each, dim=1)


def _expected(given_each: Tensor, log_posterior: Tensor, missing: Tensor, number: Tensor) -> Tensor:
    """Of [2, V, B] the mean over q(c | x) where c is missing, and the value given c elsewhere: [2, B]."""
    mean = torch.einsum("tvb,bv->tb", given_each, log_posterior.exp())
    own = given_each.gather(1, number.expand(2, 1, -1)).squeeze(1)
    return torch.where(missing, mean, own)
