"""Laws of looking: what `reconstruct` and `sample` show is the model in evaluation mode, and looking changes nothing."""

import copy

import pytest
import torch
from helpers.memory import LargestTensor

import vaekit
from vaekit import pieces as pieces_module

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
SMALL = {"input_shape": X.shape[1:], "latent_dim": 2, "seed": 0}
CODEBOOK = {"posterior": {"name": "vector_quantized", "codes": 4}, "prior": "codes", "loss": "vector_quantized"}
CONV = {"encoder": {"name": "conv", "channels": (4, 4)}, "decoder": {"name": "conv", "channels": (4, 4)}}
MODELS = {
    "dropout": {"encoder": {"hidden": (9,), "dropout": 0.5}, "decoder": {"hidden": (9,), "dropout": 0.5}},
    "batch normalisation": {part: {**CONV[part], "normalization": "batch"} for part in CONV},
    "codebook": {**CONV, **CODEBOOK, "encoder": {**CONV["encoder"], "spatial": True}},
    "vamp prior": {
        "encoder": {"hidden": (9,), "dropout": 0.5},
        "decoder": {"hidden": (9,), "normalization": "batch"},
        "prior": "vamp",
    },
}


def modes(vae):
    return {name: module.training for name, module in vae.named_modules()}


@pytest.fixture(params=MODELS, ids=str)
def vae(request):
    """A model whose modules have something to move, a step or two into training, some of them in either mode."""
    vae = vaekit.create_vae(**SMALL, **MODELS[request.param]).train()
    for _ in range(2):
        vae(X)
    for module in list(vae.modules())[::3]:
        module.training = False
    return vae


LOOKS = {
    "reconstruct": lambda vae: vae.reconstruct(X),
    "reconstruct one": lambda vae: vae.reconstruct(X[:1]),
    "sample": lambda vae: vae.sample(5, key=vaekit.make_key(0)),
    "sample one": lambda vae: vae.sample(1, key=vaekit.make_key(0)),
    "draw": lambda vae: vae.sample(5, draw=True, key=vaekit.make_key(0)),
    "evaluate": lambda vae: torch.tensor(list(vaekit.evaluate(vae, X).values())),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_shows_the_evaluation_mode_and_changes_nothing(vae, look):
    state, before = copy.deepcopy(vae.state_dict()), modes(vae)
    shown = look(vae)
    assert torch.equal(look(vae), shown)
    assert modes(vae) == before
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    torch.testing.assert_close(look(copy.deepcopy(vae).eval()), shown)


def test_looking_at_a_model_that_raises_leaves_its_mode():
    vae = vaekit.create_vae(**SMALL)
    with pytest.raises(ValueError, match="shape"):
        vae.reconstruct(X[:, :2])
    with pytest.raises(ValueError, match="condition"):
        vae.sample(3, condition=1)
    assert all(modes(vae).values())


def test_in_evaluation_mode_the_objective_moves_nothing_either(vae):
    vae.eval()
    state = copy.deepcopy(vae.state_dict())
    vae(X)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, state[name]), name


# In pieces.


@pytest.mark.parametrize("condition", [None, Y, torch.tensor(2)], ids=["none", "rows", "one"])
@pytest.mark.parametrize("draw", [False, True])
def test_pieces_give_what_the_whole_gives(monkeypatch, condition, draw):
    labels = None if condition is None else {"name": "labels", "classes": 3}
    vae = vaekit.create_vae(**SMALL, likelihood="gaussian", condition=labels).double()
    key = vaekit.make_key(3)
    whole = vae.sample(12, condition, draw=draw, key=key), vae.reconstruct(X.double(), condition)
    for elements in (1, 5 * X[0].numel(), 11 * X[0].numel()):
        monkeypatch.setattr(pieces_module, "_PIECE_ELEMENTS", elements)
        pieces = vae.sample(12, condition, draw=draw, key=key), vae.reconstruct(X.double(), condition)
        torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


def test_many_are_decoded_without_the_activations_of_all():
    vae = vaekit.create_vae(input_shape=(1, 28, 28), latent_dim=2, decoder={"name": "conv", "channels": (64, 32)})
    count, most = 4000, 32 * 28 * 28  # activations of one example
    x = torch.rand(count, 1, 28, 28)
    with LargestTensor() as largest:
        vae.sample(count)
        vae.reconstruct(x)
    assert largest.elements <= max(x.numel(), most * (pieces_module._PIECE_ELEMENTS // 784))
    assert largest.elements < most * count / 5


def test_many_are_drawn_without_the_parameters_of_all():
    likelihood = {"name": "discretized_logistic", "components": 2}
    vae = vaekit.create_vae(input_shape=(1, 16, 16), latent_dim=2, likelihood=likelihood, decoder={"hidden": (4,)})
    count = 10 * pieces_module._PIECE_ELEMENTS // 256
    with LargestTensor() as largest:
        vae.sample(count, draw=True)
    assert largest.elements < count * 6 * 256 / 5  # where p(x | z) has 6 parameters for each element


def test_none_are_shown_as_none():
    vae = vaekit.create_vae(**SMALL)
    assert vae.sample(0).shape == vae.sample(0, draw=True).shape == vae.reconstruct(X[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("n", [10**12, 10**30])
def test_more_samples_than_memory_holds_are_refused_at_once(n):
    with pytest.raises(MemoryError, match=f"{n:,}"):
        vaekit.create_vae(**SMALL).sample(n)


def test_a_prior_that_is_given_is_looked_at_in_evaluation_mode_too():
    class Noisy(vaekit.Prior):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def log_prob(self, z):
            return torch.zeros(len(z))

        def sample(self, shape, *, key, dtype, row_start=0):
            return self.dropout(torch.ones(shape, dtype=dtype))

    prior = Noisy().train()
    vae = vaekit.create_vae(**SMALL)
    torch.testing.assert_close(vae.sample(4, prior=prior), vae.decode(torch.ones(4, 2)))
    assert prior.dropout.training
