"""A prior fitted to the codes of a trained model, for draws that look more like the data.

P. Ghosh, M. S. M. Sajjadi, A. Vergari, M. Black, B. Schölkopf, "From Variational to Deterministic Autoencoders", ICLR 2020,
arXiv:1903.12436, section 4: density estimation after training. The same for the codes of a codebook: A. van den Oord, O. Vinyals,
K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3, with a simpler model of them.
"""

from __future__ import annotations

from typing import Any

import torch

from vaekit.checks import checked_number, checked_size
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.inputs import checked_batches
from vaekit.modes import evaluation_mode
from vaekit.posteriors.codes import CodePosterior
from vaekit.priors.codes import Codes
from vaekit.priors.gaussian_mixture import GaussianMixture
from vaekit.vae import VAE


@torch.no_grad()
def fitted_mixture(vae: VAE, data: Any, *, components: int = 10, batch_size: int = 500, seed: int = 0) -> GaussianMixture:
    """A Gaussian mixture fitted to one code of each example, drawn from its posterior, by scikit-learn's EM.

    Where the codes do not fill the prior, draws from the prior decode to nothing that the data has; draws from this do better,
    and the model itself stays as it is: `vae.sample(16, prior=fitted_mixture(vae, train))`. It is fitted after the fact, so that
    the bound of log p(x) has no part in it. It needs the extra `sampler`.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes: the training data as a rule.
        components: how many Gaussians, with diagonal covariances.
        batch_size: examples at a time; the result does not depend on it.
        seed: fixes the draws and where EM begins.

    Returns:
        a `vaekit.priors.GaussianMixture` over the model's latents, on its device and in its dtype.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        TypeError: a model whose latents are codes, for which `fitted_codes` is.
        ValueError: fewer examples than components, or data that does not fit the model.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> sampler = fitted_mixture(vae, torch.rand(100, 4), components=3)
        >>> vae.sample(5, prior=sampler).shape
        torch.Size([5, 4])
    """
    family = vae.encoder.family
    if not family.latents.fill_space:
        raise TypeError(
            f"a mixture of Gaussians is one over vectors, but those of {type(family).__name__} are {family.latents.words}; "
            + ("vaekit.evaluation.fitted_codes fits their frequencies" if family.latents.are_codes else "keep the model's prior")
        )
    try:
        from sklearn import mixture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fitted_mixture fits with scikit-learn: pip install 'vaekit[sampler]'") from error
    checked_size("components", components)
    batches, weight, row_start, codes = checked_batches(vae, data, batch_size), next(vae.parameters()), 0, []
    key = evaluation_key(seed).to(weight.device)
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            z = vae.encode(batch.x, batch.condition).rsample(key=key, row_start=row_start)
            codes.append(z.flatten(1).cpu().double())
            row_start += len(batch.x)
    if row_start < components:
        raise ValueError(f"a mixture of {components} components needs at least as many examples, got {row_start}")
    drawn = torch.cat(codes)
    fitted = mixture.GaussianMixture(components, covariance_type="diag", random_state=seed % 2**32).fit(drawn.numpy())
    with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced at once
        prior = GaussianMixture(vae.latent_shape, components).to(weight)
    shape = (components, *vae.latent_shape)
    prior.logits.copy_(torch.as_tensor(fitted.weights_).log())
    prior.mu.copy_(torch.as_tensor(fitted.means_).reshape(shape))
    prior.logvar.copy_(torch.as_tensor(fitted.covariances_).log().reshape(shape))
    return prior


@torch.no_grad()
def fitted_codes(vae: VAE, data: Any, *, smoothing: float = 1.0, batch_size: int = 500) -> Codes:
    """A prior with the frequencies that the codes of a vector-quantised model have at each position.

    While such a model is trained its prior is uniform, and draws from that decode to nothing that the data has. This one knows
    which codes are where, not which go together: `vae.sample(16, prior=fitted_codes(vae, train))`. As the model's own prior,
    `vae.prior = fitted_codes(vae, train)`, it makes `kl` the length in nats of the codes of x, and the bound of log p(x) the
    higher.

    Args:
        vae: the model, with the posterior "vector_quantized"; it stays on its device.
        data: what `vaekit.evaluate` takes: the training data as a rule.
        smoothing: how many examples more are counted, spread evenly over all codes, so that none has probability 0.
        batch_size: examples at a time; the result does not depend on it.

    Returns:
        a `vaekit.priors.Codes` over the model's codebook, on its device and in its dtype.

    Raises:
        TypeError: another posterior.
        ValueError: a smoothing that is not positive and finite, an empty dataset, or data that does not fit the model.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("vq-mnist", seed=0)
        >>> prior = fitted_codes(vae, torch.rand(10, 1, 28, 28))
        >>> prior.logits.shape, vae.sample(5, prior=prior).shape
        (torch.Size([7, 7, 128]), torch.Size([5, 1, 28, 28]))
    """
    checked_number("smoothing", smoothing, above=0.0)
    batches, examples, codes, counts = checked_batches(vae, data, batch_size), 0, 0, torch.zeros(())
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            posterior = vae.encode(batch.x, batch.condition)
            if not isinstance(posterior, CodePosterior):
                raise TypeError(
                    f"codes are counted for a posterior over codes, got {type(posterior).__name__}; "
                    "vaekit.evaluation.fitted_mixture is for codes with a density"
                )
            indices, codes = posterior.indices.cpu(), posterior.family.codes
            batch_counts = torch.zeros(*indices.shape[1:], codes, dtype=torch.float64)
            ones = torch.ones(indices.shape, dtype=torch.float64).movedim(0, -1)
            counts = counts + batch_counts.scatter_add_(-1, indices.movedim(0, -1), ones)
            examples += len(indices)
    prior = Codes(vae.latent_shape)
    prior.attach(vae.encoder)
    prior.logits.copy_(((counts + smoothing / codes) / (examples + smoothing)).log())
    return prior
