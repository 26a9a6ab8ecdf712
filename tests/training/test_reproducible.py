"""Laws of a run's repetition: one seed fixes weights, order and noise, however many workers load the data."""

import pytest
import torch
from helpers.small_runs import X, fit, model, weights
from torch.utils.data import DataLoader, TensorDataset

import vaekit


@pytest.mark.parametrize("options", [{"num_workers": 1, "prefetch_factor": 5}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("generator", [False, True])
def test_order_and_noise_are_the_same_at_any_number_of_data_workers(options, generator):
    trained = []
    for given in ({"num_workers": 0}, options):
        vae = model(encoder={"hidden": (8,), "dropout": 0.5})
        own = {"generator": torch.Generator().manual_seed(1)} if generator else {}
        fit(vae, DataLoader(TensorDataset(X), batch_size=16, shuffle=True, **own, **given), epochs=3)
        trained.append(weights(vae))
    assert torch.equal(*trained)


def test_one_seed_gives_the_same_files_again_and_another_seed_others(tmp_path):
    def files(name, seed):
        torch.manual_seed(seed + 17)  # the global generator does not matter
        parts = {"encoder": {"hidden": (8,), "dropout": 0.5}, "decoder": {"hidden": (8,)}}
        vae = vaekit.create_vae(input_shape=(6,), latent_dim=2, seed=seed, **parts)
        fit(vae, validation=X[:10], seed=seed, out=tmp_path / name)
        kept = ("history.csv", "best/model.safetensors", "best/config.json", "last/model.safetensors", "last/config.json")
        return [(tmp_path / name / file).read_bytes() for file in kept]

    first, again, other = files("first", 3), files("again", 3), files("other", 4)
    assert first == again
    assert first[0] != other[0]
    assert first[3] != other[3]
