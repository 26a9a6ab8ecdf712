"""Residual vector quantisation: algorithm 1 of the paper in numpy, and by vector-quantize-pytorch's numbers."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit.posteriors import ResidualVectorQuantizedFamily


def encoded(rows, seed=0):
    return torch.randn(rows, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def family_of(**options):
    torch.manual_seed(0)
    return ResidualVectorQuantizedFamily((4, 3), **{"codes": 6, "quantizers": 3, **options}).double()


def test_each_level_rounds_what_the_ones_before_left():
    family, z = family_of(decay=None), encoded(20).requires_grad_()
    q = family(z)
    left, total, squares = z.detach().movedim(1, -1).numpy(), 0.0, 0.0
    for level, book in enumerate(family.quantizers):
        codes = book.codebook.detach().numpy()
        chosen = ((left[..., None, :] - codes) ** 2).sum(-1).argmin(-1)
        assert np.array_equal(q.indices[:, level], chosen)
        squares = squares + ((left - codes[chosen]) ** 2).reshape(20, -1).sum(1)
        left, total = left - codes[chosen], total + codes[chosen]
    assert_close(q.mean.detach(), torch.from_numpy(total).movedim(-1, 1))
    for term in (q.commitment(), q.penalties()["codebook"]):
        assert_close(term.detach(), torch.from_numpy(squares))
    (of_z,) = torch.autograd.grad(q.commitment().sum(), z, retain_graph=True)
    parts = [2.0 * (level.encoded - level.mean).detach() for level in q.levels]
    assert_close(of_z, sum(parts))
    of_codes = torch.autograd.grad(q.penalties()["codebook"].sum(), [book.codebook for book in family.quantizers])
    assert all(gradient.abs().sum() > 0 for gradient in of_codes)


def test_each_book_makes_the_error_smaller_from_the_first_batch_on():
    family, z = family_of(codes=16), encoded(400)
    family(z).update_codebook(vaekit.make_key(0))
    errors = [float(level.commitment().mean()) for level in family(z).levels]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]
    assert all(book.placed.all() for book in family.quantizers)


def test_books_learn_from_keys_of_their_own():
    family, z = family_of(codes=4, quantizers=2), encoded(50)
    family(z).update_codebook(vaekit.make_key(0))
    again = family_of(codes=4, quantizers=2)
    again(z).update_codebook(vaekit.make_key(1))
    assert not torch.equal(family.quantizers[1].codebook, again.quantizers[1].codebook)
    assert family.is_learning
    family.requires_grad_(False)
    assert not family.is_learning


def test_numbers_are_those_of_vector_quantize_pytorch():
    peers = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    theirs = peers.ResidualVQ(dim=4, codebook_size=6, num_quantizers=3).double().eval()
    family, z = family_of(), encoded(20)
    with torch.no_grad():
        for book, peer in zip(family.quantizers, theirs.layers, strict=True):
            book.codebook.copy_(peer.codebook)
    mean, indices, _ = theirs(z.movedim(1, -1))
    q = family(z)
    assert torch.equal(q.indices.movedim(1, -1), indices)
    assert_close(q.mean.movedim(1, -1), mean)
    assert_close(family.embedded(q.indices).movedim(1, -1), theirs.get_output_from_indices(indices))
