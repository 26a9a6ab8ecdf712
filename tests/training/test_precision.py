"""The precision of a run: what is chosen, what a step computes in it, and how gradients in float16 are kept in its range."""

import sys
import warnings

import pytest
import torch
from helpers.small_runs import X, fit, model, weights
from helpers.spoiled import spoil

import vaekit
from vaekit import NonFiniteLossError, losses
from vaekit.evaluation.terms import evaluation_key, mean_terms
from vaekit.training import FitOptions
from vaekit.training.engine import Engine
from vaekit.training.precision import Precision
from vaekit.training.scaling import SMALLEST, Scaler

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
LOWER = pytest.mark.parametrize("precision", ["bf16", "16"])


class Scaled(losses.Elbo):
    """The bound, times a number: the larger it is, the further gradients are beyond float16."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        return terms._replace(total=self.factor * terms.total)


class Watching(vaekit.Callback):
    """The weights after every step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, state):
        self.weights.append(weights(state.vae))


@pytest.fixture
def scalers(monkeypatch):
    """The scalers of the runs, in their order."""
    made = []

    class Kept(Scaler):
        def __init__(self, device):
            super().__init__(device)
            made.append(self)

    monkeypatch.setattr("vaekit.training.engine.Scaler", Kept)
    return made


# What is chosen.


def test_the_weights_dtype_is_the_default():
    assert torch.equal(trained(), trained(precision="32"))
    assert torch.equal(trained(precision=32), trained(precision="32"))
    assert FitOptions() == FitOptions(precision=32)
    assert FitOptions(precision=16).precision == "16"


@pytest.mark.parametrize("precision", ["64", "bf-16", 8, None])
def test_another_precision_is_refused(precision):
    for call in (lambda: FitOptions(precision=precision), lambda: Engine("cpu", precision)):
        with pytest.raises(ValueError, match="precision has to be one of '32', 'bf16', '16', 'auto'"):
            call()


@LOWER
def test_weights_in_float64_have_no_lower_precision(precision):
    vae = model()
    vae.decoder.double()
    for each in (model().double(), vae):
        with pytest.raises(TypeError, match=rf'precision="{precision}".*float64.*vae\.float\(\)'):
            fit(each, X.double(), precision=precision)


def test_a_device_without_autocast_is_refused():
    with pytest.raises(ValueError, match='"bf16" needs autocast to torch.bfloat16, which meta does not have'):
        Precision.choose("bf16", torch.device("meta"), torch.float32)


def test_auto_leaves_the_cpu_and_double_precision_as_they_are():
    assert str(Precision.choose("auto", CPU, torch.float32)) == "in float32 (auto: no GPU that computes in bfloat16)"
    assert str(Precision.choose("auto", CUDA, torch.float64)) == "in float64 (auto: the weights are float64)"
    assert torch.equal(trained(precision="auto"), trained())


@pytest.mark.parametrize(("major", "name"), [(7, "32"), (8, "bf16"), (9, "bf16")])
def test_auto_is_bf16_on_a_gpu_that_computes_in_it(major, name, monkeypatch):
    properties = type("Properties", (), {"major": major})
    monkeypatch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings())  # any context manager
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of capability {major}")
    chosen = Precision.choose("auto", CUDA, torch.float32)
    assert chosen.name == name
    assert f"(auto: GPU of capability {major} " in str(chosen)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_header_says_what_was_chosen_and_why(is_terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    fit(model(), precision="auto", progress=True, epochs=1)
    assert "training on cpu, in float32 (auto: no GPU that computes in bfloat16)\n" in capsys.readouterr().err
    fit(model(), precision="bf16", progress=True, epochs=1)
    assert "training on cpu, networks in bfloat16, all else in float32\n" in capsys.readouterr().err
    fit(model(), precision="bf16", epochs=1)
    assert capsys.readouterr() == ("", "")


# What a step computes.


def trained(**options):
    vae = model()
    fit(vae, **options)
    return weights(vae)


def by_hand(precision, optimizer, vae=None, clip=None, epochs=2):
    """Mixed precision as PyTorch's documentation writes it: the weights after each step, and the scaler."""
    vae, lower = model() if vae is None else vae, {"bf16": torch.bfloat16, "16": torch.float16}[precision]
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "16")
    updates = vaekit.optimizers.build(optimizer, vae, 1e-3)
    after, step = [], 0
    vae.train()
    for epoch in range(epochs):
        for rows in vaekit.epoch_order(0, epoch, len(X)).split(16):
            with torch.autocast("cpu", lower):
                terms = vae(X[rows], key=vaekit.step_key(0, step), step=step, index=rows, dataset_size=len(X))
            scaler.scale(terms.objective).backward()
            scaler.unscale_(updates)
            if isinstance(clip, dict):
                torch.nn.utils.clip_grad_value_(vae.parameters(), clip["value"])
            elif clip is not None:
                torch.nn.utils.clip_grad_norm_(vae.parameters(), clip)
            scaler.step(updates)
            scaler.update()
            updates.zero_grad()
            step += 1
            after.append(weights(vae))
    return after, scaler


