"""What does `vaekit.fit` cost over a bare loop? Milliseconds a step of a dense model on real digits.

Contenders, interleaved in one process: `vaekit.fit`, plain and with each of its options that costs something; a loop written by
hand with the textbook's operator (randn_like, exp, the KL in one line), fused Adam and nothing else; pythae, where it is
installed (pip install pythae==0.1.2), through the steps of its own trainer. Each time, a contender trains for three epochs of 71
steps of 64, setting up its optimizer included. Peak memory is measured in a process of its own for each. With --processes, two
processes of one thread each take the same steps, alternating with one process of two threads, start-up not counted.

    python benchmarks/training.py [--model dense-mnist | burda-mnist] [--rounds 9] [--processes] [--csv FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import header, interleaved, peak_memory, ratios, spread, table, timed, write_csv
from torch import nn
from torch.nn import functional as F

import vaekit

BATCH, EPOCHS = 64, 3
MODELS = {"dense-mnist": ((2000, 256), 2, nn.ReLU), "burda-mnist": ((200, 200), 50, nn.Tanh)}


class BareVAE(nn.Module):
    """The model as a person would write it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        (first, second), latent, kind = MODELS[name]
        self.encoder = nn.Sequential(
            nn.Linear(784, first), kind(), nn.Linear(first, second), kind(), nn.Linear(second, 2 * latent)
        )
        self.decoder = nn.Sequential(nn.Linear(latent, second), kind(), nn.Linear(second, first), kind(), nn.Linear(first, 784))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl) / len(x)


def bare(name: str, x: torch.Tensor) -> Callable[[], object]:
    model, flat = BareVAE(name), x.flatten(1)

    def train() -> None:
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(flat)).split(BATCH):
                loss = model(flat[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()

    return train


def fit(name: str, x: torch.Tensor, **options: object) -> Callable[[], object]:
    vae = vaekit.create_vae(name, seed=0)
    return lambda: vaekit.fit(vae, x, **{"epochs": EPOCHS, "batch_size": BATCH, "progress": False, **options})


def fit_with_checkpoints(name: str, x: torch.Tensor) -> Callable[[], object]:
    train = partial(vaekit.fit, vaekit.create_vae(name, seed=0), x, epochs=EPOCHS, batch_size=BATCH, progress=False)

    def train_in_a_folder() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(out=folder, checkpoint_minutes=1 / 60)

    return train_in_a_folder


def pythae(name: str, x: torch.Tensor) -> Callable[[], object]:
    assert name == "dense-mnist"
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


CONTENDERS: dict[str, Callable[[str, torch.Tensor], Callable[[], object]]] = {
    "bare loop": bare,
    "vaekit.fit": fit,
    "fit, accumulate=2": partial(fit, batch_size=BATCH // 2, accumulate=2),
    "fit, ema=0.999": partial(fit, ema=0.999),
    "fit, precision=bf16": partial(fit, precision="bf16"),
    "fit, a checkpoint a second": fit_with_checkpoints,
    "pythae": pythae,
}


def added_memory(model: str, name: str) -> str:
    """MiB that a contender's training adds to a process that holds the data already, in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def seconds_of_processes(model: str, processes: int) -> float:
    """Seconds of training by so many processes, which share two threads, without their start."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, __file__, "--model", model, "--in-process", str(2 // processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def train_in_process(model: str, x: torch.Tensor, threads: int) -> None:
    """Train as one of the processes that torchrun started; the first prints the seconds."""
    torch.set_num_threads(threads)
    work = fit(model, x, device="cpu")
    work()  # warm up
    start = time.perf_counter()
    work()
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender is timed")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--model", choices=MODELS, default="dense-mnist", help="a preset")
    parser.add_argument("--processes", action="store_true", help="one process against two, and nothing else")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    x = vaekit.data.load("mnist5k")[0].x
    steps = EPOCHS * -(-len(x) // BATCH)
    if args.in_process:
        train_in_process(args.model, x, args.in_process)
        return
    if args.memory_of:
        import lightning_fabric  # noqa: F401 (importing it is not training)

        added = peak_memory(lambda: CONTENDERS[args.memory_of](args.model, x)())
        print("unknown" if added is None else f"{added:.0f}")
        return
    print(header())
    print(f"{args.model}, {len(x)} digits, batch {BATCH}, {steps} steps a round, {args.rounds} rounds; median (quartiles)\n")
    if args.processes:
        of = {f"{n} process{'es' if n > 1 else ''}": partial(seconds_of_processes, args.model, n) for n in (1, 2)}
        seconds = interleaved(of, args.rounds)
        rows: list[tuple[str, ...]] = [("", "ms a step", "times one process")]
        rows += [
            (name, spread(each, 1000 / steps), spread(ratios(each, seconds["1 process"]), digits=3))
            for name, each in seconds.items()
        ]
        print(table(rows))
        write_csv(args.csv, rows)
        return
    has_pythae = args.model == "dense-mnist" and importlib.util.find_spec("pythae") is not None
    names = [name for name in CONTENDERS if name != "pythae" or has_pythae]
    seconds = interleaved({name: timed(CONTENDERS[name](args.model, x)) for name in names}, args.rounds)
    rows = [("", "ms a step", "times the bare loop", "peak memory, MiB")]
    for name in names:
        relative = ratios(seconds[name], seconds["bare loop"])
        rows.append((name, spread(seconds[name], 1000 / steps), spread(relative, digits=3), added_memory(args.model, name)))
    print(table(rows))
    if not has_pythae and args.model == "dense-mnist":
        print("\npythae is not installed: pip install pythae==0.1.2 adds its line")
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
