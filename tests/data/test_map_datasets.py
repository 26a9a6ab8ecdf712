"""torch's map-style datasets: torchvision's kinds, made in the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from vaekit.data import MappedArray, Whole, as_batches, as_examples, load

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
LABELS = [0, 1, 2] * 4


class Pictures(Dataset):
    """What torchvision's datasets are like.

    Args:
        give: (picture, label) -> an item.
        keeps: the attributes that hold all labels and their names.
    """

    def __init__(self, give=lambda picture, label: (picture, label), **keeps):
        self.give, self.asked = give, []
        vars(self).update(keeps)

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, row):
        self.asked.append(row)
        return self.give(PIXELS[row], LABELS[row])


EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255


def as_tensor(picture, label):
    """torchvision's ToTensor."""
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255, torch.tensor(label)


FORMS = {
    "arrays": lambda picture, label: (picture, label),
    "tensors": as_tensor,
    "mapping": lambda picture, label: {"image": picture, "label": label, "id": 5},
    "lists": lambda picture, label: [picture, np.int64(label), "more"],
}


@pytest.mark.parametrize("form", [*FORMS, "pillow"])
def test_a_dataset_is_examples(form):
    if form == "pillow":
        image = pytest.importorskip("PIL.Image")
        dataset = Pictures(lambda picture, label: (image.fromarray(picture), label))
    else:
        dataset = Pictures(FORMS[form])
    examples = as_examples(dataset)
    assert isinstance(examples.x, MappedArray)
    assert isinstance(as_batches(dataset, 4), Whole)
    torch.testing.assert_close(examples.x[:], EXPECTED, rtol=1e-6, atol=0)
    torch.testing.assert_close(examples.x[torch.tensor([5, 0])], EXPECTED[[5, 0]], rtol=1e-6, atol=0)
    assert examples.y.tolist() == LABELS
    assert sum(len(part) for part in load(dataset)) == 12


def test_labels_that_a_dataset_keeps_are_taken_from_there_with_their_names():
    dataset = Pictures(as_tensor, targets=LABELS, classes=["cat", "dog", "eel"])
    examples = as_examples(dataset)
    assert (examples.y.tolist(), examples.label_names) == (LABELS, ("cat", "dog", "eel"))
    assert set(dataset.asked) == {0}


def test_datasets_without_labels_and_of_tensors_and_parts_of_one():
    assert as_examples(Pictures(lambda picture, label: picture)).y is None
    tensors = as_examples(TensorDataset(EXPECTED, torch.tensor(LABELS)))
    assert torch.equal(tensors.x, EXPECTED)
    assert tensors.y.tolist() == LABELS
    assert as_examples(TensorDataset(EXPECTED)).y is None
    assert as_examples(Subset(Pictures(), [3, 4])).y.tolist() == LABELS[3:5]


def test_what_augments_or_differs_in_size_or_has_no_x_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(TypeError, match="Pictures gives other values each time.*DataLoader"):
        as_examples(Pictures(lambda picture, label: (random.random((3, 9, 7)), label)))
    sizes = iter([9, 9, 9, 9, *range(3, 30)])
    with pytest.raises(ValueError, match=r"example 1 of the Pictures has the shape"):
        as_examples(Pictures(lambda picture, label: np.ones((3, next(sizes), 7)))).x[:]
    with pytest.raises(TypeError, match="one of: x, image"):
        as_examples(Pictures(lambda picture, label: {"photo": picture}))
