"""The IDX reader, against files written with `struct` alone."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from vaekit.data.idx import read_idx

CODES = {0x08: np.uint8, 0x09: np.int8, 0x0B: np.int16, 0x0C: np.int32, 0x0D: np.float32, 0x0E: np.float64}
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)

codes_and_arrays = st.sampled_from(list(CODES)).flatmap(
    lambda code: st.tuples(st.just(code), st_numpy.arrays(CODES[code], SHAPES))
)


@pytest.fixture(scope="module")
def put(tmp_path_factory):
    """put(content): a file that holds it."""
    file = tmp_path_factory.mktemp("idx") / "file-idx3-ubyte"

    def write(content):
        file.write_bytes(content)
        return file

    return write


def refusal(file):
    """The text with which the file is refused; it names the file."""
    with pytest.raises(ValueError) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def read_or_message(file):
    """The array, or the text of the ValueError."""
    try:
        return read_idx(file)
    except ValueError as error:
        return str(error)


@given(codes_and_arrays, st.booleans())
def test_what_was_written_is_read_plain_and_gzipped(put, idx_bytes, written, gzipped):
    code, array = written
    content = idx_bytes(array, code)
    read = read_idx(put(gzip.compress(content) if gzipped else content))
    assert read.dtype == CODES[code]
    assert read.dtype.isnative
    assert read.shape == array.shape
    np.testing.assert_array_equal(read, array)


def test_values_are_big_endian(put):
    file = put(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x01, 0x02, 0xFF, 0xFE]))
    assert read_idx(file).tolist() == [0x0102, -2]


def test_the_array_can_be_written_to(put, idx_bytes):
    read_idx(put(idx_bytes(np.zeros(3, np.uint8))))[0] = 1


def test_gzip_is_told_by_the_content_and_not_by_the_name(tmp_path, idx_bytes):
    array = np.arange(6, dtype=np.uint8)
    (tmp_path / "plain.gz").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), array)


@given(codes_and_arrays, st.data())
def test_a_file_cut_at_any_byte_is_refused_and_the_message_says_how_many_were_expected(put, idx_bytes, written, data):
    code, array = written
    content, header = idx_bytes(array, code), 4 + 4 * array.ndim
    cut = data.draw(st.integers(4, len(content) - 1) if len(content) > 4 else st.nothing())
    message = refusal(put(content[:cut]))
    assert "truncated" in message
    assert {str(cut), str(len(content) if cut >= header else header)} <= set(re.findall(r"\d+", message.split("ubyte")[1]))


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_file_cut_before_its_sizes_is_called_truncated(put, idx_bytes, cut):
    assert re.search("truncated|empty", refusal(put(idx_bytes(np.zeros((2, 3), np.uint8))[:cut])))


@given(codes_and_arrays, st.binary(min_size=1, max_size=9))
def test_a_file_with_bytes_left_over_is_refused(put, idx_bytes, written, left_over):
    content = idx_bytes(written[1], written[0])
    message = refusal(put(content + left_over))
    assert f"takes {len(content)} bytes" in message


@pytest.mark.parametrize(
    "start", [b"\1\0\x08\1", b"\0\1\x08\1", b"\0\0\x00\1", b"\0\0\x0a\1", b"\0\0\x0f\1", b"<!DO", b"\x89PNG"]
)
def test_what_is_not_idx_is_refused_with_the_bytes_it_begins_with(put, start):
    message = refusal(put(start + b"\0\0\0\1\0"))
    assert "is not an IDX file" in message
    assert start.hex(" ") in message


@given(st.data())
def test_a_gzip_file_cut_at_any_byte_is_refused(put, idx_bytes, data):
    content = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8).reshape(2, 100)))
    cut = data.draw(st.integers(2, len(content) - 1))
    assert "gzip" in refusal(put(content[:cut]))


@given(st.data())
def test_a_gzip_file_with_a_flipped_bit_never_gives_other_values(put, idx_bytes, data):
    array = np.random.default_rng(0).integers(0, 256, (2, 100), np.uint8)
    content = bytearray(gzip.compress(idx_bytes(array)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file = put(bytes(content))
    read = read_or_message(file)
    if isinstance(read, str):
        assert str(file) in read
    else:  # the name, the time stamp and the like are in the header, and no checksum covers them
        np.testing.assert_array_equal(read, array)


@given(st.binary(max_size=64), st.sampled_from(list(CODES)))
@example(b"\xff" + bytes(4 * 255), 0x08)  # more dimensions than an array can have
@example(b"\3" + bytes(4) + b"\xff" * 8, 0x0E)  # empty, with sizes whose product overflows
@example(b"\4" + b"\xff" * 16, 0x08)  # 2^128 bytes
def test_any_bytes_give_an_array_or_a_refusal_that_names_the_file(put, rest, code):
    file = put(bytes([0, 0, code]) + rest)
    read = read_or_message(file)
    if isinstance(read, str):
        assert str(file) in read
    else:
        assert read.nbytes + 4 + 4 * read.ndim == 3 + len(rest)


def test_a_file_that_is_not_there_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")
