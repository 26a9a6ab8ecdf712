"""Laws of sequences: probabilities add up to 1, drawing step by step is scoring, nothing is seen too early, ends."""

import itertools

import pytest
import torch
from torch.distributions import Categorical

import vaekit
from vaekit.data import sequences
from vaekit.likelihoods import Autoregressive, Likelihood, registry

KEY = vaekit.make_key(2)
TOKENS = {"name": "categorical", "classes": 3}


def likelihood(shape=(4,), step=TOKENS, seed=0, **options):
    torch.manual_seed(seed)
    made = Autoregressive(shape, step, context=5, hidden=7, **options).double().eval()
    with torch.no_grad():
        made.head.weight *= 6.0  # far from uniform
    return made


def context(count):
    return torch.randn(count, 1, 5, generator=torch.Generator().manual_seed(1)).double()


def test_the_probabilities_of_all_sequences_add_up_to_one():
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).double()
    for one in context(3):
        nll = likelihood().nll(one.expand(81, 1, 5), every)
        assert (-nll).exp().sum().item() == pytest.approx(1.0, rel=1e-10)
        assert nll.std() > 0.5


def test_with_an_end_those_of_all_lengths_do():
    every = [items for length in range(4) for items in itertools.product((1, 2), repeat=length)]
    x = sequences(every, end=0).double()
    full = torch.tensor(list(itertools.product((1, 2), repeat=4))).double()  # longer than T: cut before their end
    x = torch.cat([x, full])
    one = likelihood(end=0)
    one.check(x)
    nll = one.nll(context(1).expand(len(x), 1, 5), x)
    assert (-nll).exp().sum().item() == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize(("shape", "step", "end"), [((6,), TOKENS, None), ((6,), TOKENS, 0), ((6, 2), "gaussian", None)])
def test_drawing_step_by_step_is_teacher_forcing(shape, step, end):
    one, parameters = likelihood(shape, step, end=end), context(50)
    drawn = one.sample(parameters, key=KEY)
    one.check(drawn)
    forced = one.step_parameters(parameters, drawn)
    for time in range(6):
        again = one.step.sample(forced[:, time], key=vaekit.fold_in(KEY, time)).reshape(50, *shape[1:])
        there = ~drawn[:, time].isnan()
        torch.testing.assert_close(again[there], drawn[:, time][there], rtol=1e-9, atol=1e-9)
    greedy = one.mean(parameters)
    means = one.step.mean(one.step_parameters(parameters, greedy).flatten(0, 1)).reshape(50, *shape)
    there = ~greedy.isnan()
    torch.testing.assert_close(means[there], greedy[there], rtol=1e-9, atol=1e-9)
    assert torch.equal(one.sample(parameters[20:], key=KEY, row_start=20).nan_to_num(-1), drawn[20:].nan_to_num(-1))
    assert drawn.isnan().any() == (end is not None)


def test_draws_have_the_probabilities_of_the_nll():
    one = likelihood((3,))
    every = torch.tensor(list(itertools.product(range(3), repeat=3))).double()
    probabilities = (-one.nll(context(1).expand(27, 1, 5), every)).exp()
    drawn = one.sample(context(1).expand(40_000, 1, 5), key=KEY).long()
    counts = torch.bincount(drawn @ torch.tensor([9, 3, 1]), minlength=27) / 40_000
    assert (counts - probabilities).abs().max() < 0.01


def test_a_step_sees_those_before_it_and_nothing_else():
    one, x = likelihood((5, 2), "gaussian"), torch.randn(3, 5, 2).double().requires_grad_()
    steps = one.step_parameters(context(3), x)
    for time in range(5):
        (slope,) = torch.autograd.grad(steps[:, time].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)
        assert (slope[:, :time].abs().sum((0, 2)) > 0).all()
        assert (slope[:, time:] == 0).all()


