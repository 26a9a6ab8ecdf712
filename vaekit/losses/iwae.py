"""Bounds of log p(x) from several importance-weighted draws of z for each example.

Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519, equation 8; T. Rainforth
et al., "Tighter Variational Bounds are Not Necessarily Better", ICML 2018, arXiv:1802.04537, where MIWAE, CIWAE and PIWAE are
proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vaekit.checks import checked_size, checked_word
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.doubly_reparameterized import doubly_reparameterized_bound, partially_weighted_bound
from vaekit.losses.draws import batch_mean, effective_sample_size, log_mean_weight, nll_and_log_ratio
from vaekit.schedules import Schedule, checked_schedule


def _terms(bound: Tensor, nll: Tensor, log_ratio: Tensor, effective: Tensor) -> LossTerms:
    return LossTerms(batch_mean(-bound), nll.mean(0), log_ratio.mean(0), {"effective_sample_size": effective})


@registry.register("iwae")
class Iwae(Loss):
    """The importance-weighted bound: log p(x) from below, the closer the more draws.

    The K draws of z are weighted by how well they explain x, so that the encoder is forgiven draws that do not; the model is
    less driven to posteriors that a Gaussian can match, and uses more of its latent dimensions.

        total = mean of -log 1/K sum_k w_k,   w_k = p(x | z_k) p(z_k) / q(z_k | x),   z_k from q(z | x)

    Use it where the likelihood matters and the encoder is too simple for the true posterior; 5 to 50 draws are common. It costs
    K passes through the decoder, all at once: the memory for K times the batch. As K grows the encoder's gradient drowns in its
    own noise (Rainforth et al. 2018): take gradient="doubly_reparameterized" then, or `miwae`, `ciwae`.

    Everything is an estimate from the draws. `reconstruction` and `kl` are means over them, so that their sum is the ELBO's
    estimate and at least the example's part of total; the kl is never the exact one, and can fall below 0. Extras:
    effective_sample_size [B], between 1 and K: near 1 a single draw decides, and more of them, or a better encoder, would help.

    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016, arXiv:1509.00519, equation 8.

    Args:
        num_samples: K; with 1 it is the ELBO with an estimated divergence.
        gradient: "reparameterized", that of the formula; or "doubly_reparameterized", which for decoder and prior is the same
            and for the encoder has the same mean, and far less variance near the true posterior, where it vanishes (G. Tucker
            et al. 2019, arXiv:1810.04152, equation 8). Weights that encoder and decoder share, a condition's, get both parts.
            The terms then have no gradient besides total.

    Raises:
        ValueError: num_samples below 1, or another gradient.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "iwae", "num_samples": 5, "gradient": "doubly_reparameterized"}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4))
        >>> bool(terms.total <= (terms.reconstruction + terms.kl).mean())
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, num_samples: int = 5, gradient: str = "reparameterized") -> None:
        super().__init__()
        self.num_samples = checked_size("num_samples", num_samples)
        self.gradient = checked_word("gradient", gradient, ("reparameterized", "doubly_reparameterized"))

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        if self.gradient == "doubly_reparameterized":
            bound, nll, log_ratio = doubly_reparameterized_bound(model, batch, context, self.num_samples)
        else:
            nll, log_ratio = nll_and_log_ratio(model, batch, context, self.num_samples)
            bound = log_mean_weight(-(nll + log_ratio))
        return _terms(bound, nll, log_ratio, effective_sample_size(-(nll + log_ratio)))


