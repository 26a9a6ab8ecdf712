"""Laws of `LitVAE`: what Lightning's Trainer makes of a model is what `fit` makes of it."""

import os
import warnings

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit

pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'vaekit[lightning]'")

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Sampler, TensorDataset

from vaekit.integrations.lightning import LitVAE

SEED = 3
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
FACTOR = {"name": "factor", "hidden": (4,), "learning_rate": 1e-2}
SCHEDULED = {"name": "elbo", "beta": {"name": "linear", "steps": 5}}
DROPOUT = {"hidden": (8,), "dropout": 0.5}
COSINE = {"name": "cosine", "start": 1e-2, "end": 1e-3, "steps": 6}


class Order(Sampler):
    """The order in which `fit` takes examples."""

    def __init__(self, size):
        self.size, self.epoch = size, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(vaekit.epoch_order(SEED, self.epoch, self.size).tolist())

    def __len__(self):
        return self.size


def in_order(batch_size=16, x=X):
    return DataLoader(x, batch_size=batch_size, sampler=Order(len(x)))


def train(lit, data, validation=None, **options):
    trainer = Trainer(**{**QUIET, "max_epochs": 2, **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")  # its advice
        trainer.fit(lit, data, validation)
    return trainer


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        ({"loss": SCHEDULED}, {"learning_rate": COSINE}),
        ({"loss": FACTOR}, {"learning_rate": COSINE}),
        (
            {"loss": FACTOR},
            {
                "learning_rate": {"name": "one_cycle", "peak": 1e-2},
                "optimizer": {"name": "adamw", "groups": {"encoder.*": {"lr_factor": 0.5}, "*.bias": {"lr": 1e-3}}},
            },
        ),
        ({"loss": "beta_tc"}, {}),
        ({"encoder": DROPOUT}, {"optimizer": {"name": "sgd", "momentum": 0.9}}),
    ],
    ids=["plain", "scheduled", "a rate of its own", "groups", "a size of the data", "dropout"],
)
def test_a_trainer_gives_the_weights_and_losses_of_fit_bit_for_bit(parts, options):
    fitted, own = model(**parts), model(**parts)
    validation = torch.rand(30, 6, generator=torch.Generator().manual_seed(1))
    history = fit(fitted, validation=validation, seed=SEED, **options)
    trainer = train(LitVAE(own, seed=SEED, **options), in_order(), DataLoader(validation, batch_size=16))
    assert torch.equal(weights(own), weights(fitted))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == {name: pytest.approx(column[-1], rel=1e-12) for name, column in history.items()}
    assert not any(module.training for module in own.modules())


def test_bfloat16_is_that_of_fit_and_half_precision_weights_are_refused():
    fitted, own = model(), model()
    fit(fitted, seed=SEED, precision="bf16")
    train(LitVAE(own, seed=SEED), in_order(), precision="bf16-mixed")
    assert torch.equal(weights(own), weights(fitted))
    with pytest.raises(TypeError, match="bfloat16"):
        train(LitVAE(model()), in_order(), precision="bf16-true")


def test_conditional_models_take_what_follows_x():
    y = torch.arange(50) % 3
    fitted, own = (model(condition={"name": "labels", "classes": 3}) for _ in range(2))
    fit(fitted, (X, y), seed=SEED)
    train(LitVAE(own, seed=SEED), in_order(x=TensorDataset(X, y)))
    assert torch.equal(weights(own), weights(fitted))


def test_accumulated_batches_draw_and_give_what_the_whole_batch_would():
    x = X[:48]
    whole, parts = model().double(), model().double()
    train(LitVAE(whole, seed=SEED), in_order(16, x.double()))
    train(LitVAE(parts, seed=SEED), in_order(4, x.double()), accumulate_grad_batches=4)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-9, atol=1e-12)


def test_validation_between_the_batches_of_a_step_does_not_disturb_its_noise():
    undisturbed, disturbed = model(), model()
    train(LitVAE(undisturbed), in_order(4), accumulate_grad_batches=4)
    train(LitVAE(disturbed), in_order(4), DataLoader(X, batch_size=50), accumulate_grad_batches=4, val_check_interval=3)
    assert torch.equal(weights(disturbed), weights(undisturbed))


