"""Parameters that depend on the condition alone: a dispersion for each gene and batch."""

import pytest
import torch

import vaekit
from vaekit.decoders import MLPDecoder


def test_they_are_linear_in_the_condition_and_do_not_see_the_latents():
    decoder = MLPDecoder(2, (5,), parameters_per_element=3, condition_dim=4, from_condition=(1,))
    z, batch = torch.randn(6, 2), torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    given = decoder(z, batch)
    table = decoder.told.weight.T + decoder.told.bias  # [batches, genes]
    torch.testing.assert_close(given[:, 1], batch @ decoder.told.weight.T + decoder.told.bias)
    torch.testing.assert_close(given[:, 1], table[[0, 1, 2, 3, 0, 1]])
    other = decoder(z + 1.0, batch)
    assert torch.equal(other[:, 1], given[:, 1])
    assert (other[:, [0, 2]] != given[:, [0, 2]]).all()
    assert decoder.output_bias is None


def test_a_model_has_a_dispersion_for_each_gene_and_batch(tmp_path):
    vae = vaekit.create_vae(
        "single-cell",
        input_shape=(20,),
        likelihood={"counts": {"name": "negative_binomial"}},
        decoder={"from_condition": (1,)},
        condition={"name": "labels", "classes": 3},
        seed=0,
    )
    x = torch.poisson(torch.full((9, 20), 4.0))
    vae(x, torch.arange(9) % 3).objective.backward()
    assert vae.decoder.told.weight.grad.abs().amin(1).min() > 0
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again.reconstruct(x, 1), vae.eval().reconstruct(x, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"from_condition": (1,)}, "there is no condition"),
        ({"from_condition": (2,), "condition_dim": 3}, "from 0 to 1"),
        ({"from_condition": (1, 1), "condition_dim": 3}, "different numbers"),
        ({"from_condition": (0, 1), "condition_dim": 3}, "fewer than the 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MLPDecoder(2, (5,), parameters_per_element=2, **options)
