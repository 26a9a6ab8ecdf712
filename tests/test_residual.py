"""Blocks that are computed again in backward: the same gradients from less that is kept."""

import pytest
import torch

import vaekit

KEY = vaekit.make_key(3)


def composed(checkpointing, **options):
    both = {"name": "resnet", "blocks": 2, "attention": True, "checkpointing": checkpointing, **options}
    vae = vaekit.create_vae(
        input_shape=(3, 16, 16), latent_dim=2, likelihood="gaussian", seed=0,
        encoder={**both, "channels": (8, 12), "spatial": True}, decoder={**both, "channels": (12, 8)},
        condition={"name": "labels", "classes": 3},
    )  # fmt: skip
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return vae


def step(vae, precision=None):
    """The total, the gradients, and how many numbers the graph kept for them."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", precision, precision is not None),
    ):
        terms = vae(x, torch.tensor([0, 1, 2, 0]), key=KEY, step=0)
    before_backward = sum(kept.values()) - sum(p.numel() * 4 for p in vae.parameters())
    terms.total.backward()
    return terms.total.detach(), [parameter.grad for parameter in vae.parameters()], before_backward


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_gradients_are_the_same_and_less_is_kept(dropout, precision):
    plain = step(composed(False, dropout=dropout), precision)
    recomputed = step(composed(True, dropout=dropout), precision)
    assert torch.equal(plain[0], recomputed[0])
    for ours, theirs in zip(recomputed[1], plain[1], strict=True):
        assert torch.equal(ours, theirs)
    assert recomputed[2] < 0.5 * plain[2]


def test_it_is_saved_with_the_model(tmp_path):
    again = vaekit.load(composed(True).save(tmp_path))
    assert again.config()["decoder"]["checkpointing"] is True
    assert step(again)[2] < 0.5 * step(composed(False))[2]


def test_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="see every batch twice"):
        composed(True, normalization="batch")
    with pytest.raises(TypeError, match="checkpointing has to be True or False"):
        composed("yes")
