"""Folders of pictures, written by Pillow in the test."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit.data import MappedArray, load, load_test
from vaekit.data.pictures import PictureFiles

Image = pytest.importorskip("PIL.Image", reason='Pillow is not installed: pip install "vaekit[images]"')
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 9, 7, 3), np.uint8)
GREY = COLOUR[..., 0]


def write(folder, pictures=COLOUR, suffix="png", start=0, **options):
    """Pictures under the names 0.png, 1.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start):
        Image.fromarray(picture).save(folder / f"{number}.{suffix}", **options)
    return folder


def as_floats(pictures):
    """What is expected of bytes [N, H, W] or [N, H, W, 3]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).float() / 255
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("bmp", {}), ("tiff", {}), ("TIF", {}), ("webp", {"lossless": True})]
)
@pytest.mark.parametrize("pictures", [COLOUR, GREY], ids=["colour", "grey"])
def test_pictures_of_lossless_kinds_are_read_bit_for_bit(tmp_path, suffix, options, pictures):
    examples = load_test(write(tmp_path / "x", pictures, suffix, **options))
    expected = as_floats(pictures)
    if suffix == "webp" and pictures is GREY:  # which has no grey pictures
        expected = expected.expand(-1, 3, -1, -1)
    assert isinstance(examples.x, MappedArray)
    assert torch.equal(examples.x[:], expected)
    assert examples.y is None


def test_jpeg_is_read_as_pillow_decodes_it_and_of_a_gif_the_first_picture(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[:, None], (16, 16))
    write(tmp_path / "jpeg", [smooth], "jpg")
    with Image.open(tmp_path / "jpeg" / "0.jpg") as witness:
        decoded = np.asarray(witness)
    assert torch.equal(load_test(tmp_path / "jpeg").x[:], as_floats(decoded[None]))
    frames = [Image.fromarray(picture) for picture in GREY]
    (tmp_path / "gif").mkdir()
    frames[0].save(tmp_path / "gif" / "moving.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(load_test(tmp_path / "gif", colour="grey").x[:], as_floats(GREY[:1]))


def test_rows_are_indexed_like_an_array_in_threads_and_processes(tmp_path):
    examples = load_test(write(tmp_path / "x"))
    expected = as_floats(COLOUR)
    for index in (3, -1, slice(1, 6, 2), torch.tensor([5, 0, 5]), torch.zeros(0, dtype=torch.int64)):
        assert torch.equal(examples.x[index], expected[index])
    assert torch.equal(torch.cat(list(DataLoader(examples, batch_size=2, num_workers=2))), expected)
    assert isinstance(examples.x.array, PictureFiles)
    assert (pickle.loads(pickle.dumps(examples.x.array))[2] == examples.x.array[2]).all()


def test_folders_are_classes_and_parts(tmp_path):
    for part, counts in {"train": {"cat": 3, "dog": 2, "eel": 1}, "val": {"eel": 1}, "test": {"dog": 1, "eel": 2}}.items():
        for kind, count in counts.items():
            write(tmp_path / part / kind, COLOUR[:count])
    write(tmp_path / "train" / ".hidden", COLOUR[:1])
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    train, test = load(tmp_path)
    assert train.y.tolist() == [0, 0, 0, 1, 1, 2]
    assert test.y.tolist() == [1, 2, 2]
    assert train.label_names == test.label_names == ("cat", "dog", "eel")
    assert torch.equal(train.x[:3], as_floats(COLOUR[:3]))
    whole, held_out = load(tmp_path / "train", validation=0.34)
    assert len(whole) + len(held_out) == 6
    assert whole.label_names == ("cat", "dog", "eel")


def test_val_is_the_test_set_where_there_is_no_other(tmp_path):
    write(tmp_path / "train", COLOUR[:4])
    write(tmp_path / "val", COLOUR[4:])
    train, test = load(tmp_path)
    assert torch.equal(train.x[:], as_floats(COLOUR[:4]))
    assert torch.equal(test.x[:], as_floats(COLOUR[4:]))
    assert train.y is None


def test_folders_that_say_nothing_are_refused(tmp_path):
    write(tmp_path / "mixed")
    write(tmp_path / "mixed" / "cat")
    with pytest.raises(ValueError, match=r"0\.png for example, beside folders with pictures"):
        load(tmp_path / "mixed")
    write(tmp_path / "split" / "train" / "cat")
    write(tmp_path / "split" / "test" / "dog")
    with pytest.raises(ValueError, match="'dog'.*'cat'"):
        load(tmp_path / "split")
    write(tmp_path / "half" / "train")
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(ValueError, match="test has no pictures in it"):
        load(tmp_path / "half")


def test_other_sizes_are_refused_with_those_found_unless_a_size_is_said(tmp_path):
    write(tmp_path / "x")
    write(tmp_path / "x", RANDOM.integers(0, 256, (2, 20, 10, 3), np.uint8), start=10)
    with pytest.raises(ValueError, match=r"2 sizes, 9 x 7 \(6\), 20 x 10 \(2\): size=64"):
        load(tmp_path / "x")
    assert load_test(tmp_path / "x", size=8).x[:].shape == (8, 3, 8, 8)
    assert load_test(tmp_path / "x", size=[4, 6]).x[:].shape == (8, 3, 4, 6)
    for wrong in (0, [8], [8, 8, 3], 2.5, "8"):
        with pytest.raises((TypeError, ValueError), match="size"):
            load(tmp_path / "x", size=wrong)


def test_a_picture_is_scaled_to_cover_the_size_and_cropped_to_its_middle(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, :10], wide[:, 10:20], wide[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    x = load_test(write(tmp_path / "x", [wide]), size=10).x[0]
    assert torch.equal(x, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 10, 10))
    halved = load_test(tmp_path / "x", size=(5, 15)).x[0]
    assert torch.equal(halved[:, 2, [2, 7, 12]], torch.eye(3))


def test_grey_and_colour_are_what_all_pictures_are_or_what_is_said(tmp_path):
    write(tmp_path / "x", GREY[:2])
    assert load_test(tmp_path / "x").x.shape == (2, 1, 9, 7)
    in_colour = load_test(tmp_path / "x", colour="colour").x[:]
    assert torch.equal(in_colour, as_floats(GREY[:2]).expand(-1, 3, -1, -1))
    write(tmp_path / "x", COLOUR[:1], start=5)
    assert load_test(tmp_path / "x").x.shape == (3, 3, 9, 7)
    weights = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow says
    expected = (as_floats(COLOUR[:1]) * weights[:, None, None]).sum(1)
    torch.testing.assert_close(load_test(tmp_path / "x", colour="grey").x[-1], expected, atol=1 / 255, rtol=0)
    with pytest.raises(ValueError, match=r"colour.*grey"):
        load(tmp_path / "x", colour="color")


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    (tmp_path / "x").mkdir()
    exif = Image.Exif()
    for orientation, turned in {6: np.rot90(COLOUR[0], -1), 3: np.rot90(COLOUR[0], 2), 8: np.rot90(COLOUR[0])}.items():
        exif[0x0112] = orientation
        Image.fromarray(COLOUR[0]).save(tmp_path / "x" / "photo.png", exif=exif)
        assert torch.equal(load_test(tmp_path / "x").x[:], as_floats(turned[None])), orientation


def test_opacity_is_laid_over_white_and_palettes_are_colours(tmp_path):
    clear = np.dstack([COLOUR[0], np.zeros((9, 7), np.uint8)])
    assert (load_test(write(tmp_path / "clear", [clear])).x[:] == 1).all()
    (tmp_path / "palette").mkdir()
    Image.fromarray(COLOUR[0]).quantize(256).save(tmp_path / "palette" / "0.png")
    assert torch.equal(load_test(tmp_path / "palette").x[:], as_floats(COLOUR[:1]))


def test_sixteen_bits_are_kept(tmp_path):
    deep = RANDOM.integers(0, 65536, (2, 9, 7)).astype(np.uint16)
    for suffix in ("png", "tiff"):
        x = load_test(write(tmp_path / suffix, deep, suffix)).x[:]
        np.testing.assert_array_equal(x[:, 0].numpy(), deep.astype(np.float32) / np.float32(65535))
    write(tmp_path / "png", GREY[:1], start=5)
    assert torch.equal(load_test(tmp_path / "png").x[2:], as_floats(GREY[:1]))


def test_black_and_white_of_one_bit_is_0_and_1(tmp_path):
    (tmp_path / "x").mkdir()
    Image.fromarray(GREY[0] > 99).save(tmp_path / "x" / "0.png")
    assert torch.equal(load_test(tmp_path / "x").x[0][0], torch.from_numpy(GREY[0] > 99).float())


# Corrupt files


@pytest.fixture
def spoiled(tmp_path):
    """A folder of six pictures, one of which is no picture and one of which is cut short."""
    folder = write(tmp_path / "x" / "cat")
    (folder / "1.png").write_bytes(b"no picture")
    cut = write(tmp_path / "large", [RANDOM.integers(0, 256, (9, 7, 3), np.uint8)], "bmp") / "0.bmp"
    (folder / "3.png").unlink()
    (folder / "3.bmp").write_bytes(cut.read_bytes()[:-60])
    return tmp_path / "x"


def test_a_corrupt_file_is_named(spoiled):
    with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture.*skip_corrupt=True"):
        load(spoiled)
    (spoiled / "cat" / "1.png").unlink()
    examples = load_test(spoiled)
    with pytest.raises(ValueError, match=r"3\.bmp cannot be read as a picture"):
        examples.x[:]
    (spoiled / "cat" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"0\.png cannot be read"):
        examples.x[0]


def test_corrupt_files_are_left_out_and_counted_if_asked(spoiled):
    with pytest.warns(UserWarning, match=r"2 of 6 pictures are corrupt and left out: .*1\.png, .*3\.bmp"):
        examples = load_test(spoiled, skip_corrupt=True)
    assert torch.equal(examples.x[:], as_floats(COLOUR[[0, 2, 4, 5]]))
    assert (examples.y.tolist(), examples.label_names) == ([0] * 4, ("cat",))
    with pytest.raises(TypeError, match="skip_corrupt"):
        load(spoiled, skip_corrupt="yes")


def test_a_folder_of_nothing_but_corrupt_files_is_refused(tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0\.png cannot be read"):
        load(tmp_path)
    with pytest.raises(ValueError, match="has no picture that can be read"):
        load(tmp_path, skip_corrupt=True)


# Together with the rest


def test_a_model_is_trained_on_a_folder_as_on_its_array(tmp_path):
    write(tmp_path / "x", GREY)
    losses = []
    for data in (tmp_path / "x", as_floats(GREY)):
        vae = vaekit.create_vae(
            input_shape=(1, 9, 7), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0
        )
        losses.append(vaekit.fit(vae, data, epochs=2, batch_size=4, progress=False, device="cpu")["loss"])
    assert losses[0] == losses[1]


def test_pictures_are_decoded_when_they_are_used_and_no_earlier(tmp_path, monkeypatch):
    decoded = []
    from vaekit.data import pictures

    real = pictures._decoded
    monkeypatch.setattr(pictures, "_decoded", lambda file, form: decoded.append(file.name) or real(file, form))
    examples = load_test(write(tmp_path / "x"))
    assert decoded == []
    examples.x[torch.tensor([4, 1])]
    assert sorted(decoded) == ["1.png", "4.png"]


def test_without_pillow_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    import sys

    write(tmp_path / "x")
    for module in [m for m in sys.modules if m.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "vaekit[images]"')):
        load(tmp_path / "x")


def test_shards_with_a_picture_beside_them_are_shards(tmp_path):
    write(tmp_path, COLOUR[:1])
    np.save(tmp_path / "x-0.npy", np.ones((20, 3)))
    assert load_test(tmp_path).x.shape == (20, 3)