def test_the_nll_is_that_of_torchs_categorical_up_to_the_end():
    one, parameters = likelihood(end=0), context(2)
    x = torch.tensor([[2.0, 1.0, 0.0, torch.nan], [1.0, 2.0, 2.0, 1.0]]).double()
    logits = one.step_parameters(parameters, x)[..., 0]
    by_hand = -Categorical(logits=logits).log_prob(x.nan_to_num(0.0))
    expected = torch.stack([by_hand[0, :3].sum(), by_hand[1].sum()])
    torch.testing.assert_close(one.nll(parameters, x), expected)
    torch.testing.assert_close(one.element_nll(parameters, x.nan_to_num(0.0)), by_hand, rtol=1e-6, atol=1e-6)


def test_hidden_steps_leave_z_alone_in_training_and_nothing_is_hidden_afterwards():
    one, x = likelihood((5, 2), "gaussian", word_dropout=1.0), torch.randn(3, 5, 2).double().requires_grad_()
    parameters = context(3).requires_grad_()
    one.train()
    of_x, of_z = torch.autograd.grad(one.step_parameters(parameters, x).sum(), (x, parameters), materialize_grads=True)
    assert (of_x == 0).all()
    assert (of_z != 0).all()
    (of_x,) = torch.autograd.grad(one.eval().step_parameters(parameters, x).sum(), x)
    assert (of_x[:, :4] != 0).all()


# In a model

WORDS = ["aab", "abb", "ab", "bba", "ba", "baa"]


def words(count=240):
    return sequences([[1 + "ab".index(c) for c in WORDS[number % 6]] for number in range(count)], end=0)


@pytest.mark.parametrize("encoder", ["recurrent", "mlp"])
def test_a_model_of_words_trains_draws_and_is_the_same_after_saving(encoder, tmp_path):
    x = words()
    vae = vaekit.create_vae(
        latent_dim=2,
        encoder={"name": encoder, "hidden": 24 if encoder == "recurrent" else (24,)},
        decoder={"hidden": (16,)},
        likelihood={
            "name": "autoregressive",
            "shape": (4,),
            "step": TOKENS,
            "hidden": 24,
            "context": 16,
            "word_dropout": 0.3,
            "end": 0,
        },
        seed=0,
    )
    before = vaekit.evaluate(vae, x)["loss"]
    vaekit.fit(vae, x, epochs=40, batch_size=60, learning_rate=1e-2, progress=False)
    assert vaekit.evaluate(vae, x)["loss"] < min(before, 3.0)  # log 6 is 1.8, of all words 3 and more
    drawn = vae.sample(200, draw=True, key=KEY)
    vae.likelihood.check(drawn)
    known = {tuple(row.tolist()) for row in x[:6].nan_to_num(-1)}
    assert sum(tuple(row.tolist()) in known for row in drawn.nan_to_num(-1)) > 100
    assert vae.score(x[:6], samples=5).log_likelihood.isfinite().all()
    again = vaekit.load(vae.save(tmp_path))
    assert again.config() == vae.config()
    assert torch.equal(again.sample(5, draw=True, key=KEY).nan_to_num(-1), vae.sample(5, draw=True, key=KEY).nan_to_num(-1))
    assert torch.equal(again.reconstruct(x[:6]).nan_to_num(-1), vae.reconstruct(x[:6]).nan_to_num(-1))


def test_what_is_exported_computes_the_same_for_any_batch(tmp_path):
    vae = vaekit.create_vae(
        latent_dim=2,
        encoder={"name": "recurrent", "hidden": 8},
        likelihood={"name": "autoregressive", "shape": (4,), "step": TOKENS, "end": 0},
        seed=0,
    )
    files = vaekit.export(vae.eval(), tmp_path, to="torch")
    z = torch.randn(5, 2)
    encoder, decoder = (torch.export.load(files[part]).module() for part in ("encoder", "decoder"))
    torch.testing.assert_close(encoder(words(5))[0], vae.encode(words(5)).mean)
    torch.testing.assert_close(decoder(z), vae.decode(z), equal_nan=True)
    assert 0.0 <= vaekit.evaluation.reconstruction_error(vae, words(12))["wrong"] <= 1.0


