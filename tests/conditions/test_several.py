"""Several conditions at once: each as alone, one beside the other; in every figure, saved, resumed and in the command."""

import numpy as np
import pytest
import torch

import vaekit
from vaekit.conditions import Condition, Labels, Several, Vector

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
BATCH, DONOR = torch.arange(24) % 3, torch.arange(24) % 2
AGE = torch.randn(24, 2, generator=torch.Generator().manual_seed(1))
Y = torch.cat([BATCH[:, None].float(), AGE, DONOR[:, None].float()], dim=1)
PARTS = [{"name": "labels", "classes": 3, "dim": 4}, {"name": "vector", "size": 2}, {"name": "labels", "classes": 2}]


def model(**options) -> vaekit.VAE:
    options = {"encoder": {"hidden": (16,)}, "decoder": {"hidden": (16,)}, "likelihood": "gaussian", "seed": 3, **options}
    return vaekit.create_vae(input_shape=(5,), latent_dim=2, **{"condition": PARTS, **options})


def test_the_networks_get_what_each_of_them_gives_alone():
    kind = Several(PARTS)
    batch, age, donor = kind
    assert torch.equal(kind(kind.as_rows(Y, 24)), torch.cat([batch(BATCH), age(AGE), donor(DONOR)], dim=1))
    assert (kind.dim, kind.columns) == (8, 4)
    assert kind.double()(Y.double()).dtype == torch.float64


def test_two_labels_are_one_label_of_all_pairs_in_another_coding():
    pair = Several([{"name": "labels", "classes": 3}, {"name": "labels", "classes": 2}])
    coded = pair(torch.stack([BATCH, DONOR], dim=1).float())
    alone = Labels(6)(BATCH * 2 + DONOR)
    assert torch.equal(coded[:, :3, None] * coded[:, None, 3:], alone.reshape(24, 3, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_class_number_survives_weights_of_half_precision(dtype):
    kind = Several([{"name": "labels", "classes": 3000}]).to(dtype)
    rows = kind.placed(torch.tensor([[2049.0], [257.0]]), torch.device("cpu"), dtype)
    assert kind(rows).argmax(1).tolist() == [2049, 257]


@pytest.mark.parametrize("option", [{}, {"encoder": {"hidden": (16,), "condition_dim": 0}}], ids=["told", "not-told"])
def test_every_column_reaches_every_figure_but_those_of_an_encoder_that_is_not_told(option):
    vae, key = model(**option), vaekit.make_key(0)
    terms = vae(X, Y, key=key)
    for column in range(4):
        other = Y.clone()
        other[:, column] = other[:, column].roll(1)
        changed = vae(X, other, key=key)
        assert (changed.reconstruction != terms.reconstruction).all()
        assert torch.equal(changed.kl, terms.kl) == bool(option)
    again = vae(X[7:8], Y[7], key=key, row_start=7)
    torch.testing.assert_close(again.reconstruction, terms.reconstruction[7:8])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    vae, key = model(), vaekit.make_key(0)
    again = vaekit.load(vae.save(tmp_path))
    assert again.config()["condition"] == {"name": "several", "parts": PARTS}
    assert torch.equal(again(X, Y, key=key).reconstruction, vae(X, Y, key=key).reconstruction)
    objects = model(condition=Several([Labels(3), Vector(2), Labels(2)]))
    assert objects.config()["condition"]["parts"][1] == {"name": "vector", "size": 2}


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(tmp_path):
    straight, stopped = model(), model()
    options = {"batch_size": 8, "seed": 5, "progress": False}
    vaekit.fit(straight, (X, Y), epochs=3, **options)
    vaekit.fit(stopped, (X, Y), epochs=1, out=tmp_path, **options)
    again = model()
    vaekit.fit(again, (X, Y), epochs=3, out=tmp_path, resume=True, **options)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_command_shares_out_the_columns_of_y(tmp_path):
    from vaekit import runs

    np.savez(tmp_path / "cells.npz", x=X.numpy(), y=Y.numpy())
    condition = ["labels", "vector", {"name": "labels", "dim": 2}]
    settings = {"data": str(tmp_path / "cells.npz"), "seed": 0, "latent_dim": 2, "likelihood": "gaussian", "condition": condition}
    parts = runs.Run.prepare(settings, progress=False).settings["condition"]["parts"]
    assert [part.get("classes", part.get("size")) for part in parts] == [3, 2, 2]
    with pytest.raises(ValueError, match="labels, labels do not share out the 4 columns"):
        runs.Run.prepare({**settings, "condition": ["labels", "labels"]}, progress=False)


class Silent(Vector):
    def __init__(self):
        super().__init__(2)
        self.columns = None


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([], TypeError, "one or more"),
        ("labels", TypeError, "list of one or more"),
        ([Silent()], ValueError, "Silent cannot stand beside others"),
        ([{"name": "labels", "classes": 2**25}], ValueError, "at most 16,777,216 classes"),
    ],
)
def test_what_cannot_stand_together_is_refused(parts, error, words):
    with pytest.raises(error, match=words):
        Several(parts)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (Y[:, :3], r"got the shape \(24, 3\) for 24"),
        (torch.where(torch.arange(4) == 0, Y + 3, Y), "from 0 to 2 .*; got [345]"),
        (torch.where(torch.arange(4) == 3, Y + 0.5, Y), r"from 0 to 1 .*; got 0\.5 in it"),
        (torch.where(torch.arange(4) == 3, torch.nan, Y), "got nan in it"),
        (torch.where(torch.arange(4) == 1, torch.nan, Y), "NaN or infinity"),
    ],
)
def test_values_that_are_none_are_refused_before_training(rows, words):
    with pytest.raises(ValueError, match=words):
        vaekit.fit(model(), (X, rows), epochs=1, progress=False)


def test_names_of_classes_are_kept_shown_and_taken(tmp_path):
    kind = {"name": "labels", "classes": 3, "names": ["london", "rome", "paris"], "column": "city"}
    vae = vaekit.load(model(condition=kind).save(tmp_path))
    assert (vae.condition.names, vae.condition.column) == (("london", "rome", "paris"), "city")
    assert torch.equal(vae.decode(torch.ones(2, 2), ["paris", "rome"]), vae.decode(torch.ones(2, 2), [2, 1]))
    assert vae.condition.label(torch.tensor(1)) == "rome"
    with pytest.raises(ValueError, match="no class 'oslo'; the classes are london, rome, paris"):
        vae.decode(torch.ones(1, 2), "oslo")
    with pytest.raises(ValueError, match="different name for each of the 3"):
        Labels(3, names=["a", "a", "b"])
    with pytest.raises(ValueError, match="each of the 2 numbers"):
        Vector(2, names=["age"])


def test_a_value_is_typed_and_labelled_by_its_parts():
    kind: Condition = Several([{"name": "labels", "classes": 2, "names": ["rome", "oslo"]}, {"name": "vector", "size": 2}])
    value = kind.parsed("oslo,0.5,-1")
    assert value.tolist() == [1.0, 0.5, -1.0]
    assert kind.label(value) == "oslo; 0.5, -1"
    with pytest.raises(ValueError, match="2 values for 3 columns"):
        kind.parsed("oslo,0.5")