@registry.register("miwae")
class Miwae(Loss):
    """The mean of M importance-weighted bounds of K draws each.

    With M the gradient's noise falls for encoder and decoder alike, with K the bound rises, but the encoder's signal falls: for
    M K draws in all, M above 1 trades some of the bound's tightness for a better trained encoder.

        total = mean of -1/M sum_m log 1/K sum_k w_mk

    Use it in the place of `iwae` where the encoder learns badly: 8 bounds of 8 draws for one of 64. It costs M K passes through
    the decoder, all at once. The terms are those of `iwae`, means over all M K draws; effective_sample_size is the mean of the
    M ones. It has nothing to do with missing values, for which there is another "MIWAE": see the likelihoods' option missing.

    Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018, arXiv:1802.04537, section "New Estimators".

    Args:
        num_outer: M; with 1 it is `iwae`.
        num_samples: K; with 1 it is the ELBO from M draws, with an estimated divergence.

    Raises:
        ValueError: sizes below 1.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "miwae", "num_outer": 4, "num_samples": 5}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4))
        >>> bool((terms.extras["effective_sample_size"] < 5.001).all())
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, num_outer: int = 8, num_samples: int = 8) -> None:
        super().__init__()
        self.num_outer, self.num_samples = checked_size("num_outer", num_outer), checked_size("num_samples", num_samples)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        nll, log_ratio = nll_and_log_ratio(model, batch, context, self.num_outer * self.num_samples)
        inner = -(nll + log_ratio).unflatten(0, (self.num_outer, self.num_samples)).transpose(0, 1)  # [K, M, B]
        return _terms(log_mean_weight(inner).mean(0), nll, log_ratio, effective_sample_size(inner).mean(0))


@registry.register("ciwae")
class Ciwae(Loss):
    """A weighted mean of the ELBO and the importance-weighted bound, from the same K draws.

    The ELBO trains the encoder, whose signal in the importance-weighted bound falls with K; the bound trains the decoder.

        total = mean of -(beta 1/K sum_k log w_k + (1 - beta) log 1/K sum_k w_k)

    Use it where `iwae` gives a good decoder with a bad encoder. It costs what `iwae` costs, K passes through the decoder at
    once, and its terms are those of `iwae`; the ELBO's divergence here is an estimate too.

    Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018, arXiv:1802.04537, section "New Estimators".

    Args:
        num_samples: K.
        beta: the weight of the ELBO, in [0, 1]: a number, a `vaekit.schedules.Schedule`, or its spec. 0 is `iwae`, 1 the ELBO.

    Raises:
        TypeError: a beta that is not a weight.
        ValueError: num_samples below 1, a beta outside [0, 1].

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "ciwae", "num_samples": 8, "beta": {"name": "linear", "steps": 1000, "start": 1.0, "end": 0.05}}
        >>> vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4), step=0).kl.shape
        torch.Size([8])
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, num_samples: int = 8, beta: float | Schedule | Mapping[str, Any] = 0.5) -> None:
        super().__init__()
        self.num_samples = checked_size("num_samples", num_samples)
        self.beta = checked_schedule("beta", beta, highest=1.0)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        nll, log_ratio = nll_and_log_ratio(model, batch, context, self.num_samples)
        log_weights, beta = -(nll + log_ratio), self.beta(context.step)
        bound = beta * log_weights.mean(0) + (1.0 - beta) * log_mean_weight(log_weights)
        return _terms(bound, nll, log_ratio, effective_sample_size(log_weights))


@registry.register("piwae")
class Piwae(Loss):
    """The encoder learns from M importance-weighted bounds of K draws each, the decoder from one of all M K.

    A tighter bound is a better objective for the decoder, and drowns the encoder's gradient in noise: each gets its own.

        total = mean of -log 1/(M K) sum_mk w_mk,            for decoder and prior, as `iwae` of M K draws
        the encoder's gradient is that of  -1/M sum_m log 1/K sum_k w_mk,            as `miwae`

    from the same draws. Use it where `iwae` with many draws gives a good decoder with a bad encoder, in the place of `miwae`,
    whose decoder has the looser bound. It costs what `iwae` costs with M K draws: one pass through the decoder for all of them,
    and one back. Weights that encoder and decoder share, a condition's, get both parts. The terms have no gradient besides
    total; they are those of `iwae`, means over all M K draws, and the extra "encoder_bound" [B] is what the encoder descends.
    Training moves no single objective, and total alone need not fall at every step.

    Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018, arXiv:1802.04537, section "New Estimators".

    Args:
        num_outer: M; with 1 it is `iwae`.
        num_samples: K; with 1 the encoder learns from the ELBO.

    Raises:
        ValueError: sizes below 1.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "piwae", "num_outer": 4, "num_samples": 5}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4))
        >>> bool((terms.extras["encoder_bound"].mean() >= terms.total))
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, num_outer: int = 8, num_samples: int = 8) -> None:
        super().__init__()
        self.num_outer, self.num_samples = checked_size("num_outer", num_outer), checked_size("num_samples", num_samples)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        bound, nll, log_ratio = partially_weighted_bound(model, batch, context, self.num_outer, self.num_samples)
        log_weights = -(nll + log_ratio)
        terms = _terms(bound, nll, log_ratio, effective_sample_size(log_weights))
        inner = log_weights.unflatten(0, (self.num_outer, self.num_samples)).transpose(0, 1)  # [K, M, B]
        return terms._replace(extras={**terms.extras, "encoder_bound": -log_mean_weight(inner).mean(0)})