def test_vectors_of_any_length_with_a_condition_and_another_objective():
    torch.manual_seed(0)
    x = sequences([torch.randn(1 + number % 5, 2).cumsum(0) for number in range(40)])
    vae = vaekit.create_vae(
        latent_dim=2,
        encoder={"name": "recurrent", "hidden": 8},
        likelihood={"name": "autoregressive", "shape": (5, 2), "step": {"name": "gaussian", "variance": "shared"}, "hidden": 8},
        condition={"name": "labels", "classes": 2},
        loss={"name": "iwae", "num_samples": 3},
        seed=0,
    )
    history = vaekit.fit(vae, (x, torch.arange(40) % 2), epochs=3, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    assert vae.sample(4, 1, draw=True).shape == (4, 5, 2)
    shorter = x[:3].clone()
    assert torch.equal(vae.likelihood.nll(torch.zeros(3, 1, 64), shorter), vae.likelihood.nll(torch.zeros(5, 1, 64), x[:5])[:3])
    with pytest.raises(NotImplementedError, match="not imputed"):
        vae.impute((x, torch.arange(40) % 2))


# A sequence likelihood outside the tree: a chain whose transitions the decoder gives


class Chain(Likelihood):
    """p(x_t | x_t-1, z), with a table of logits [3, 3] that the decoder makes of z."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.data_shape = (steps,)

    def decoder_output_shape(self, shape):
        return (9,)

    def nll(self, parameters, x):
        table = parameters[:, 0].unflatten(1, (3, 3)).log_softmax(2)
        numbers = torch.cat([torch.zeros_like(x[:, :1]), x], 1).long()
        rows = torch.arange(len(x))[:, None]
        return -table[rows, numbers[:, :-1], numbers[:, 1:]].sum(1)

    def mean(self, parameters):
        return self.sample(parameters, key=None)

    def sample(self, parameters, *, key, row_start=0):
        table, state = parameters[:, 0].unflatten(1, (3, 3)), torch.zeros(len(parameters), dtype=torch.long)
        steps = []
        for _ in range(self.steps):
            state = table[torch.arange(len(table)), state].argmax(1)
            steps.append(state.to(parameters.dtype))
        return torch.stack(steps, 1)


def test_a_decoder_outside_the_tree_sees_x_too(tmp_path):
    registry.register("chain")(Chain)
    try:
        vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "chain", "steps": 6}, seed=0)
        x = torch.tensor([[1.0, 2.0, 0.0] * 2, [2.0, 1.0, 0.0] * 2]).repeat(30, 1)
        vaekit.fit(vae, x, epochs=60, batch_size=60, learning_rate=1e-2, progress=False)
        assert torch.equal(vae.reconstruct(x[:2]), x[:2])
        assert torch.equal(vaekit.load(vae.save(tmp_path)).reconstruct(x[:2]), x[:2])
    finally:
        registry._parts.pop("chain")


# Mistakes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: likelihood().check(torch.tensor([[1.0, torch.nan, 1.0, 1.0]])), "missing before the end"),
        (lambda: likelihood(end=0).check(torch.tensor([[1.0, 0.0, 1.0, 0.0]])), "nowhere else"),
        (lambda: likelihood(end=0).check(torch.tensor([[1.0, 2.0, torch.nan, torch.nan]])), "end with the token 0"),
        (lambda: likelihood().check(torch.tensor([[1.0, 7.0, 1.0, 0.0]])), "class numbers 0 to 2"),
        (lambda: likelihood(end=3), "end=3 has to be the number of a class"),
        (lambda: likelihood((4, 2), "gaussian", end=0), "in sequences of tokens"),
        (lambda: likelihood((4, 2, 2), "gaussian"), r"\(T,\) of tokens or \(T, F\)"),
        (lambda: likelihood(word_dropout=1.5), "word_dropout"),
        (lambda: likelihood(step={**TOKENS, "missing": "refuse"}), 'missing="ignore"'),
        (lambda: vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder="recurrent"), "reads sequences"),
        (lambda: sequences([]), "got 0"),
        (lambda: sequences([[1.0], [[1.0, 2.0]]]), "one number of features"),
        (lambda: sequences([[[1.0, 2.0]]], end=0), "is a token"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_sequences_are_cut_and_filled():
    assert sequences([[1, 2, 3], []], length=2, end=0).nan_to_num(-1).tolist() == [[1, 2], [0, -1]]
    assert sequences([torch.ones(2, 3), torch.ones(1, 3)]).isnan().sum() == 3
