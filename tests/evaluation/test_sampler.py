"""A mixture fitted to the codes: scikit-learn's own densities, and draws that fall where the codes are."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.utils.data import DataLoader

import vaekit
from vaekit.evaluation import fitted_mixture

CENTRES = torch.tensor([[-4.0, -4.0], [4.0, -4.0], [0.0, 5.0]])


def model(condition=None):
    """Its codes are the first two numbers of x, all but certain: in three clusters, one of which is rare."""
    vae = vaekit.create_vae(
        input_shape=(3,),
        latent_dim=2,
        encoder={"hidden": (), "condition_dim": 0} if condition else {"hidden": ()},
        likelihood="gaussian",
        condition=condition,
        seed=0,
    ).double()
    with torch.no_grad():
        vae.encoder.head.weight.zero_()
        vae.encoder.head.weight[0, 0] = vae.encoder.head.weight[1, 1] = 1.0
        vae.encoder.head.bias.zero_()
        vae.encoder.head.bias[2:] = -12.0
    return vae


def data(n=600):
    generator = torch.Generator().manual_seed(0)
    cluster = (torch.arange(n) % 10).clamp(max=9).apply_(lambda i: 0 if i < 5 else 1 if i < 9 else 2)
    x = torch.cat((CENTRES[cluster] + 0.5 * torch.randn(n, 2, generator=generator), torch.randn(n, 1, generator=generator)), 1)
    return x.double(), cluster


def test_its_density_is_scikit_learns():
    vae, (x, _) = model(), data()
    sampler = fitted_mixture(vae, x, components=3, seed=5)
    key = vaekit.evaluation.terms.evaluation_key(5)
    z, _ = vae.encode(x).rsample_log_prob(key=key)
    fitted = GaussianMixture(3, covariance_type="diag", random_state=5).fit(z.detach().numpy())
    elsewhere = torch.randn(50, 2, dtype=torch.float64) * 4
    np.testing.assert_allclose(sampler.log_prob(elsewhere).detach().numpy(), fitted.score_samples(elsewhere.numpy()), rtol=1e-9)


def test_draws_fall_where_the_codes_are_as_often_as_they_do():
    vae, (x, cluster) = model(), data()
    sampler = fitted_mixture(vae, x, components=3)
    z = sampler.sample((2000, 2), key=vaekit.make_key(1), dtype=torch.float64)
    distance, nearest = torch.cdist(z, CENTRES.double()).min(1)
    assert (distance < 2.5).all()
    shares = nearest.bincount(minlength=3) / 2000
    for share, expected in zip(shares, cluster.bincount() / len(cluster), strict=True):
        assert abs(share - expected) < 4 * float((expected * (1 - expected) / 2000).sqrt()) + 0.01


def test_samples_of_the_model_take_it_instead_of_the_prior():
    vae, (x, _) = model(), data()
    sampler, key = fitted_mixture(vae, x, components=3), vaekit.make_key(1)
    z = sampler.sample((7, 2), key=key, dtype=torch.float64)
    assert torch.equal(vae.sample(7, prior=sampler, key=key), vae.decode(z))
    assert not torch.equal(vae.sample(7, prior=sampler, key=key), vae.sample(7, key=key))
    with pytest.raises(ValueError, match=r"latents of the shape \(3,\), but the encoder's have \(2,\)"):
        vae.sample(7, prior=vaekit.priors.LearnedGaussian((3,)))


def test_it_does_not_depend_on_the_batches_and_takes_conditions():
    vae, (x, cluster) = model({"name": "labels", "classes": 3}), data()
    whole = fitted_mixture(vae, (x, cluster), components=2)
    for other in (
        fitted_mixture(vae, (x, cluster), components=2, batch_size=37),
        fitted_mixture(vae, DataLoader(torch.utils.data.TensorDataset(x, cluster), batch_size=50), components=2),
    ):
        torch.testing.assert_close(other.state_dict(), whole.state_dict())


def test_latents_with_positions_keep_their_shape():
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, encoder={"name": "conv", "channels": (4,), "spatial": True}, seed=0,
        decoder={"name": "conv", "channels": (4,)},
    )  # fmt: skip
    sampler = fitted_mixture(vae, torch.rand(40, 1, 8, 8), components=2)
    assert sampler.latent_shape == vae.latent_shape == (2, 4, 4)
    assert vae.sample(3, prior=sampler).shape == (3, 1, 8, 8)


def test_fewer_examples_than_components_are_refused():
    with pytest.raises(ValueError, match="a mixture of 10 components needs at least as many examples, got 9"):
        fitted_mixture(model(), data()[0][:9])


def test_fitting_leaves_the_global_generator_alone():
    vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0), torch.rand(50, 4)
    before = torch.random.get_rng_state()
    vaekit.evaluation.fitted_mixture(vae, x, components=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_examples_make_no_mixture():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    with pytest.raises(ValueError, match="the dataset is empty: the loader gave no example"):
        vaekit.evaluation.fitted_mixture(vae, iter([]))
