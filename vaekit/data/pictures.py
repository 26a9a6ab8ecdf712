"""Reader of folders of pictures, through Pillow: decoded when they are asked for, by threads, a batch at a time.

Sub-folders are classes, and their names the labels' names; train, val and test are parts.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from vaekit.checks import checked_flag, checked_sizes, checked_word
from vaekit.data.arrays import examples_of
from vaekit.data.examples import Examples
from vaekit.data.readers import Parts, reader
from vaekit.data.row_file import row_numbers
from vaekit.files import open_regular

_SKIPPING = "skip_corrupt=True (--read skip_corrupt=true) leaves such files out"
T = TypeVar("T")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
GREY, _DEEP = ("1", "L", "LA", "La"), ("I;16", "I;16B", "I;16L", "I;16N", "I")  # modes of Pillow
_LEVELS = {"uint8": 255.0, "float32": 1.0}
_WORKERS = min(8, os.cpu_count() or 1)


class _Header(NamedTuple):
    """What a picture's file says of it, and the error where it says nothing."""

    size: tuple[int, int] = (0, 0)  # height, width
    mode: str = ""
    error: str = ""


class Form(NamedTuple):
    """What every picture is made into.

    Attributes:
        height, width: in pixels.
        is_grey: one channel rather than three.
        is_deep: of 16 bits: float32 from 0 to 1 rather than bytes.
    """

    height: int
    width: int
    is_grey: bool
    is_deep: bool


class PictureFiles:
    """The array [N, C, H, W] of pictures in files, decoded when they are indexed.

    Attributes:
        shape: [N, C, H, W].
        dtype: uint8; float32 from 0 to 1 where there are pictures of 16 bits.

    Raises:
        ValueError: when indexed, a file that is corrupt or gone; names it.
    """

    def __init__(self, files: Sequence[Path], form: Form) -> None:
        self.files, self.form = list(files), form
        self.shape = (len(self.files), 1 if form.is_grey else 3, form.height, form.width)
        self.dtype = np.dtype(np.float32 if form.is_deep else np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        rows = row_numbers(index, len(self), "the pictures")
        values = np.empty((rows.size, *self.shape[1:]), self.dtype)

        def decode(place: int, row: int) -> None:
            values[place] = _decoded(self.files[row], self.form)

        _each(lambda pair: decode(*pair), list(enumerate(rows.reshape(-1).tolist())))
        return values.reshape((*rows.shape, *self.shape[1:]))


def _each(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """What threads make of the items, in their order; Pillow lets others run while it decodes."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(_WORKERS, len(items)), thread_name_prefix="vaekit-pictures") as threads:
        return list(threads.map(work, items))


def _decoded(file: Path, form: Form) -> npt.NDArray[Any]:
    from PIL import Image

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            return arranged_picture(image, form)
    except Exception as error:  # Pillow reports damage in many ways
        raise ValueError(f"{file} cannot be read as a picture ({error or type(error).__name__}); {_SKIPPING}") from error


def arranged_picture(image: Any, form: Form) -> npt.NDArray[Any]:
    """A picture of Pillow as an array [C, H, W] of a form: turned as its camera was held, resized and cropped to the middle.

    Opacity is laid over white.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and image.getextrema()[1] > 65535):
        raise ValueError(f"pictures of mode {image.mode} have no grey levels from black to white; save them as .npy")
    if form.is_deep and image.mode in _DEEP:
        image = Image.fromarray(np.asarray(image, np.float32) / 65535)
    else:
        if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if form.is_grey else "RGB")
    if image.size != (form.width, form.height):
        image = ImageOps.fit(image, (form.width, form.height), Image.Resampling.BICUBIC)
    values = np.asarray(image)
    if form.is_deep:
        values = np.clip(values, 0.0, 1.0) if values.dtype == np.float32 else values.astype(np.float32) / 255
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return values if form.is_grey else np.broadcast_to(values, (3, *values.shape[1:]))


