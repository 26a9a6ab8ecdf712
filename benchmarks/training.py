"""What does `vaekit.fit` cost over a bare loop? Milliseconds a step of the dense 784-2000-256-2 model on real digits.

Contenders, interleaved in one process: `vaekit.fit`; a loop written by hand with the textbook's operator (randn_like, exp,
the KL in one line), fused Adam and nothing else; pythae, where it is installed (pip install pythae==0.1.2), through the steps of
its own trainer. Each time, a contender trains for three epochs of 71 steps of 64, setting up its optimizer included. Peak memory
is measured in a process of its own for each.

    python benchmarks/training.py [--rounds 9] [--csv FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from harness import header, interleaved, peak_memory, ratios, spread, table, timed, write_csv
from torch import nn
from torch.nn import functional as F

import vaekit

BATCH, EPOCHS = 64, 3


class BareVAE(nn.Module):
    """The model as a person would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 2000), nn.ReLU(), nn.Linear(2000, 256), nn.ReLU(), nn.Linear(256, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 2000), nn.ReLU(), nn.Linear(2000, 784))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl) / len(x)


def bare(x: torch.Tensor) -> Callable[[], object]:
    model, flat = BareVAE(), x.flatten(1)

    def train() -> None:
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(flat)).split(BATCH):
                loss = model(flat[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()

    return train


def fit(x: torch.Tensor) -> Callable[[], object]:
    vae = vaekit.create_vae("dense-mnist", seed=0)
    return lambda: vaekit.fit(vae, x, epochs=EPOCHS, batch_size=BATCH, progress=False)


def pythae(x: torch.Tensor) -> Callable[[], object]:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch.utils.data import DataLoader

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(784, 2000), nn.ReLU(), nn.Linear(2000, 256), nn.ReLU())
            self.mu, self.logvar = nn.Linear(256, 2), nn.Linear(256, 2)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.body(x.flatten(1))
            return ModelOutput(embedding=self.mu(h), log_covariance=self.logvar(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 2000), nn.ReLU(), nn.Linear(2000, 784))

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.body(z)).reshape(-1, 1, 28, 28))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=2, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    # what pythae.trainers.BaseTrainer.train_step does for each batch
    loader = DataLoader(BaseDataset(x, torch.zeros(len(x))), batch_size=BATCH, shuffle=True)

    def train() -> None:
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        for epoch in range(EPOCHS):
            for inputs in loader:
                output = model(inputs, epoch=epoch + 1, dataset_size=len(x), uses_ddp=False)
                adam.zero_grad()
                output.loss.backward()
                adam.step()
                output.loss.item()

    return train


CONTENDERS = {"bare loop": bare, "vaekit.fit": fit, "pythae": pythae}


def added_memory(name: str) -> str:
    """MiB that a contender's training adds to a process that holds the data already, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--memory-of", name], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender is timed")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    x = vaekit.data.load("mnist5k")[0].x
    steps = EPOCHS * -(-len(x) // BATCH)
    if args.memory_of:
        import lightning_fabric  # noqa: F401 (importing it is not training)

        added = peak_memory(lambda: CONTENDERS[args.memory_of](x)())
        print("unknown" if added is None else f"{added:.0f}")
        return
    names = [name for name in CONTENDERS if name != "pythae" or importlib.util.find_spec("pythae")]
    print(header())
    print(f"dense-mnist, {len(x)} digits, batch {BATCH}, {steps} steps a round, {args.rounds} rounds; median (quartiles)\n")
    seconds = interleaved({name: timed(CONTENDERS[name](x)) for name in names}, args.rounds)
    rows: list[tuple[str, ...]] = [("", "ms a step", "times the bare loop", "peak memory, MiB")]
    for name in names:
        relative = ratios(seconds[name], seconds["bare loop"])
        rows.append((name, spread(seconds[name], 1000 / steps), spread(relative, digits=3), added_memory(name)))
    print(table(rows))
    if "pythae" not in names:
        print("\npythae is not installed: pip install pythae==0.1.2 adds its line")
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
