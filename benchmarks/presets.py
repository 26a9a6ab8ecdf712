"""How fast is each preset, and what memory does training it take? A table of all that `vaekit.presets.names()` lists.

Columns:

    parameters         numbers that training adjusts
    forward            samples a second of `vae(x)`, the objective's terms, in evaluation mode and without gradients: what
                       `vaekit.evaluate` and the validation in `vaekit.fit` compute for each batch
    training           samples a second of a step: `vae(x)` in training mode, backward, fused Adam, as in `vaekit.fit`; that
                       reads data and shows progress besides (benchmarks/training.py tells what it costs)
    memory, MiB        how far two steps raise the resident memory of a process that has the model and the batch already:
                       gradients, Adam's two numbers a parameter, activations (two, because Adam's are there from the second on)

The batch is drawn from the new model itself, so that it has the shape and the support that the likelihood asks for. Networks
take as long for any values; likelihoods whose special functions do not (those of counts) see values that a new model expects,
which real data need not have. Adam's learning rate is 0, so that every round has the same weights.

Speeds are medians with quartiles; the presets take turns in every round, forward and training apart, each for long enough that
the clock does not show. Memory is measured once, on Linux, in a process of its own for each preset, which has trained a tiny
model before (so that PyTorch's own set-up is not in it) and gives every freed block of 64 KiB or more back; it blurs by a few
MiB. Samples a second grow with the batch until the processor is busy: compare presets at one batch size and number of threads.
"latent-diffusion" is without LPIPS, whose weights have to be downloaded, and with its discriminator from the first step on.

    python benchmarks/presets.py
    python benchmarks/presets.py --preset NAME --preset ANOTHER --batch-size 256 --threads 1 --csv table.csv
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import header, interleaved, peak_memory, quartiles, spread, table, timed, write_csv

import vaekit

TIMED_SECONDS = 0.1  # a timing repeats its work for so long
PASSES = ("forward", "training")
WITHOUT_DOWNLOADS = {"latent-diffusion": {"loss": {"distances": (), "start": 0}}}


def model(name: str) -> vaekit.VAE:
    return vaekit.create_vae(name, seed=0, **WITHOUT_DOWNLOADS.get(name, {}))


def drawn_batch(vae: vaekit.VAE, batch_size: int) -> torch.Tensor:
    return vae.eval().sample(batch_size, draw=True, key=vaekit.make_key(0))


def forward(vae: vaekit.VAE, x: torch.Tensor) -> Callable[[], object]:
    vae.eval()
    return torch.no_grad()(lambda: vae(x))


def training(vae: vaekit.VAE, x: torch.Tensor) -> Callable[[], object]:
    vae.train()
    adam = torch.optim.Adam(vae.parameters(), lr=0.0, fused=True)

    def step() -> None:
        vae(x).objective.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def contender(name: str, kind: str, batch_size: int) -> Callable[[], float]:
    """A pass of a preset, with a model and a batch of its own, as what times itself."""
    vae = model(name)
    x = drawn_batch(vae, batch_size)
    return timed({"forward": forward, "training": training}[kind](vae, x), at_least=TIMED_SECONDS)


def print_memory(name: str, batch_size: int) -> None:
    """MiB that two steps add to this process."""
    tiny = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    training(tiny, drawn_batch(tiny, 2))()
    vae = model(name)
    step = training(vae, drawn_batch(vae, batch_size))
    added = peak_memory(lambda: (step(), step()))
    print("unknown" if added is None else f"{added:.0f}")


def memory(name: str, batch_size: int, threads: int) -> str:
    """What `print_memory` prints, in a process of its own."""
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory-of", name, "--batch-size", str(batch_size), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **glibc})
    return done.stdout.strip()


def samples_a_second(seconds: Sequence[float], batch_size: int) -> str:
    rates = [batch_size / s for s in seconds]
    return spread(rates, digits=0 if quartiles(rates)[1] >= 100 else 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset",
        action="append",
        choices=vaekit.presets.names(),
        metavar="NAME",
        help=f"only this one, or these; repeatable (all: {', '.join(vaekit.presets.names())})",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="samples in a batch (64)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads (its own default)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed (9)")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--memory-of", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for option in ("batch_size", "threads", "rounds"):
        if (value := getattr(args, option)) < 1:
            parser.error(f"--{option.replace('_', '-')} has to be at least 1, got {value}")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_memory(args.memory_of, args.batch_size)
        return
    names = list(dict.fromkeys(args.preset or vaekit.presets.names()))
    print(header())
    print(f"batch {args.batch_size}, {args.rounds} rounds; samples a second: median (quartiles); --help says more\n")
    contenders = {f"{name} {kind}": contender(name, kind, args.batch_size) for name in names for kind in PASSES}
    seconds = interleaved(contenders, args.rounds)
    rows: list[tuple[str, ...]] = [("preset", "parameters", *PASSES, "memory, MiB")]
    for name in names:
        parameters = sum(p.numel() for p in model(name).parameters() if p.requires_grad)
        speeds = (samples_a_second(seconds[f"{name} {kind}"], args.batch_size) for kind in PASSES)
        rows.append((name, f"{parameters:,}", *speeds, memory(name, args.batch_size, args.threads)))
    print(table(rows))
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
