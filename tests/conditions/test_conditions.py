"""Labels and vectors: what the networks get of them, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vaekit import conditions
from vaekit.conditions import Labels, Vector


def test_labels_are_one_hot():
    labels = torch.tensor([2, 0, 1, 2])
    assert torch.equal(Labels(3)(labels), F.one_hot(labels, 3).float())
    assert Labels(3).double()(labels).dtype == torch.float64
    assert Labels(3).dim == 3


def test_learned_labels_are_rows_of_a_table_that_learns():
    kind = Labels(5, dim=2)
    embedded = kind(torch.tensor([4, 1, 4]))
    assert torch.equal(embedded, torch.stack([kind.vectors[4], kind.vectors[1], kind.vectors[4]]))
    embedded.sum().backward()
    assert kind.vectors.grad.sum(1).tolist() == [0.0, 2.0, 0.0, 0.0, 4.0]
    assert [name for name, _ in kind.named_parameters()] == ["vectors"]
    assert not list(Labels(5).state_dict())  # one-hot vectors need not be saved


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("classes", [3, 128, 256, 300])
@pytest.mark.parametrize("dim", [None, 2])
def test_labels_of_any_integer_type_are_taken(dtype, classes, dim):
    kind = Labels(classes, dim)
    rows = kind.as_rows(np.array([0, 2], dtype=dtype), 2)
    kind.check(rows)
    assert torch.equal(kind(rows), kind(torch.tensor([0, 2])))


def test_one_hot_vectors_of_many_classes_need_no_table_of_them():
    assert sum(b.numel() for b in Labels(10**6).buffers()) == 1
    assert Labels(2000).label(torch.tensor(1234)) == "1234"


def test_one_label_stands_for_all():
    assert Labels(3).as_rows(2, 4).tolist() == [2, 2, 2, 2]
    assert Labels(3).as_rows([2, 0], 2).tolist() == [2, 0]
    assert Vector(2).as_rows([0.5, 1.0], 2).tolist() == [[0.5, 1.0], [0.5, 1.0]]
    assert Labels(3).as_rows([2], 3).tolist() == [2, 2, 2]
    assert Vector(2).as_rows([[0.5, 1.0]], 2).tolist() == [[0.5, 1.0], [0.5, 1.0]]


@pytest.mark.parametrize("kind", [Labels(3), Vector(2)], ids=repr)
def test_an_empty_list_stands_for_none(kind):
    assert kind(kind.as_rows([], 0)).shape == (0, kind.dim)
    with pytest.raises(ValueError, match="for 2 example"):
        kind.as_rows([], 2)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (None, ValueError, "no condition was given"),
        ([0, 1], ValueError, r"got the shape \(2,\) for 3"),
        ([[0], [1], [2]], ValueError, r"got the shape \(3, 1\): y\[:, 0\] takes the numbers"),
        (torch.eye(3), ValueError, r"got the shape \(3, 3\): y.argmax\(1\)"),
        ([0.0, 1.0, 2.0], TypeError, r"float32: labels.long\(\)"),
        ([True, False, True], TypeError, "bool"),
    ],
)
def test_labels_refuse(given, error, words):
    with pytest.raises(error, match=words):
        Labels(3).as_rows(given, 3)


@pytest.mark.parametrize("label", [-2, 3])
def test_a_label_that_is_none_of_the_classes_is_refused(label):
    with pytest.raises(ValueError, match=f"from 0 to 2 .*; got {label}"):
        Labels(3)(torch.tensor([0, label]))


def test_a_vector_is_taken_as_it_is_or_through_a_layer():
    vectors = torch.randn(5, 3)
    assert torch.equal(Vector(3)(vectors), vectors)
    kind = Vector(3, dim=4, activation="tanh")
    weight, bias = kind.layers[0].weight, kind.layers[0].bias
    assert torch.allclose(kind(vectors), torch.tanh(vectors @ weight.T + bias), atol=1e-6)
    assert (Vector(3).dim, kind.dim) == (3, 4)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([[0, 1]], TypeError, r"int64: vectors.float\(\)"),
        (torch.zeros(2, 2), ValueError, r"got the shape \(2, 2\) for 1"),
        (torch.zeros(1, 3), ValueError, r"floats \[batch, 2\]; got the shape \(1, 3\)"),
    ],
)
def test_vectors_refuse(given, error, words):
    with pytest.raises(error, match=words):
        Vector(2).as_rows(given, 1)


def test_a_single_number_for_each_example_is_a_vector_of_one():
    with pytest.raises(ValueError, match=r"\(3,\).*y\[:, None\]"):
        Vector(1).as_rows([20, 30, 40], 3)
    with pytest.raises(ValueError, match="activation='tanh'.*with dim"):
        Vector(3, activation="tanh")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused_by_its_row(bad):
    vectors = torch.zeros(4, 2)
    vectors[2, 1] = bad
    with pytest.raises(ValueError, match="2 of 4.*NaN"):
        Vector(2).check(vectors)


@pytest.mark.parametrize("option", [{"classes": 0}, {"classes": 2.0}, {"classes": 3, "dim": 0}])
def test_sizes_are_whole_numbers(option):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        conditions.create("labels", **option)


def test_what_a_picture_shows():
    assert Labels(3).all_values().tolist() == [0, 1, 2]
    assert Vector(2).all_values() is None
    assert Labels(3).label(torch.tensor(2)) == "2"
    assert Vector(2).label(torch.tensor([0.25, -1.0])) == "0.25, -1"
    assert Vector(9).label(torch.arange(9.0)) == "0, 1, 2, ..."
