"""Sparse matrices of SciPy, held sparse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit.data import MappedArray, as_batches, as_examples, load, load_test

sparse = pytest.importorskip("scipy.sparse", reason='SciPy is not installed: pip install "vaekit[arrays]"')
DENSE = np.random.default_rng(0).poisson(0.3, (30, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix", "csc_array", "coo_matrix"])
@given(st.data())
def test_rows_are_indexed_like_those_of_the_dense_array(kind, data):
    examples = as_examples(getattr(sparse, kind)(DENSE))
    assert isinstance(examples.x, MappedArray)
    assert sparse.issparse(examples.x.array.matrix)
    assert examples.x.shape == (30, 8)
    index = data.draw(
        st.integers(-30, 29)
        | st.slices(30)
        | st.lists(st.integers(-30, 29), max_size=9).map(lambda rows: torch.tensor(rows, dtype=torch.int64))
    )
    np.testing.assert_array_equal(examples.x[index].numpy(), DENSE[np.asarray(index) if torch.is_tensor(index) else index])


def test_a_batch_is_dense_and_nothing_else_is(monkeypatch):
    matrix, asked = sparse.random_array((1000, 50_000), density=1e-4, format="csr", rng=0, dtype=np.float32), []
    real = type(matrix).toarray
    monkeypatch.setattr(type(matrix), "toarray", lambda self, *args, **options: asked.append(self.shape[0]) or real(self))
    whole = as_batches(matrix, 100)
    assert max(len(batch.x) for batch in whole) == max(asked) == 100


def test_a_file_of_a_sparse_matrix_is_read_and_labels_go_with_it(tmp_path):
    sparse.save_npz(tmp_path / "x.npz", sparse.csr_array(DENSE))
    assert sparse.issparse(load_test(tmp_path / "x.npz").x.array.matrix)
    assert torch.equal(load_test(tmp_path / "x.npz").x[:], torch.from_numpy(DENSE))
    with pytest.raises(TypeError, match=r"layout|arrays"):
        load(tmp_path / "x.npz", arrays={"x": "data"})
    train, test = load((sparse.csr_array(DENSE), np.arange(30)), validation=0.5)
    assert torch.equal(train.x[:], torch.from_numpy(DENSE)[train.y])
    assert sorted([*train.y.tolist(), *test.y.tolist()]) == list(range(30))


def test_a_model_is_trained_on_it_as_on_the_dense_array():
    losses = []
    for data in (sparse.csr_array(DENSE), DENSE):
        vae = vaekit.create_vae(
            input_shape=(8,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="poisson", seed=0
        )
        losses.append(vaekit.fit(vae, data, epochs=2, batch_size=8, progress=False, device="cpu")["loss"])
    assert losses[0] == losses[1]


def test_what_has_no_rows_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"\[examples, features\]"):
        as_examples(sparse.coo_array(DENSE[0]))
    with pytest.raises(TypeError, match="real numbers"):
        as_examples(sparse.csr_array(DENSE.astype(np.complex64)))
