"""Laws of two runs that want one folder: the first keeps it whole, the second is refused before its first step."""

import threading

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import vaekit


def model():
    return vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)}, seed=0)


X = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))


def fit(out, *callbacks, **options):
    options = {"epochs": 2, "batch_size": 8, "device": "cpu", "progress": False, **options}
    return vaekit.fit(model(), X, out=out, callbacks=callbacks, **options)


class Beside(vaekit.Callback):
    """Begins another run in the first step of this one."""

    def __init__(self, begin):
        self.begin = begin

    def on_step_end(self, state):
        if state.step == 1:
            self.begin()


def test_a_folder_is_a_runs_own_from_before_its_first_step(tmp_path):
    errors = []

    def begin():
        with pytest.raises(FileExistsError) as caught:
            fit(tmp_path / "out", seed=1)
        errors.append(str(caught.value))

    beside = fit(tmp_path / "beside")
    history = fit(tmp_path / "out", Beside(begin))
    assert str(tmp_path / "out") in errors[0]
    assert dict(history) == dict(beside)
    for name in ("best/model.safetensors", "last/model.safetensors", "history.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "beside" / name).read_bytes()


def test_of_many_runs_that_begin_at_once_one_gets_the_folder(tmp_path):
    barrier, got = threading.Barrier(4), []

    def begin():
        barrier.wait(60)
        try:
            got.append(fit(tmp_path / "out").epochs)
        except FileExistsError:
            got.append("refused")

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, got)) == ["2", "refused", "refused", "refused"]


def test_a_run_without_an_epoch_leaves_no_history(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    assert fit(tmp_path / "out", Beside(interrupt)).interrupted
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"last", "checkpoints", "run.json", "environment.json"}


def test_workers_that_outlive_their_run_do_not_keep_its_folder(tmp_path):
    loader = DataLoader(TensorDataset(X), batch_size=8, num_workers=1, persistent_workers=True)
    options = {"device": "cpu", "progress": False}
    vaekit.fit(model(), loader, epochs=1, out=tmp_path, **options)
    assert vaekit.resume(tmp_path, loader, epochs=2, **options).epochs == 2
