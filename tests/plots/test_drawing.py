"""Laws of drawing: limits, and files that are whole or not there."""

import math

import pytest
import torch
from helpers.commands import StubFigure
from PIL import Image

from vaekit.plots.drawing import new_figure, save_figure, value_limits


@pytest.mark.parametrize(
    ("bounds", "values", "limits"),
    [
        ((0.0, 1.0), [5.0], (0.0, 1.0)),
        ((0.0, math.inf), [1.0, 3.0], (1.0, 3.0)),
        ((-math.inf, math.inf), [-2.0, math.nan, 4.0], (-2.0, 4.0)),
        ((-math.inf, math.inf), [2.0, 2.0], (1.5, 2.5)),
    ],
)
def test_limits_are_the_supports_or_else_those_of_the_values(bounds, values, limits):
    assert value_limits(*bounds, torch.tensor(values)) == limits


@pytest.mark.parametrize(("name", "format"), [("a.png", "PNG"), ("a", "PNG"), ("a.jpg", "JPEG"), ("new/folder/a.tif", "TIFF")])
def test_a_figure_is_written_in_the_format_that_its_name_ends_in(name, format, tmp_path):
    file = save_figure(new_figure(1, 1), tmp_path / name)
    assert file == (tmp_path / name if file.suffix != ".png" else (tmp_path / name).with_suffix(".png"))
    assert Image.open(file).format == format
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_link_in_a_pictures_place_is_replaced_and_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("not a picture")
    link = tmp_path / "samples.png"
    link.symlink_to(precious)
    save_figure(StubFigure(), link)
    assert precious.read_text() == "not a picture"
    assert not link.is_symlink()
    assert link.read_bytes() == b"a picture"


def test_a_picture_that_cannot_be_drawn_leaves_the_earlier_one(tmp_path):
    class Broken(StubFigure):
        def savefig(self, stream, format):
            stream.write(b"half")
            raise ValueError("no such font")

    file = save_figure(StubFigure(), tmp_path / "samples.png")
    with pytest.raises(ValueError, match="font"):
        save_figure(Broken(), file)
    assert file.read_bytes() == b"a picture"
    assert [p.name for p in tmp_path.iterdir()] == ["samples.png"]


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        save_figure(new_figure(1, 1), tmp_path / "picture.xyz")
    assert list(tmp_path.iterdir()) == []
