"""Which axis is which, and what bytes mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit.data import as_examples, conversion, load, load_test, open_shards
from vaekit.data.axes import LAYOUTS, arranged, arranged_shape, form_of
from vaekit.data.numpy_files import ArrayFile

COLOUR = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)  # channels last
FIRST = COLOUR.transpose(0, 3, 1, 2)
GREY = COLOUR[..., 0]


def forms(tmp_path, array):
    """The array in memory and on disk."""
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    (tmp_path / "shards").mkdir()
    for number, part in enumerate((array[:5], array[5:])):
        np.save(tmp_path / "shards" / f"x-{number}.npy", part)
    np.savez(tmp_path / "x.npz", x=array)
    np.savez(tmp_path / "split.npz", x_train=array[:5], x_test=array[5:])
    in_memory = [array, torch.from_numpy(array), np.ma.MaskedArray(array), ArrayFile(tmp_path / "x.npy")]
    return [*in_memory, *(tmp_path / name for name in ("x.npy", "f.npy", "x.npz", "split.npz", "shards"))]


def all_of(source, **options):
    train, test = load(source, **options) if str(source).endswith("split.npz") else (load_test(source, **options), None)
    return torch.cat([part.x[:] for part in (train, test) if part is not None])


@pytest.mark.parametrize("options", [{}, {"layout": "NHWC"}])
def test_channels_that_come_last_are_moved_wherever_the_array_is(tmp_path, options):
    expected = torch.from_numpy(FIRST.copy()).float() / 255
    for source in forms(tmp_path, COLOUR):
        assert torch.equal(all_of(source, **options), expected), source
    assert torch.equal(as_examples(COLOUR.astype(np.float32)).x, expected * 255)
    mapped = as_examples(ArrayFile(tmp_path / "x.npy"))
    assert mapped.x.shape == (12, 3, 9, 7)
    for index in (3, slice(2, 9, 3), torch.tensor([5, 0])):
        assert torch.equal(mapped.x[index], expected[index])
    assert torch.equal(load(ArrayFile(tmp_path / "x.npy"))[1].x[:], load(expected)[1].x)


@pytest.mark.parametrize("options", [{}, {"layout": "NHW"}])
def test_grey_bytes_get_an_axis_of_channels(tmp_path, options):
    for source in forms(tmp_path, GREY):
        assert torch.equal(all_of(source, **options), torch.from_numpy(GREY)[:, None].float() / 255), source


def test_photographs_with_channels_last_train_a_convolutional_model(tmp_path):
    photographs = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    losses = []
    for data in (photographs, torch.from_numpy(photographs).permute(0, 3, 1, 2) / 255.0):
        vae = vaekit.create_vae(
            input_shape=(3, 16, 16), latent_dim=2, encoder={"name": "conv", "channels": (4,), "hidden": (4,)},
            decoder={"name": "conv", "channels": (4,), "hidden": (4,)}, seed=0,
        )  # fmt: skip
        losses.append(vaekit.fit(vae, data, epochs=1, batch_size=4, progress=False, device="cpu")["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("shape", "form"),
    {
        (5, 32, 30, 3): "NHWC", (5, 28, 28, 1): "NHWC", (5, 8, 8, 4): "NHWC", (5, 4, 4, 3): "NHWC", (5, 3, 3, 1): "NHWC",
        (5, 3, 32, 30): "", (5, 1, 28, 28): "", (5, 4, 8, 8): "", (5, 3, 4, 4): "", (5, 1, 3, 4): "", (5, 1, 1, 1): "",
        (5, 16, 7, 7): "", (5, 13, 17, 5): "", (5, 64, 4, 4): "", (5, 10): "", (5,): "", (5, 2, 3, 4, 3): "",
        (5, 3, 32, 3): None, (5, 4, 4, 4): "", (5, 4, 3, 3): "", (5, 28, 28, 2): None, (5, 1, 1, 3): "", (5, 4, 5, 3): None,
    }.items(),
)  # fmt: skip
def test_auto_takes_what_is_beyond_doubt_and_refuses_what_is_not(shape, form):
    for is_bytes in (False, True):
        if form is None:
            with pytest.raises(ValueError, match=r"pictures has the shape \(5, .*layout='NHWC'"):
                form_of(shape, is_bytes, "auto", "pictures")
        else:
            assert form_of(shape, is_bytes) == form


def test_numbers_in_three_axes_stay_as_they_are_unless_they_are_said_to_be_pictures():
    assert form_of((5, 8, 8), False) == form_of((5, 3, 100), True) == ""
    assert form_of((5, 8, 8), False, "NHW") == "NHW"
    assert form_of((5, 8, 8), True, "NCL") == ""


@given(st.sampled_from(LAYOUTS[1:]), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_layout_that_is_said_is_taken_or_refused_for_its_number_of_axes(layout, shape):
    if len(shape) != len(layout):
        with pytest.raises(ValueError, match=f"layout='{layout}' takes {len(layout)} axes"):
            form_of(tuple(shape), False, layout)
        return
    form = form_of(tuple(shape), False, layout)
    values = np.arange(np.prod(shape)).reshape(shape)
    order = {"NHWC": (0, 3, 1, 2)}.get(layout, tuple(range(len(shape))))
    expected = values.transpose(order)[:, None] if layout == "NHW" else values.transpose(order)
    assert arranged_shape(tuple(shape), form) == arranged(values, form).shape == expected.shape
    assert (arranged(values, form) == expected).all()
    assert torch.equal(arranged(torch.from_numpy(values), form)[0], arranged(torch.from_numpy(values)[0], form))


def test_another_word_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="NHWC"):
        as_examples(COLOUR, layout="HWCN")


# Bytes


def test_bytes_that_are_all_0_or_1_stay_so_wherever_the_array_is(tmp_path):
    binary = (COLOUR > 99).astype(np.uint8)
    for source in forms(tmp_path, binary):
        assert set(all_of(source).unique().tolist()) == {0, 1}, source


def test_one_grey_level_in_the_last_row_makes_all_of_them_grey_levels(tmp_path):
    x = np.zeros((300, 5000), np.uint8)
    x[0, 0], x[-1, -1] = 1, 2
    np.save(tmp_path / "x.npy", x)
    for source in (x, torch.from_numpy(x), tmp_path / "x.npy"):
        assert load_test(source).x[:][0, 0] == np.float32(1) / np.float32(255)


def test_every_row_is_looked_at(monkeypatch):
    monkeypatch.setattr(conversion, "_BLOCK", 4 * 5000)
    for row in range(30):
        x = np.zeros((30, 5000), np.uint8)
        assert conversion.divisor_of(x) == 1
        x[row, row] = 2
        assert conversion.divisor_of(x) == 255, row


def test_bytes_mean_the_same_in_both_parts_of_a_split(tmp_path):
    grey, dark = np.full((6, 2), 200, np.uint8), np.ones((4, 2), np.uint8)
    for name, (train, test) in {"a": (grey, dark), "b": (dark, grey)}.items():
        np.savez(tmp_path / f"{name}.npz", x_train=train, x_test=test)
        for part, array in (("train", train), ("test", test)):
            (tmp_path / name / part).mkdir(parents=True)
            np.save(tmp_path / name / part / "x-0.npy", array)
        for source in (tmp_path / f"{name}.npz", tmp_path / name):
            parts = load(source)
            assert [round(float(part.x[0][0]) * 255) for part in parts] == [train[0, 0], test[0, 0]]


def test_what_is_masked_does_not_make_grey_levels_of_0_and_1():
    x = np.ma.masked_equal(np.array([[0, 1], [255, 1]], np.uint8), 255)
    assert as_examples(x).x[0].tolist() == [0, 1]


def test_shards_take_a_layout(tmp_path):
    np.save(tmp_path / "x-0.npy", GREY.astype(np.float32))
    assert open_shards(tmp_path, layout="NHW").x.shape == (12, 1, 9, 7)
    assert load_test([tmp_path / "x-0.npy"], layout="NHW").x.shape == (12, 1, 9, 7)
