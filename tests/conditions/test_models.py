"""Conditional models: what they are told reaches every figure, each example its own, and one linear model is known exactly."""

import pytest
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit.evaluation import importance_weighted_bound, latent_statistics, reconstruction_error

LABELS = {"name": "labels", "classes": 3}
VECTOR = {"name": "vector", "size": 2}
LINEAR = {"name": "mlp", "hidden": ()}
Y = torch.arange(12) % 3
X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 1.5


def model(condition=LABELS, **parts) -> vaekit.VAE:
    parts = {"encoder": {"hidden": (16,)}, "decoder": {"hidden": (16,)}, "likelihood": "gaussian", "seed": 3, **parts}
    return vaekit.create_vae(input_shape=(5,), latent_dim=2, condition=condition, **parts)


def conditions(kind, n=12):
    return Y[:n] if kind is LABELS else torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture(
    params=[LABELS, VECTOR, {**LABELS, "dim": 4}, {**VECTOR, "dim": 4}], ids=["one-hot", "vector", "embedding", "layer"]
)
def kind(request):
    return request.param


def given(kind, n=12):
    return Y[:n] if kind["name"] == "labels" else torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


def test_every_figure_of_an_example_depends_on_its_own_condition_alone(kind):
    vae, c, key = model(kind), given(kind), vaekit.make_key(0)
    terms = vae(X, c, key=key)
    for row in (0, 7):
        alone = vae(X[row : row + 1], c[row : row + 1], key=key, row_start=row)
        for name in ("reconstruction", "kl"):
            torch.testing.assert_close(getattr(terms, name)[row : row + 1], getattr(alone, name), rtol=1e-5, atol=1e-5)
    other = c.roll(1, 0)
    assert (vae(X, other, key=key).reconstruction != terms.reconstruction).all()
    assert (vae(X, other, key=key).kl != terms.kl).all()


def test_one_value_stands_for_all(kind):
    vae, key, one = model(kind), vaekit.make_key(0), given(kind)[1]
    every = one.expand(12, *one.shape)
    assert torch.equal(vae.reconstruct(X, one), vae.reconstruct(X, every))
    assert torch.equal(vae.decode(torch.ones(12, 2), one), vae.decode(torch.ones(12, 2), every))
    assert torch.equal(vae.sample(12, one, key=key), vae.sample(12, every, key=key))
    assert torch.equal(vae.sample(12, one, draw=True, key=key), vae.sample(12, every, draw=True, key=key))
    assert torch.equal(vae(X, one, key=key).reconstruction, vae(X, every, key=key).reconstruction)
    assert vae.sample(0, one).shape == vae.sample(0, []).shape == (0, *X.shape[1:])
    if kind["name"] == "labels":
        assert torch.equal(vae.sample(12, int(one), key=key), vae.sample(12, every, key=key))


def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    vae, c, key = model(kind), given(kind), vaekit.make_key(0)
    again = vaekit.load(vae.save(tmp_path))
    assert again.config()["condition"] == kind
    assert torch.equal(again(X, c, key=key).reconstruction, vae(X, c, key=key).reconstruction)
    assert "condition" not in model(None).config()


def test_in_double_precision_too(kind):
    vae, c = model(kind).double(), given(kind)
    c = c.double() if c.is_floating_point() else c
    assert vae(X.double(), c).total.dtype == torch.float64


