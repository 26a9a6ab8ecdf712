"""The objective of a vector-quantised model.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, equation 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, nll_of_draws, prior_of
from vaekit.ops import philox, streams
from vaekit.posteriors.codes import CodePosterior
from vaekit.schedules import Schedule, checked_schedule


@registry.register("vector_quantized")
class VectorQuantizedLoss(Loss):
    """Reconstruction from codes, with encoder and codes held together.

    What the encoder gives is rounded to a code; a commitment keeps it near, and the codes follow it.

        total = mean of -log p(x | z) + ||sg(z_e) - e||^2 + beta ||z_e - sg(e)||^2

    where sg stops the gradient. The middle term, the extra "codebook", is there for codes that are weights (decay=None) only;
    otherwise the codes are moving averages, which every call moves on by its batch while the family is learning: in training
    mode, with gradients, and not frozen. Use it with a posterior over codes, "vector_quantized" for example; of others there are
    the terms that they have, without a commitment for "finite_scalar", with an "entropy" for "lookup_free". It costs one pass
    through encoder and decoder.

    `kl` is log q(z | x) - log p(z), places * log K for the uniform prior: exact, and a constant, so that total leaves it out,
    as the paper does. A prior with weights, "autoregressive_codes" for example, is trained on it, as part of total; no gradient
    of it reaches the encoder, whose codes are whole numbers. log p(x) >= -(reconstruction + kl). Squares are summed over all
    latents and -log p(x | z) over all elements, as equation 3 says. Other libraries take means over both: a weight b beside the
    mean squared error of E elements, with L latents, is here the likelihood "gaussian" of variance v with beta = b E / (2 v L).
    Extras: "commitment",
    ||z_e - sg(e)||^2 without beta; "perplexity", how many codes are in even use in the batch, 1 to K. In training mode the codes'
    draws come from the step's key.

    It compares examples: the codes learn from a whole batch, and the perplexity is one of a batch, at most its number of vectors,
    and in a history or `vaekit.evaluate` the mean of those: it rises with batch_size, and only values at the same one compare.

    Van den Oord, Vinyals, Kavukcuoglu, 2017, arXiv:1711.00937, equation 3 and section 3.2.

    Args:
        beta: the weight of the commitment: a number, a `vaekit.schedules.Schedule` of the step, or its spec. The paper found 0.1
            to 2.0 to do much the same.

    Raises:
        TypeError: a beta that is not a weight.
        ValueError: a negative one.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,), latent_dim=2, posterior={"name": "vector_quantized", "codes": 8}, prior="codes",
        ...     loss={"name": "vector_quantized", "beta": 0.5},
        ... )
        >>> terms = vae(torch.rand(8, 4))
        >>> torch.allclose(terms.total, (terms.reconstruction + 0.5 * terms.extras["commitment"]).mean())
        True
    """

    latents = LatentKind.CODES
    compares_examples = True

    def __init__(self, beta: float | Schedule | Mapping[str, Any] = 0.25) -> None:
        super().__init__()
        self.beta = checked_schedule("beta", beta)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        posterior = model.encode(batch.x, batch.condition)
        if not isinstance(posterior, CodePosterior):
            raise TypeError(f"the loss vector_quantized takes a posterior over codes, got {type(posterior).__name__}")
        z, kl = posterior.rsample_kl(prior_of(model, batch), key=context.key, num_samples=1, row_start=context.row_start)
        reconstruction, commitment, penalties = nll_of_draws(model, batch, z)[0], posterior.commitment(), posterior.penalties()
        objective, extras = reconstruction, {}
        if commitment is not None:
            objective = objective + self.beta(context.step) * commitment
            extras["commitment"] = commitment
        for name, penalty in penalties.items():
            objective = objective + penalty
            extras[name] = penalty
        if any(weight.requires_grad for weight in model.prior.parameters()):
            objective = objective + kl
        extras["perplexity"] = posterior.perplexity()
        if self.training and posterior.family.is_learning:
            posterior.update_codebook(philox.fold_in(context.key, streams.Step.OBJECTIVE), context.row_start)
        return LossTerms(batch_mean(objective), reconstruction, kl, extras)