def _pictures_in(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and those below it, in order; what is hidden is left out."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            yield from _pictures_in(entry)
        elif entry.name.lower().endswith(_SUFFIXES):
            yield entry


def _is_of_pictures(folder: Path) -> bool:
    is_other = any(folder.glob("*.npy")) or any(folder.glob("*idx?-ubyte*"))
    return not is_other and next(_pictures_in(folder), None) is not None


@reader("folders of pictures (png, jpg, webp, bmp, tiff, gif)", is_folder=_is_of_pictures, extra="images")
def read_pictures(
    path: Path, *, size: int | Sequence[int] | None = None, colour: str = "auto", skip_corrupt: bool = False
) -> Parts:
    """Examples [N, C, H, W] of a folder of pictures, decoded when they are used.

    Pictures lie in the folder, or in a sub-folder for each class, whose names are the labels' names; or so in sub-folders train
    and test (or val where there is no test). Of an animated gif the first picture counts.

    Args:
        path: the folder.
        size: height and width, or one number for both: each picture is scaled until it covers them, and cropped to its middle.
            Pictures of different sizes need it.
        colour: "colour", "grey", or "auto": grey where all pictures are.
        skip_corrupt: decode every picture once now, and leave out, with a warning, those that cannot be.

    Raises:
        ValueError: pictures of different sizes, with the sizes found; a corrupt file, by name (of one whose beginning is sound,
            when it is used); pictures beside folders of classes, or a class that is not trained on.
        ModuleNotFoundError: Pillow is not installed.
    """
    checked_word("colour", colour, ("auto", "colour", "grey"))
    checked_flag("skip_corrupt", skip_corrupt)
    train, test = path / "train", next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    folders = [path] if test is None or not train.is_dir() else [train, test]
    labelled = [_labelled(folder) for folder in folders]
    headers = _each(_header, [file for files, _ in labelled for file in files])
    known = dict(zip((file for files, _ in labelled for file in files), headers, strict=True))
    if not skip_corrupt and (file := next((file for file in known if known[file].error), None)) is not None:
        raise ValueError(f"{file} cannot be read as a picture ({known[file].error}); {_SKIPPING}")
    form = _form_of([header for header in headers if not header.error], size, colour, path)
    parts = [_examples(files, names, _sound(files, known, form) if skip_corrupt else None, form) for files, names in labelled]
    return parts[0], parts[1].numbered_as(parts[0].label_names) if len(parts) > 1 else None


def _labelled(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The pictures in a folder, and the class of each, None where it has no folders of classes."""
    files = list(_pictures_in(folder))
    if not files:
        raise ValueError(f"{folder} has no pictures in it")
    inside = [file for file in files if file.parent == folder]
    if inside and len(inside) < len(files):
        raise ValueError(
            f"{folder} has pictures, {inside[0].name} for example, beside folders with pictures, which would be classes; "
            "put them into one of them"
        )
    return files, None if inside else [file.relative_to(folder).parts[0] for file in files]


def _header(file: Path) -> _Header:
    from PIL import Image

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            width, height = image.size
            is_turned = image.getexif().get(0x0112) in (5, 6, 7, 8)  # by a quarter: EXIF's tag "Orientation"
            return _Header((width, height) if is_turned else (height, width), image.mode)
    except Exception as error:  # Pillow reports damage in many ways
        return _Header(error=str(error) or type(error).__name__)


def _form_of(headers: list[_Header], size: int | Sequence[int] | None, colour: str, folder: Path) -> Form:
    if not headers:
        raise ValueError(f"{folder} has no picture that can be read")
    sizes = Counter(header.size for header in headers)
    if size is None and len(sizes) > 1:
        found = ", ".join(f"{height} x {width} ({count})" for (height, width), count in sizes.most_common(5))
        more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        raise ValueError(
            f"the pictures in {folder} have {len(sizes)} sizes, {found}{more}: size=64, or size=[HEIGHT, WIDTH], makes them one "
            "(--read size=64)"
        )
    wanted = size_of(size, next(iter(sizes)))
    is_grey = all(header.mode in (*GREY, *_DEEP) for header in headers) if colour == "auto" else colour == "grey"
    return Form(*wanted, is_grey, any(header.mode in _DEEP for header in headers))


def size_of(size: int | Sequence[int] | None, found: tuple[int, int]) -> tuple[int, int]:
    """Height and width that were said, or else those found."""
    if size is None:
        return found
    if isinstance(size, str) or not isinstance(size, (int, Sequence)):
        raise TypeError(f"size has to be one number, or height and width, got {size!r}")
    wanted = checked_sizes("size", (size, size) if isinstance(size, int) else tuple(size))
    if len(wanted) != 2:
        raise ValueError(f"size has to be one number, or height and width, got {size!r}")
    return wanted[0], wanted[1]


def _sound(files: list[Path], known: dict[Path, _Header], form: Form) -> list[bool]:
    """Whether each picture can be decoded; warns of those that cannot."""

    def can_decode(file: Path) -> bool:
        if known[file].error:
            return False
        try:
            _decoded(file, form)
        except ValueError:
            return False
        return True

    sound = _each(can_decode, files)
    if bad := [str(file) for file, is_sound in zip(files, sound, strict=True) if not is_sound]:
        listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        warnings.warn(f"{len(bad)} of {len(files)} pictures are corrupt and left out: {listed}", UserWarning, stacklevel=6)
    return sound


def _examples(files: list[Path], classes: list[str] | None, sound: list[bool] | None, form: Form) -> Examples:
    kept = [number for number in range(len(files)) if sound is None or sound[number]]
    array = PictureFiles([files[number] for number in kept], form)
    names = None if classes is None else sorted(set(classes))
    y = None if classes is None or names is None else torch.tensor([names.index(classes[number]) for number in kept])
    return examples_of(array, y, layout="NCHW", divisor=_LEVELS[array.dtype.name], label_names=names)
