"""Laws of learning with missing labels: closed forms, sums by plain loops, the conditional model as a special case."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vaekit
from vaekit import conditions
from vaekit.inferred import InferredLabels

KEY = vaekit.make_key(5)
LABELS = {"name": "inferred_labels", "classes": 3, "classifier": {"hidden": (8,)}}
PRIOR = (0.5, 0.3, 0.2)


def model(loss="semi_supervised", condition=None, **options):
    condition = {**LABELS, "prior": PRIOR} if condition is None else condition
    return vaekit.create_vae(
        input_shape=(4,),
        latent_dim=2,
        encoder={"hidden": (8,)},
        decoder={"hidden": (8,)},
        condition=condition,
        loss=loss,
        likelihood="gaussian",
        seed=1,
        **options,
    ).double()


def data(count=7):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)).double()


def test_with_all_labels_it_is_the_elbo_of_the_conditional_model_and_a_classifier():
    vae, x, y = model({"name": "semi_supervised", "alpha": 2.5}), data(), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    plain = model("elbo", {"name": "labels", "classes": 3})
    plain.encoder.load_state_dict(vae.encoder.state_dict())
    plain.decoder.load_state_dict(vae.decoder.state_dict())
    elbo, terms = plain(x, y, key=KEY), vae(x, y, key=KEY)
    assert torch.equal(terms.reconstruction, elbo.reconstruction)
    assert torch.equal(terms.kl, elbo.kl)
    classifier = F.cross_entropy(vae.condition.classifier(x).mean, y)
    expected = elbo.total - torch.tensor(PRIOR).double().log()[y].mean() + 2.5 * classifier
    torch.testing.assert_close(terms.total, expected, rtol=1e-6, atol=0.0)  # the prior is held in float32


def by_loops(vae, x, y, alpha):
    """The objective of equations 6 to 9, one example and one class at a time."""
    total = 0.0
    for row in range(len(x)):
        probabilities = vae.condition.classifier(x[row : row + 1]).mean.softmax(1)[0]
        costs = []
        for c in range(3):
            told = F.one_hot(torch.tensor([c]), 3).double()
            q = vae.encoder(x[row : row + 1], told)
            z = q.rsample(key=KEY, row_start=row)
            scale = torch.distributions.Normal(vae.decoder(z, told)[:, 0], 1.0)
            nll = -scale.log_prob(x[row : row + 1]).sum()
            posterior = torch.distributions.Normal(q.mean, q.variances.sqrt())
            kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
            costs.append(nll + kl - math.log(PRIOR[c]))
        if y[row] >= 0:
            total = total + costs[y[row]] - alpha * probabilities[y[row]].log()
        else:
            total = total + sum(p * (cost + p.log()) for p, cost in zip(probabilities, costs, strict=True))
    return total / len(x)


@pytest.mark.parametrize("y", [[-1] * 7, [0, -1, 2, -1, -1, 1, -1], [2, 1, 0, 0, 0, 1, 2]], ids=["none", "some", "all"])
def test_it_is_the_sum_over_examples_and_classes_by_plain_loops(y):
    vae, x, y = model({"name": "semi_supervised", "alpha": 2.5}), data(), torch.tensor(y)
    expected, total = by_loops(vae, x, y, 2.5), vae(x, y, key=KEY).total
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0.0)
    weights = list(vae.parameters())
    gradients = zip(*(torch.autograd.grad(value, weights, materialize_grads=True) for value in (total, expected)), strict=True)
    for got, wanted in gradients:
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)


# A discrete toy without anything left to z: p(x | c) is a table.


class Table(vaekit.Decoder):
    """Logits of x, one number, that depend on the class alone."""

    def __init__(self):
        super().__init__(1, (1,), 4, condition_dim=3)
        self.logits = torch.nn.Parameter(torch.tensor([[0.0, 1.0, 2.0, -1.0], [3.0, 0.0, 0.0, 0.0], [0.5, 0.5, -2.0, 1.5]]))

    def forward(self, z, condition):
        return (condition @ self.logits)[:, :, None]


class Nothing(vaekit.Encoder):
    """The standard normal, whatever x is."""

    def __init__(self):
        super().__init__((4,), 1, condition_dim=3)

    def forward(self, x, condition):
        zeros = 0.0 * x[:, :1]
        return vaekit.DiagonalGaussian(zeros, zeros)


class Exact(vaekit.Encoder):
    """log p(c | x) of the toy, by Bayes' rule."""

    def __init__(self, table, of_prior):
        super().__init__((4,), 3)
        self.joint = torch.log_softmax(table, 1).T + of_prior.log()

    def forward(self, x):
        return vaekit.DiagonalGaussian(x @ self.joint, torch.zeros(len(x), 3))


