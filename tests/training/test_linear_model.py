"""A linear VAE with a learned shared variance against probabilistic PCA, whose optimum has a closed form.

M. Tipping, C. Bishop, "Probabilistic Principal Component Analysis", 1999; J. Lucas et al., "Don't Blame the ELBO!", 2019,
arXiv:1911.02469: the ELBO of such a model has its maximum at the pPCA maximum of the likelihood, and touches it there.
"""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import vaekit

LATENT = 5


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().data / 16.0)


def linear_model():
    return vaekit.create_vae(
        input_shape=(64,), latent_dim=LATENT, seed=0,
        encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood={"name": "gaussian", "variance": "shared", "sigma": 0.3},
    ).double()  # fmt: skip


def exact_elbo(vae, x):
    """The ELBO's mean over the noise, in closed form: the decoder is linear, so E|x - Wz - b|^2 is known."""
    q = vae.encode(x)
    w, bias, logvar = vae.decoder.head.weight, vae.decoder.head.bias, vae.likelihood.logvar
    squared = (x - q.mu @ w.T - bias).square().sum(1) + (q.logvar.exp() * w.square().sum(0)).sum(1)
    nll = 0.5 * (squared / logvar.exp() + 64 * (logvar + math.log(2 * math.pi)))
    kl = 0.5 * (q.mu.square() + q.logvar.exp() - 1 - q.logvar).sum(1)
    return -(nll + kl).mean().item()


def test_at_the_closed_form_optimum_the_elbo_is_the_likelihood_of_ppca(digits):
    pca = PCA(LATENT).fit(digits.numpy())
    vae, variance = linear_model(), torch.tensor(pca.noise_variance_)
    components, eigenvalues = torch.from_numpy(pca.components_), torch.from_numpy(pca.explained_variance_)
    mean, scale = torch.from_numpy(pca.mean_), (eigenvalues - variance).sqrt()
    with torch.no_grad():
        vae.decoder.head.weight.copy_(components.T * scale)
        vae.decoder.head.bias.copy_(mean)
        vae.likelihood.logvar.copy_(variance.log())
        encoder = components * (scale / eigenvalues)[:, None]
        vae.encoder.head.weight.copy_(torch.cat([encoder, torch.zeros_like(encoder)]))
        vae.encoder.head.bias.copy_(torch.cat([-encoder @ mean, (variance / eigenvalues).log()]))
        score = pca.score(digits.numpy())
        assert exact_elbo(vae, digits) == pytest.approx(score, abs=1e-8)
        estimates = torch.stack([-vae(digits, key=vaekit.make_key(k)).total for k in range(50)])
    assert abs(estimates.mean() - score) < 4 * estimates.std() / math.sqrt(50)


def test_training_reaches_the_likelihood_of_ppca(digits):
    score = PCA(LATENT).fit(digits.numpy()).score(digits.numpy())
    vae = linear_model()
    elbos = []
    for learning_rate, epochs in ((1e-2, 60), (1e-3, 40), (2e-4, 20)):
        vaekit.fit(vae, digits, epochs=epochs, batch_size=100, learning_rate=learning_rate, progress=False)
        elbos.append(exact_elbo(vae, digits))
    # By Wilks' theorem twice the log likelihood of N examples at its maximum exceeds the truth's by k on average, k being the
    # number of free parameters: a model within k / 2N nats an example of the maximum cannot be told from it by the data.
    free_parameters = 64 * LATENT - LATENT * (LATENT - 1) // 2 + 64 + 1
    tolerance = free_parameters / (2 * len(digits))
    assert score - tolerance < elbos[-1] <= score + 1e-9
