"""What a model of small pictures goes through that has a posterior of another kind."""

import torch

import vaekit
from vaekit import plots


def assert_it_learns_and_is_saved_and_drawn(vae, folder, pictures):
    """Its loss goes down, what is loaded is the same, more samples give a higher bound, and these are its pictures."""
    x = (torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    before = vaekit.evaluate(vae, x)["loss"]
    vaekit.fit(vae, x, epochs=15, batch_size=12, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, x)["loss"] < before
    again, key = vaekit.load(vae.save(folder / "model")), vaekit.make_key(3)
    assert again.config() == vae.config()
    assert torch.equal(again(x, key=key).total, vae(x, key=key).total)
    bound = vaekit.evaluation.importance_weighted_bound(vae, x, num_samples=50).log_likelihood
    assert bound > -vaekit.evaluate(vae, x)["loss"]
    subject = plots.catalogue.Subject(vae, vaekit.data.as_examples(x))
    assert [picture for picture, figure in plots.catalogue.fitting(subject) if figure.axes] == pictures
