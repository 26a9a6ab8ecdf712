"""A small network that recognises digits, whose features say how alike pictures of digits are: for FID and its like.

Its weights lie beside this file. They were made by

    python tests/helpers/digits_classifier.py

which takes half a minute, and says of how many held-out digits the trained network is right.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_suffix(".safetensors")


class DigitsClassifier(nn.Module):
    """Pictures [N, 1, 28, 28] in [0, 1] -> features [N, 64]: the mean and the maximum of each of the last layer's channels."""

    num_features = 64  # for torchmetrics, which asks

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 32)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[n], widths[n + 1], 3, stride=1 + n % 2, padding=1) for n in range(len(widths) - 1)
        )
        self.head = nn.Linear(self.num_features, 10)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """[N, 10]."""
        return self.head(self(x))


def digits_classifier() -> DigitsClassifier:
    """The trained network, whose weights stay as they are."""
    classifier = DigitsClassifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.eval().requires_grad_(False)


def shifted(x: Tensor) -> Tensor:
    """Each digit moved by up to two pixels, so that more of them are seen than there are."""
    rows = torch.randint(0, 5, (len(x), 2))
    padded = F.pad(x, (2, 2, 2, 2))
    return torch.stack([one[:, r : r + 28, c : c + 28] for one, (r, c) in zip(padded, rows.tolist(), strict=True)])


def train(epochs: int) -> None:
    import vaekit

    torch.set_num_threads(1)  # so that the weights are the same again
    torch.manual_seed(0)
    digits, held_out = vaekit.data.load("mnist5k")
    classifier = DigitsClassifier()
    adam = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    batches = epochs * (len(digits.x) // 60)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 6e-3, total_steps=batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.x)).split(60):
            adam.zero_grad()
            F.cross_entropy(classifier.logits(shifted(digits.x[rows])), digits.y[rows]).backward()
            adam.step()
            schedule.step()
    with torch.no_grad():
        right = int((classifier.logits(held_out.x).argmax(1) == held_out.y).sum())
    print(f"right about {right} of {len(held_out.x)} held-out digits", file=sys.stderr)
    save_file(classifier.state_dict(), WEIGHTS)


if __name__ == "__main__":
    train(epochs=15)