def test_the_bound_is_the_exact_likelihood_of_a_linear_model_given_its_condition():
    vae = model(LABELS, encoder=LINEAR, decoder=LINEAR, likelihood={"name": "gaussian", "sigma": 0.8}).double()
    weights = vae.decoder.head.weight.detach()
    weights[:, :2] *= 0.3  # draws from the prior, which the encoder then gives, are good ones
    vae.encoder.head.weight.data.zero_()
    weights[:, 2:] *= 3.0
    w, v = weights[:, :2], weights[:, 2:]  # of z and of the one-hot label
    covariance = w @ w.mT + 0.8**2 * torch.eye(5, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(vae.decoder.head.bias.detach() + v.mT[Y], covariance).log_prob(X.double())
    bound = importance_weighted_bound(vae, (X.double(), Y), num_samples=20000, batch_size=5)
    assert abs(bound.log_likelihood - float(exact.mean())) < 4 * bound.standard_error
    assert bound.standard_error < 0.05
    one = importance_weighted_bound(vae, (X.double(), Y), num_samples=1)  # whose draws depend on what the encoder is told
    told = model(LABELS, encoder=LINEAR, decoder=LINEAR, likelihood={"name": "gaussian", "sigma": 0.8}).double()
    key = vaekit.fold_in(vaekit.make_key(0), 2)
    z, ratio = told.encode(X.double(), Y).rsample_log_ratio(told.prior, key=key)
    nll = told.likelihood.nll(told.natural_parameters(z, Y), X.double())
    assert not torch.equal(one.per_example, -(nll + ratio))
    per_example = importance_weighted_bound(told, (X.double(), Y), num_samples=1).per_example
    torch.testing.assert_close(per_example, -(nll + ratio).detach())
    wrong = importance_weighted_bound(vae, (X.double(), (Y + 1) % 3), num_samples=20000)
    assert (wrong.per_example - exact).abs().median() > 1.0


@pytest.mark.parametrize(
    "figures", [vaekit.evaluate, reconstruction_error, lambda *a, **o: {"kl": latent_statistics(*a, **o).kl.tolist()}]
)
def test_figures_of_a_dataset_are_those_of_its_batches_in_every_form(figures, kind):
    vae, c = model(kind), given(kind)
    expected = figures(vae, (X, c))
    dataset = torch.utils.data.TensorDataset(X, c)
    loaders = [
        DataLoader(dataset, batch_size=5),
        DataLoader([{"x": x, "y": y} for x, y in dataset], batch_size=5),
        DataLoader(vaekit.data.load((X, c), validation=0.5)[0], batch_size=5),
    ]
    for data in ((X, c), (X.numpy(), c.numpy()), *loaders[:2]):
        for name, value in figures(vae, data, batch_size=5).items():
            assert value == pytest.approx(expected[name], rel=1e-5)
    other = figures(vae, (X, c.roll(1, 0)))
    assert all(value != pytest.approx(expected[name], rel=1e-3) for name, value in other.items())
    assert len(list(loaders[2].dataset)) == 6
    figures(vae, loaders[2])


def test_fit_learns_what_only_the_condition_says():
    """x is the class's row of a table and noise: given the class, the latent space need not say which class it is."""
    table = torch.tensor([[3.0, 0, 0, 0, 0], [0, -3.0, 0, 0, 3.0], [0, 0, 0, 3.0, 0]])
    y = torch.arange(600) % 3
    x = table[y] + 0.1 * torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    vae = model(LABELS, encoder={"hidden": (16,), "condition_dim": 0}, likelihood={"name": "gaussian", "sigma": 0.5})
    history = vaekit.fit(vae, (x, y), validation=(x, y), epochs=25, batch_size=50, learning_rate=1e-2, progress=False)
    assert history["val_kl"][-1] < 0.3
    for label in range(3):
        assert torch.allclose(vae.sample(50, label, key=vaekit.make_key(1)).mean(0), table[label], atol=0.3)


def test_training_from_a_loader_is_training_on_its_batches(kind):
    c = given(kind)

    def trained(data):
        vae = model(kind)
        vaekit.fit(vae, data, epochs=1, batch_size=12, progress=False, device="cpu")
        return torch.cat([p.detach().flatten() for p in vae.parameters()])

    whole = trained(DataLoader(torch.utils.data.TensorDataset(X, c), batch_size=12))
    assert torch.equal(whole, trained([{"x": X, "y": c}]))
    assert not torch.equal(whole, trained([(X, c.roll(1, 0))]))


def test_an_encoder_may_be_left_untold():
    vae = model(LABELS, encoder={"hidden": (16,), "condition_dim": 0})
    assert torch.equal(vae.encode(X, Y).mean, vae.encode(X, (Y + 1) % 3).mean)
    assert not torch.equal(vae.reconstruct(X, Y), vae.reconstruct(X, (Y + 1) % 3))
    with pytest.raises(ValueError, match="condition_dim=0.*condition_dim=3"):
        model(LABELS, decoder={"hidden": (16,), "condition_dim": 0})
    with pytest.raises(ValueError, match="told nothing besides x"):
        model(None, encoder={"hidden": (16,), "condition_dim": 3})


class Untold(vaekit.Encoder):
    """Knows nothing of conditions."""

    def __init__(self, input_shape, latent_dim):
        super().__init__(input_shape, latent_dim)
        self.layer = torch.nn.Linear(5, 2 * latent_dim)

    def forward(self, x):
        return self.posterior(self.layer(x))


def test_a_network_of_ones_own_that_takes_no_condition_is_refused_by_name(own_registries):
    vaekit.encoders.registry.register("untold")(Untold)
    assert model(None, encoder="untold")(X).total.isfinite()
    with pytest.raises(TypeError, match="'untold'.*condition_dim"):
        model(LABELS, encoder="untold")
    vae = vaekit.VAE(
        Untold((5,), 2),
        vaekit.decoders.MLPDecoder(2, (5,), condition_dim=3),
        likelihood=vaekit.likelihoods.Gaussian(),
        condition=vaekit.conditions.Labels(3),
    )
    assert vae(X, Y).total.isfinite()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: v(X), "conditional, but no condition was given; it is a class number from 0 to 2"),
        (lambda v: v.encode(X), "no condition was given"),
        (lambda v: v.decode(torch.zeros(1, 2)), "no condition was given"),
        (lambda v: v.sample(3), "no condition was given"),
        (lambda v: v.reconstruct(X), "no condition was given"),
        (lambda v: v(X, Y[:5]), r"got the shape \(5,\) for 12 example"),
        (lambda v: v(X, Y + 1), "from 0 to 2 .*; got 3"),
        (lambda v: vaekit.evaluate(v, X), r"conditional: give the condition of each example as well, \(x, y\)"),
        (lambda v: vaekit.fit(v, X, progress=False), r"conditional: give the condition"),
        (lambda v: vaekit.fit(v, (X, Y + 1), progress=False), "train: the condition is a class number from 0 to 2 .*; got 3"),
        (lambda v: vaekit.fit(v, (X, Y), validation=X, progress=False), r"conditional: give the condition"),
        (lambda v: vaekit.evaluate(v, [{"x": X}]), 'needs the key "y"'),
        (lambda v: vaekit.evaluate(v, [{"x": X, "y": Y - 1}]), r"batch 0: the condition .* missing \(-1\) in 4 of 12"),
        (lambda v: vaekit.evaluate(v, [{"x": X, "y": Y - 2}]), "batch 0: the condition .* got -2"),
    ],
)
def test_a_condition_that_is_missing_or_wrong_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(model())


