"""Laws of the weights' file: safetensors' own reader finds what was written, which took no second copy of it."""

import io
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaekit import weights
from vaekit.memory import MemoryBound


def written(tensors, metadata=None) -> bytes:
    stream = io.BytesIO()
    weights.write(stream, tensors, metadata or {})
    return stream.getvalue()


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def bits(shape, dtype, seed=0) -> torch.Tensor:
    """Any bits, NaN and infinity among them."""
    one = torch.empty((), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    highest = 2 if dtype == torch.bool else 256
    flat = torch.randint(highest, (one.element_size() * torch.Size(shape).numel(),), dtype=torch.uint8, generator=generator)
    return flat.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", weights.DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0, 3), (0,), (4, 1, 1, 3)], ids=str)
def test_the_reader_of_safetensors_finds_every_dtype_and_shape(dtype, shape):
    tensor = bits(shape, getattr(torch, dtype))
    read = safetensors.torch.load(written({"tensor": tensor, "other": torch.ones(1)}))
    assert_same(read["tensor"], tensor)
    assert_same(read["other"], torch.ones(1))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(list(weights.DTYPES))),
        max_size=6,
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_names_come_back_and_every_tensor_begins_where_its_dtype_may(described, text):
    tensors = {
        name: bits(shape, getattr(torch, dtype), seed) for seed, (name, (shape, dtype)) in enumerate(sorted(described.items()))
    }
    content = written(tensors, {"text": text})
    read = safetensors.torch.load(content)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert_same(read[name], tensor)
    assert int.from_bytes(content[:8], "little") % 8 == 0
    for name, entry in safetensors.deserialize(content):
        assert entry["dtype"] == weights.DTYPES[weights.outline_of(tensors[name]).dtype]


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1:],
        lambda t: t[0].expand(5, 4),
        lambda t: torch.view_as_complex(t.reshape(-1, 2)).conj().imag,
        lambda t: t.clone().requires_grad_(),
        lambda t: torch.nn.Parameter(t),
    ],
    ids=["transposed", "strided", "expanded", "negated", "with gradient", "parameter"],
)
def test_views_are_written_as_what_they_show(view):
    tensor = view(torch.randn(6, 4))
    assert torch.equal(safetensors.torch.load(written({"view": tensor}))["view"], tensor)


def test_what_is_shared_is_written_twice():
    tensor = torch.randn(3)
    read = safetensors.torch.load(written({"one": tensor, "other": tensor, "part": tensor[1:]}))
    assert torch.equal(read["one"], read["other"])
    assert torch.equal(read["part"], tensor[1:])


def test_writing_copies_at_most_one_tensor(tmp_path):
    large = {f"{number}": torch.ones(1 << 20) for number in range(8)}  # 4 MiB each
    transposed = torch.ones(1 << 10, 1 << 10).t()
    tracemalloc.start()
    try:
        with MemoryBound(transposed.nbytes + 4096, tensors=100), open(tmp_path / "file", "wb") as stream:
            weights.write(stream, {**large, "transposed": transposed}, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert (tmp_path / "file").stat().st_size > 9 * transposed.nbytes


def test_outlines_are_known_before_anything_is_read(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.bool)}
    (tmp_path / "file").write_bytes(written(tensors, {"text": "x"}))
    with weights.opened(tmp_path / "file") as stored:
        assert stored.metadata == {"text": "x"}
        assert stored.outlines == {name: weights.outline_of(tensor) for name, tensor in tensors.items()}
        assert str(stored.outlines["a"]) == "float32 (2, 3)"
        assert torch.equal(stored.tensor("a"), tensors["a"])