def toy(classifier):
    return vaekit.VAE(
        Nothing(),
        Table(),
        likelihood=vaekit.likelihoods.Categorical(4),
        condition=InferredLabels(3, (4,), classifier=classifier, prior=PRIOR),
        loss=vaekit.losses.SemiSupervised(),
    )


X = torch.arange(4.0)[:, None]
JOINT = (torch.log_softmax(Table().logits.detach(), 1).double() + torch.tensor(PRIOR).double().log()[:, None]).T  # [x, c]


def test_with_the_exact_classifier_the_bound_is_log_p_of_x():
    vae = toy(Exact(Table().logits.detach(), torch.tensor(PRIOR)))
    terms = vae(X, key=KEY)
    bound = terms.reconstruction + terms.kl + terms.extras["class"]
    torch.testing.assert_close(bound.double(), -JOINT.logsumexp(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vae.classify(X, probabilities=True).double(), JOINT.softmax(1), rtol=1e-6, atol=1e-7)
    assert torch.equal(vae.classify(X), JOINT.argmax(1))


def test_with_another_classifier_it_is_larger_by_the_divergence_of_the_classes():
    vae = toy("mlp")
    terms = vae(X, key=KEY)
    log_q = vae.condition.log_posterior(vae.likelihood.encoder_input(X)).double()
    slack = (log_q.exp() * (log_q - JOINT.log_softmax(1))).sum(1)
    bound = (terms.reconstruction + terms.kl + terms.extras["class"]).double()
    torch.testing.assert_close(bound, -JOINT.logsumexp(1) + slack, rtol=1e-6, atol=1e-6)
    assert (slack > 1e-3).all()


def test_scores_without_a_label_are_log_p_of_x_and_with_it_log_p_of_x_given_it():
    vae = toy(Exact(Table().logits.detach(), torch.tensor(PRIOR)))
    log_likelihood = vaekit.evaluation.score(vae, X, samples=20).log_likelihood
    torch.testing.assert_close(log_likelihood, JOINT.logsumexp(1), rtol=1e-6, atol=1e-6)
    y = torch.tensor([2, -1, 0, 1])
    given = JOINT - torch.tensor(PRIOR).double().log()
    expected = torch.where(y >= 0, given[torch.arange(4), y], JOINT.logsumexp(1))
    log_likelihood = vaekit.evaluation.score(vae, (X, y), samples=20).log_likelihood
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-6, atol=1e-6)
    blind = toy({"name": "mlp", "hidden": (4,)})  # weights correct for a classifier that is wrong
    bound = vaekit.evaluation.importance_weighted_bound(blind, X, num_samples=20_000)
    assert abs(bound.per_example - JOINT.logsumexp(1)).max() < 0.03


def test_samples_without_a_label_have_the_frequencies_of_p_of_x():
    drawn = toy("mlp").sample(40_000, draw=True, key=KEY)[:, 0].long()
    frequencies = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (frequencies - JOINT.exp().sum(1)).abs().max() < 0.01
    of_one = torch.bincount(toy("mlp").sample(40_000, 1, draw=True, key=KEY)[:, 0].long(), minlength=4) / 40_000
    assert (of_one - (JOINT[:, 1].exp() / PRIOR[1])).abs().max() < 0.01


