"""What does `vaekit.fit` cost over a bare loop? Milliseconds a step of a dense model on real digits. And over other libraries?

Contenders, interleaved in one process: a loop written by hand with the textbook's operator (randn_like, exp, the KL in one line),
fused Adam and nothing else; the same loop over vae(x); `vaekit.fit`, plain and with each of its options that costs something.
Each time, a contender trains for some epochs of 71 steps of 64, three of the large model, setting up its optimizer included. Peak
memory is measured in a process of its own for each. With --processes, two processes of one thread each take the same steps, with
the whole model in each or a part ("fsdp"), alternating with one process of two threads, start-up not counted.

    python benchmarks/training.py [--model dense-mnist | burda-mnist] [--rounds 9] [--contenders NAME ...] [--csv FILE]
    python benchmarks/training.py [--model ...] --processes

With --peers vaekit stands beside a bare loop, Keras 3 on JAX, pythae and scvi-tools, each in a process of its own, which take
turns; pip install "vaekit[peers]" brings them, or --python says which interpreter has them. peers/side_by_side.py says what is
measured. With --losses, what each of them has learned after so many epochs, without a clock.

    python benchmarks/training.py --peers [--model table] [--rounds 9] [--only vaekit "keras on jax"]
    python benchmarks/training.py --peers --python peers=/elsewhere/bin/python
    python benchmarks/training.py --peers --losses 30 --seeds 3 --threads 1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import header, interleaved, peak_memory, ratios, spread, table, timed, write_csv
from peers import side_by_side, torch_networks
from peers.torch_networks import DENSE

import vaekit

BATCH = 64
EPOCHS = {"dense-mnist": 3, "burda-mnist": 12}  # what takes some seconds
MODELS = tuple(DENSE)


def bare(name: str, x: torch.Tensor) -> Callable[[], object]:
    model, flat = torch_networks.bare(name), x.flatten(1)

    def train() -> None:
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for _ in range(EPOCHS[name]):
            for rows in torch.randperm(len(flat)).split(BATCH):
                loss = model(flat[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()

    return train


def own_loop(name: str, x: torch.Tensor) -> Callable[[], object]:
    """What README shows: the model is vaekit's, the loop one's own."""
    vae, each_epoch = vaekit.create_vae(name, seed=0), -(-len(x) // BATCH)

    def train() -> None:
        adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
        for epoch in range(EPOCHS[name]):
            for step, rows in enumerate(torch.randperm(len(x)).split(BATCH), epoch * each_epoch):
                terms = vae(x[rows], key=vaekit.step_key(0, step), step=step, index=rows, dataset_size=len(x))
                adam.zero_grad()
                terms.total.backward()
                adam.step()

    return train


def fit(name: str, x: torch.Tensor, **options: object) -> Callable[[], object]:
    vae = vaekit.create_vae(name, seed=0)
    return lambda: vaekit.fit(vae, x, **{"epochs": EPOCHS[name], "batch_size": BATCH, "progress": False, **options})


def fit_with_checkpoints(name: str, x: torch.Tensor) -> Callable[[], object]:
    train = partial(vaekit.fit, vaekit.create_vae(name, seed=0), x, epochs=EPOCHS[name], batch_size=BATCH, progress=False)

    def train_in_a_folder() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(out=folder, checkpoint_minutes=1 / 60)

    return train_in_a_folder


CONTENDERS: dict[str, Callable[[str, torch.Tensor], Callable[[], object]]] = {
    "bare loop": bare,
    "loop over vae(x)": own_loop,
    "vaekit.fit": fit,
    "fit, accumulate=2": partial(fit, batch_size=BATCH // 2, accumulate=2),
    "fit, ema=0.999": partial(fit, ema=0.999),
    "fit, precision=bf16": partial(fit, precision="bf16"),
    "fit, a checkpoint a second": fit_with_checkpoints,
}


def added_memory(model: str, name: str) -> str:
    """MiB that a contender's training adds to a process that holds the data already, in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def seconds_of_processes(model: str, processes: int, strategy: str = "auto") -> float:
    """Seconds of training by so many processes, which share two threads, without their start."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, __file__, "--model", model, "--in-process", str(2 // processes)]
    command += ["--strategy", strategy]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def train_in_process(model: str, x: torch.Tensor, threads: int, strategy: str) -> None:
    """Train as one of the processes that torchrun started; the first prints the seconds."""
    torch.set_num_threads(threads)
    work = fit(model, x, device="cpu", strategy=strategy)
    work()  # warm up
    start = time.perf_counter()
    work()
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender is timed")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--model", choices=side_by_side.MODELS, default="dense-mnist", help="a preset")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME", help="fewer rows"
    )
    parser.add_argument("--processes", action="store_true", help="one process against two, and nothing else")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--strategy", default="auto", help=argparse.SUPPRESS)
    side_by_side.add_options(parser)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*latent dimensions have collapsed")  # fifty are too many for so few epochs
    if args.peers:
        side_by_side.main(args.model, args)
        return
    if args.model not in MODELS:
        parser.error(f"{args.model} needs --peers; without it there are {', '.join(MODELS)}")
    x = vaekit.data.load("mnist5k")[0].x
    steps = EPOCHS[args.model] * -(-len(x) // BATCH)
    if args.in_process:
        train_in_process(args.model, x, args.in_process, args.strategy)
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
        of["2 processes, fsdp"] = partial(seconds_of_processes, args.model, 2, "fsdp")
        seconds = interleaved(of, args.rounds)
        rows: list[tuple[str, ...]] = [("", "ms a step", "times one process")]
        rows += [
            (name, spread(each, 1000 / steps), spread(ratios(each, seconds["1 process"]), digits=3))
            for name, each in seconds.items()
        ]
        print(table(rows))
        write_csv(args.csv, rows)
        return
    seconds = interleaved({name: timed(CONTENDERS[name](args.model, x)) for name in args.contenders}, args.rounds)
    first = args.contenders[0]
    rows = [("", "ms a step", f"times the {first}", "peak memory, MiB")]
    for name in args.contenders:
        relative = ratios(seconds[name], seconds[first])
        rows.append((name, spread(seconds[name], 1000 / steps), spread(relative, digits=3), added_memory(args.model, name)))
    print(table(rows))
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
