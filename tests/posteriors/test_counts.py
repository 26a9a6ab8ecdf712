"""num_samples and row_start are whole numbers for every posterior, or refused by name."""

import numpy as np
import pytest
import torch

import vaekit
from vaekit import make_key

CODES = {"prior": "codes", "loss": "vector_quantized"}
UNITS = {name: {"prior": "uniform_sphere"} for name in ("von_mises_fisher", "power_spherical")}
ROUNDING = ("finite_scalar", "lookup_free", "residual_vector_quantized", "vector_quantized")
OPTIONS = {
    **dict.fromkeys(ROUNDING, CODES),
    "gumbel_softmax": {"prior": "codes"},
    "point": {"loss": "autoencoder"},
    **UNITS,
    "wrapped_normal": {"prior": "wrapped_normal"},
}


@pytest.fixture(params=vaekit.posteriors.names())
def posterior(request):
    options = OPTIONS.get(request.param, {})
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=4, posterior=request.param, **options)
    return vae.encode(torch.randn(3, 4))


@pytest.mark.parametrize("option", ["num_samples", "row_start"])
def test_a_count_that_is_not_whole_or_too_small_is_refused_by_name(posterior, option):
    for value in (2.5, 2.0, True, "2"):
        with pytest.raises(TypeError, match=f"{option} has to be a whole number"):
            posterior.rsample(key=make_key(0), **{option: value})
    with pytest.raises(ValueError, match=f"{option} has to be a whole number of at least"):
        posterior.rsample(key=make_key(0), **{option: -1})


def test_a_count_of_numpys_is_one(posterior):
    expected = posterior.rsample(key=make_key(0), num_samples=2, row_start=3)
    assert torch.equal(posterior.rsample(key=make_key(0), num_samples=np.int64(2), row_start=np.uint8(3)), expected)