def test_a_checkpoint_is_loaded_without_pickle_and_trained_on_to_the_same_weights(tmp_path):
    options = {
        "learning_rate": vaekit.schedules.Cosine(steps=6, start=1e-2, end=1e-3),
        "optimizer": {"name": "adamw"},
        "seed": SEED,
    }
    vae = model(loss=FACTOR)
    kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    quiet = {"enable_checkpointing": True, "callbacks": [kept]}
    train(LitVAE(vae, **options), in_order(), **quiet)
    again = LitVAE.load_from_checkpoint(tmp_path / "epoch=1.ckpt", weights_only=True)
    assert again.vae.config() == vae.config()
    assert torch.equal(weights(again.vae), weights(vae))
    resumed = LitVAE(model(loss=FACTOR), **options)
    Trainer(**QUIET, max_epochs=2).fit(resumed, in_order(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert torch.equal(weights(resumed.vae), weights(vae))


def test_the_rate_is_the_schedules_and_an_objective_keeps_its_own():
    rate, seen = vaekit.schedules.as_schedule(COSINE), []

    class Rates(LitVAE):
        def on_before_optimizer_step(self, optimizer):
            seen.append([group["lr"] for group in optimizer.param_groups])

    train(Rates(model(loss=FACTOR), learning_rate=COSINE), in_order())
    assert seen == [[rate(step), 1e-2] for step in range(8)]


def test_evaluation_is_that_of_vaekit():
    vae = model()
    trainer = Trainer(**QUIET)
    logged = trainer.test(LitVAE(vae, seed=SEED), DataLoader(X, batch_size=16), verbose=False)
    expected = vaekit.evaluate(vae, X, batch_size=16, seed=SEED)
    assert logged[0] == {f"test_{name}": pytest.approx(value, rel=1e-6) for name, value in expected.items()}


def test_each_of_several_validation_sets_is_evaluated_by_itself():
    vae, sets = model(), [X[:20], X[20:]]
    trainer = train(LitVAE(vae, seed=SEED), in_order(), [DataLoader(x, batch_size=8) for x in sets])
    for number, x in enumerate(sets):
        expected = vaekit.evaluate(vae, x, batch_size=8, seed=SEED)["loss"]
        assert float(trainer.callback_metrics[f"val_loss/dataloader_idx_{number}"]) == pytest.approx(expected, rel=1e-12)


class Shared(Sampler):
    """What each of two processes takes of batches of 16: the first half, or the second."""

    def __init__(self, order):
        self.order = order

    def set_epoch(self, epoch):
        self.order.set_epoch(epoch)

    def __iter__(self):
        rank = torch.distributed.get_rank()
        return iter(torch.tensor(list(self.order)).view(-1, 2, 8)[:, rank].flatten().tolist())

    def __len__(self):
        return len(self.order) // 2


class Uneven(Sampler):
    """Two thirds of 30 examples for the first of two processes, the rest for the second."""

    def __iter__(self):
        return iter(range(20) if torch.distributed.get_rank() == 0 else range(20, 30))

    def __len__(self):
        return 20 if torch.distributed.get_rank() == 0 else 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_processes_train_as_one_with_batches_twice_as_large_and_log_the_mean_over_all_examples():
    x, alone, together = X[:48].double(), model().double(), model().double()
    train(LitVAE(alone, seed=SEED), in_order(16, x))
    shared = DataLoader(x, batch_size=8, sampler=Shared(Order(48)))
    validation = DataLoader(x[:30], batch_size=10, sampler=Uneven())
    two = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    trainer = train(LitVAE(together, seed=SEED), shared, validation, **two)
    torch.testing.assert_close(weights(together), weights(alone), rtol=1e-9, atol=1e-12)
    # Of the noise, the first process has rows 0 and 20 on, the second rows 10 on.
    key, total = vaekit.fold_in(vaekit.make_key(SEED), 2), 0.0
    for start, row_start in ((0, 0), (10, 20), (20, 10)):
        with torch.no_grad():
            total += 10 * float(together(x[start : start + 10], key=key, row_start=row_start).total)
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(total / 30, rel=1e-12)


def test_frozen_parts_stay_still_and_a_loaded_model_is_trained_in_training_mode(tmp_path):
    vae = model(encoder={"hidden": (8,), "normalization": "batch"})
    loaded = vaekit.load(vae.save(tmp_path))
    loaded.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in loaded.encoder.state_dict().items()}
    modes = []

    class Modes(LitVAE):
        def training_step(self, batch, batch_idx):
            modes.append((self.vae.decoder.training, self.vae.encoder.training))
            return super().training_step(batch, batch_idx)

    train(Modes(loaded), in_order(), DataLoader(X, batch_size=50))
    assert set(modes) == {(True, False)}
    assert all(torch.equal(value, before[name]) for name, value in loaded.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: LitVAE("dense-mnist"), "str"),
        (lambda: LitVAE(model(), optimizer="adm"), "adam"),
        (lambda: LitVAE(model(), learning_rate=-1.0), "learning_rate"),
        (lambda: LitVAE(model(), seed=0.5), "seed"),
        (lambda: LitVAE(model(), optimizer=torch.optim.Adam), "optimizer"),
        (lambda: train(LitVAE(model(), learning_rate={"name": "plateau", "start": 1e-3}), in_order()), "learning_rate"),
        (lambda: train(LitVAE(model().half()), in_order()), "float16"),
        (lambda: train(LitVAE(model()), in_order(x=X + 1.0)), "batch 0"),
        (lambda: train(LitVAE(model()), in_order(), in_order(x=X + 1.0)), "batch 0"),
        (lambda: train(LitVAE(model()), DataLoader(torch.arange(4))), "int64"),
        (
            lambda: train(LitVAE(model(loss={"name": "dip_vae"})), in_order(), accumulate_grad_batches=2),
            "accumulate_grad_batches=2",
        ),
    ],
)
def test_what_fit_refuses_is_refused(make, fact):
    with pytest.raises((TypeError, ValueError, KeyError), match=fact):
        make()