@LOWER
@pytest.mark.parametrize("clip", [None, 0.1, {"value": 0.01}], ids=str)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamax"])  # fused, fused, and one that is not
def test_a_run_is_a_loop_by_hand_bit_for_bit(precision, optimizer, clip):
    watching = Watching()
    fit(model(), precision=precision, optimizer=optimizer, gradient_clip=clip, callbacks=[watching])
    expected, _ = by_hand(precision, optimizer, clip=clip)
    assert all(map(torch.equal, watching.weights, expected))
    assert not torch.equal(watching.weights[-1], trained(optimizer=optimizer, gradient_clip=clip))


@LOWER
def test_parts_of_a_step_add_up_in_a_lower_precision(precision):
    """Gradients of the networks' weights are rounded for each part: to 8 bits in bfloat16, to 11 in float16."""
    whole = trained(precision=precision, batch_size=16, optimizer="sgd")
    parts = trained(precision=precision, batch_size=4, accumulate=4, optimizer="sgd")
    start = weights(model())
    assert torch.linalg.vector_norm(parts - whole) < 0.01 * torch.linalg.vector_norm(whole - start)


def test_data_and_sums_are_not_rounded():
    seen = []

    class Keep(losses.Elbo):
        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            seen.append((batch, terms))
            return terms

    counts = torch.tensor([12345.0, 1001.0, 257.0, 3.0, 0.0, 16777215.0]).repeat(20, 1)
    vae = model(likelihood="poisson", loss=Keep(), encoder={"hidden": (8,), "normalization": "layer"})
    with torch.no_grad():
        next(vae.encoder.parameters()).mul_(1e-7)
    fit(vae, counts, precision="bf16", initialize_output_bias=True)
    for batch, terms in seen:
        assert torch.equal(batch.x, counts[: len(batch.x)])
        assert terms.total.dtype == terms.reconstruction.dtype == terms.kl.dtype == torch.float32


@LOWER
def test_validation_and_the_model_afterwards_are_in_single_precision(precision):
    vae = model()
    history = fit(vae, validation=X, precision=precision)
    evaluated = mean_terms(vae, vaekit.data.as_batches(X, 16), evaluation_key(0))
    assert history["val_loss"][-1] == evaluated["loss"]
    assert vae.encode(X).mean.dtype == torch.float32
    assert vae.encoder.autocast_dtype is vae.decoder.autocast_dtype is None


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_tensorfloat_stays_as_it_is_set(precision):
    seen = []

    class Look(vaekit.Callback):
        def on_step_end(self, state):
            seen.append(torch.get_float32_matmul_precision())

    for setting in ("highest", "high"):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(setting)
        try:
            fit(model(), precision=precision, epochs=1, callbacks=[Look()])
            assert torch.get_float32_matmul_precision() == setting
            assert set(seen) == {setting}
        finally:
            torch.set_float32_matmul_precision(before)
        seen.clear()


def test_digits_are_learned_as_well_as_in_float32():
    digits, held_out = vaekit.data.load("mnist5k")
    losses = {}
    for precision in ("32", "bf16", "16"):
        vae = vaekit.create_vae(
            input_shape=(1, 28, 28), latent_dim=4, encoder={"hidden": (64,)}, decoder={"hidden": (64,)}, seed=0
        )
        history = fit(vae, digits.x[:400], validation=held_out.x[:100], epochs=10, batch_size=50, precision=precision)
        losses[precision] = history["val_loss"]
    assert losses["32"][-1] < 0.6 * losses["32"][0]
    assert losses["bf16"][-1] == pytest.approx(losses["32"][-1], rel=0.01)
    assert losses["16"][-1] == pytest.approx(losses["32"][-1], rel=0.05)  # which leaves out a few steps of 80 at first