# How it is used


def clusters(count=300, seed=0):
    """Three groups of points, of which a few have a label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 1.0, 0.0], [-2.0, -2.0, 2.0, 2.0]])
    return centres[y] + torch.randn(count, 4, generator=generator), y


def test_it_learns_from_few_labels_and_is_the_same_after_saving(tmp_path):
    x, y = clusters()
    some = torch.where(torch.arange(300) < 9, y, -1)
    vae = model(condition=LABELS).float()
    history = vaekit.fit(
        vae, (x, some), epochs=30, batch_size=50, learning_rate=1e-2, progress=False, validation=(x[:50], y[:50])
    )
    assert {"val_class", "val_classification"} <= set(history)
    accuracy = (vae.classify(x) == y).float().mean()
    assert accuracy > 0.9
    quality = vaekit.evaluation.classification(vae, (x, y))
    assert quality.accuracy == pytest.approx(float(accuracy))
    assert quality.examples == 300
    expected = -vae.classify(x, probabilities=True)[torch.arange(300), y].log().mean()
    assert quality.log_loss == pytest.approx(float(expected), rel=1e-5)
    assert quality.confusion.sum(1).tolist() == torch.bincount(y).tolist()
    assert int(quality.confusion.diagonal().sum()) == int(accuracy * 300 + 0.5)
    assert vaekit.evaluation.classification(vae, (x, some)).examples == 9
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again.classify(x, probabilities=True), vae.classify(x, probabilities=True))
    assert again.config() == vae.config()


def test_a_table_in_which_labels_are_missing_is_learned_from(tmp_path):
    pandas = pytest.importorskip("pandas")
    x, y = clusters(60)
    kinds = np.array(["ash", "birch", "elm"], dtype=object)[y]
    kinds[10:] = None
    frame = pandas.DataFrame({**{f"x{i}": x[:, i].numpy() for i in range(4)}, "kind": kinds})
    train = vaekit.data.as_examples(frame, label="kind")
    assert train.label_names == ("ash", "birch", "elm")
    condition = {**LABELS, "names": train.label_names, "column": "kind"}
    vae = model(condition=condition).float()
    vaekit.fit(vae, frame, epochs=2, progress=False, out=tmp_path / "run")
    assert vae.sample(3, "birch").shape == (3, 4)
    assert vae(x[:3], [None, "elm", "ash"], key=KEY).extras["classification"].gt(0).tolist() == [False, True, True]
    assert vaekit.evaluate(vae, frame)["loss"] == pytest.approx(vaekit.evaluate(vae, (train.x, train.y))["loss"])


def test_where_a_label_is_missing_the_most_probable_one_is_told():
    vae, x = model(), data()
    guessed = vae.classify(x)
    assert len(set(guessed.tolist())) > 1
    torch.testing.assert_close(vae.reconstruct(x), vae.reconstruct(x, guessed))
    y = torch.where(torch.arange(7) % 2 == 0, -1, 2)
    assert vae.completed(x, y).tolist() == torch.where(y < 0, guessed, y).tolist()
    torch.testing.assert_close(vae.encode(x, y).mean, vae.encode(x, vae.completed(x, y)).mean)
    with pytest.raises(ValueError, match=r"missing \(-1\) in 4 of 7 examples.*vae.completed"):
        vae.natural_parameters(torch.zeros(7, 2).double(), y)


def test_imputed_values_are_those_of_the_classes_that_are_drawn():
    """Half of x says which class it is of, and so what the other half is."""
    vae = toy(Exact(Table().logits.detach(), torch.tensor(PRIOR)))
    vae.likelihood.missing = "ignore"
    filled = vaekit.evaluation.impute(vae, torch.full((2000, 1), torch.nan), draws=1, samples=50)
    # Without x the classifier sees zeros, q(c) is uniform, and the weights make p(c) of it.
    frequencies = torch.bincount(filled.draws.flatten().long(), minlength=4) / 2000
    assert (frequencies - JOINT.exp().sum(1)).abs().max() < 0.04


def test_pictures_and_exported_networks_take_missing_labels(tmp_path):
    from vaekit.plots import catalogue

    vae, (x, y) = model(condition=LABELS).float().eval(), clusters(20)
    y = torch.where(torch.arange(20) % 2 == 0, -1, y)
    assert "traversals" in dict(catalogue.fitting(catalogue.Subject(vae, vaekit.data.Examples(x, y))))
    files = vaekit.export(vae, tmp_path, to="torch")
    program = torch.export.load(files["encoder"]).module()
    torch.testing.assert_close(program(x[:5], y[:5])[0], vae.encode(x[:5], y[:5]).mean)


# A condition outside the tree that is inferred: two switches at once, all four settings of which are summed over


class Switches(vaekit.Condition):
    dim, given_as, infers = 2, "two switches, 0 or 1 each, [batch, 2]; -1 where they are missing", True

    def __init__(self, input_shape):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, condition):
        return condition.to(self.linear.weight.dtype)

    def as_rows(self, condition, count):
        rows = torch.full((1, 2), -1) if condition is None else torch.as_tensor(condition)
        return rows.expand(count, 2)

    def check(self, condition):
        if not ((condition >= -1) & (condition <= 1)).all():
            raise ValueError(f"the condition is {self.given_as}")

    def all_values(self):
        return torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])

    def log_prior(self):
        return torch.full((4,), 0.25).log().to(self.linear.weight)

    def log_posterior(self, x):
        return self.linear(x).log_softmax(1)


@pytest.fixture
def _registered():
    conditions.registry.register("switches")(Switches)
    yield
    conditions.registry._parts.pop("switches")


@pytest.mark.usefixtures("_registered")
def test_a_condition_of_ones_own_is_inferred_too(tmp_path):
    vae = model(condition="switches").float()
    x, y = data(40).float(), torch.tensor([[0, 1], [-1, -1]]).repeat(20, 1)
    terms = vae(x, y, key=KEY)
    assert terms.extras["classification"].gt(0).tolist() == [True, False] * 20
    vaekit.fit(vae, (x, y), epochs=1, progress=False)
    assert vae.classify(x).shape == (40, 2)
    assert vaekit.load(vae.save(tmp_path)).score(x, samples=2).log_likelihood.isfinite().all()


# Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"condition": {"name": "labels", "classes": 3}},
            'this one has the condition Labels; take the condition "inferred_labels"',
        ),
        ({"loss": "elbo"}, 'the condition InferredLabels may be missing.*take the loss "semi_supervised"'),
        ({"condition": {**LABELS, "prior": (0.5, 0.6, 0.1)}}, "add up to 1, those given to 1.2"),
        ({"condition": {**LABELS, "prior": (0.5, 0.5)}}, "3 probabilities, one for each class"),
        ({"condition": {**LABELS, "input_shape": (5,)}}, r"reads data of shape \(5,\), but the encoder \(4,\)"),
        (
            {"condition": {**LABELS, "classifier": vaekit.encoders.create("mlp", input_shape=(4,), latent_dim=2)}},
            "give 3 numbers, one for each class",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        model(**options)


def test_a_model_without_classes_does_not_classify():
    plain = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    for call in (lambda: plain.classify(torch.rand(2, 4)), lambda: vaekit.evaluation.classification(plain, torch.rand(2, 4))):
        with pytest.raises(TypeError, match="inferred_labels"):
            call()
    with pytest.raises(ValueError, match="no example has a label"):
        vaekit.evaluation.classification(model(condition=LABELS).float(), torch.rand(3, 4))