def test_a_loader_without_a_condition_is_refused():
    with pytest.raises(TypeError, match=r"\(x, y\).*conditional.*NoneType"):
        vaekit.evaluate(model(), [X])
    with pytest.raises(ValueError, match=r"condition.*\(12, 2\)"):
        vaekit.evaluate(model(), (X, torch.randn(12, 2)))
    with pytest.raises(TypeError, match=r"condition.*int64.*float\(\)"):
        vaekit.evaluate(model(VECTOR), vaekit.data.Examples(X, torch.ones(12, 2, dtype=torch.long)))


def test_vectors_of_another_precision_are_converted():
    vae, c, key = model(VECTOR), given(VECTOR), vaekit.make_key(0)
    assert torch.equal(vae(X, c.double(), key=key).total, vae(X, c.double().float(), key=key).total)
    assert vae.double().sample(2, [0.5, 1.0]).dtype == torch.float64
    assert vaekit.evaluate(vae, (X.double(), c))["loss"] == pytest.approx(vaekit.evaluate(vae, (X.double(), c.double()))["loss"])


def test_a_condition_for_a_model_without_one_is_refused_but_labels_beside_the_data_are_not():
    vae = model(None)
    with pytest.raises(ValueError, match="condition.*the model has none"):
        vae(X, Y)
    assert vaekit.evaluate(vae, (X, Y)) == vaekit.evaluate(vae, X)


def test_what_is_no_condition_is_refused():
    with pytest.raises(TypeError, match=r"condition .*vaekit.Condition"):
        model(condition=3)
    with pytest.raises(vaekit.UnknownNameError, match="Did you mean 'labels'"):
        model(condition={"name": "label"})


@pytest.mark.compile
def test_it_compiles_in_one_graph(kind):
    vae, c, key = model(kind), given(kind), vaekit.make_key(0)
    compiled = torch.compile(lambda x, c, key: vae(x, c, key=key).total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, c, key), vae(X, c, key=key).total)