# Gradients in float16.


@pytest.mark.parametrize("clip", [None, 0.1, {"value": 0.01}], ids=str)
@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_steps_whose_gradients_overflow_are_left_out_and_are_no_failure(optimizer, clip, scalers):
    vae, watching = model(loss=Scaled(1e3)), Watching()
    before = weights(vae)
    fit(vae, precision="16", epochs=6, optimizer=optimizer, gradient_clip=clip, callbacks=[watching])
    expected, scaler = by_hand("16", optimizer, model(loss=Scaled(1e3)), clip, epochs=6)
    left_out = scalers[0].left_out
    assert 3 < left_out < 12
    assert scalers[0].get_scale() == scaler.get_scale() == 65536 / 2**left_out
    assert all(map(torch.equal, watching.weights, expected))
    same = [torch.equal(*pair) for pair in zip([before, *watching.weights], watching.weights, strict=False)]
    assert same == [True] * left_out + [False] * (len(same) - left_out)


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_an_objective_that_is_not_finite_is_a_failure(optimizer):
    vae, watching = spoil(model(), [5], "total"), Watching()
    with pytest.raises(NonFiniteLossError, match="step 5: loss is not finite"):
        fit(vae, precision="16", optimizer=optimizer, callbacks=[watching])
    assert torch.equal(weights(vae), watching.weights[4])


def test_a_network_that_overflows_float16_is_a_failure_that_says_so():
    parts = {"likelihood": "gaussian", "posterior": {"name": "diagonal_gaussian", "logvar_bound": 8.0}}
    with pytest.raises(NonFiniteLossError, match=r'(?s)step 0: .* not finite.*precision="bf16" .*float16 ends at 65504'):
        fit(model(**parts), 1e5 * X, precision="16")
    fit(model(**parts), 1e5 * X, precision="bf16")


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_no_scale_makes_finite_is_a_failure_with_its_reason(clip):
    class Steep(losses.Elbo):
        """A square root at 0: a finite value, an infinite slope."""

        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            return terms._replace(total=terms.total + (terms.kl * 0.0).sum().sqrt())

    vae = model(loss=Steep())
    before = weights(vae)
    with pytest.raises(NonFiniteLossError, match=r'float16 \(precision="16"\).*larger than 1e9, or not finite at all.*"bf16"'):
        fit(vae, precision="16", epochs=10, gradient_clip=clip)
    assert torch.equal(weights(vae), before)


def test_a_run_that_has_hardly_begun_is_warned_of():
    vae = model(loss=Scaled(1e4))
    with pytest.warns(UserWarning, match=r"[4-8] of 8 steps were left out"):
        fit(vae, precision="16")


def test_a_scaler_goes_on_from_its_state():
    """Two engines that take the same steps, one of which is put away and made again in between."""

    def engine():
        made = Engine("cpu", "16")
        weight = torch.nn.Parameter(torch.ones(1))
        made.setup_model(torch.nn.Identity(), ())
        sgd = made.setup_optimizer(torch.optim.SGD([weight], lr=0.1))
        return made, weight, sgd

    def step(made, weight, sgd, factor):
        made.backward((factor * weight).sum())
        sgd.step()
        sgd.zero_grad()

    whole, parted = engine(), engine()
    factors = [1e38, 1e36, 1.0, 1e37, 1e30, 1.0, 1e35]
    for number, factor in enumerate(factors):
        step(*whole, factor)
        if number == 3:
            state, again = parted[0].state_dict(), engine()
            again[0].load_state_dict(state)
            again[1].data.copy_(parted[1].data)
            parted = again
        step(*parted, factor)
        assert whole[0].state_dict() == parted[0].state_dict()
        assert torch.equal(whole[1], parted[1])
    assert 0 < whole[0].scaler.left_out < len(factors)
    assert "scaler" not in Engine("cpu").state_dict()


def test_no_scale_is_too_small_before_gradients_of_a_billion_overflow():
    assert torch.finfo(torch.float16).max / SMALLEST > 1e9
    scaler = Scaler(CPU)
    scaler.scale(torch.ones(()))
    scaler.update(SMALLEST)
    assert not scaler.failure()
    scaler.update(SMALLEST / 2)
    assert scaler.failure()
