"""What does a step cost on a device? `vaekit.fit` beside bare loops, in float32 and in bfloat16; on cuda as a CUDA graph too.

Contenders:

    bare loop          the textbook's model in PyTorch and fused Adam; the data lies on the device already; the baseline
    bare loop, bf16    the same under torch.autocast
    bare loop, graph   the same, forward, backward and Adam recorded once as a CUDA graph and replayed; only on cuda. What is left
                       without Python: the least that a step can take with these kernels
    fit                `vaekit.fit`, whose data lies in the computer's memory and goes to the device batch by batch
    fit, data there    the same with the data on the device
    fit, bf16          `vaekit.fit(precision="bf16")`
    fit, compiled      `vaekit.fit(compile=True)`; only with --compile, since it compiles for each model

Each trains for some epochs in one call, the first of them unmeasured; the clock stops at the end of an epoch, when the device is
done. The contenders take several turns (--turns). Columns: milliseconds a step, median and quartiles over all epochs; times the
bare loop, by the medians; MiB that PyTorch's allocator handed out at the peak (cuda only). Data is drawn: what a step takes does
not depend on it. A contender that fails is told, and the others go on.

    python benchmarks/fit_on_device.py --device cuda --csv fit.csv
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import header, quartiles, require, rounded, spread, table, write_csv
from peers.torch_networks import bare

import vaekit

MODELS = ("dense-mnist", "conv-mnist", "colour-64")
HEAD = ("model", "contender", "ms_q1", "ms", "ms_q3", "times_bare", "memory_mib", "why_not")


class Clock(vaekit.Callback):
    """Seconds of each epoch; on cuda until the device is done."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self.start = device, [], time.perf_counter()  # type: str, list[float], float

    def tick(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = time.perf_counter()

    def on_epoch_end(self, state: Any) -> None:
        self.tick()


class Task:
    """A model with data, and how long it is trained."""

    def __init__(self, model: str, device: str, examples: int, batch: int, epochs: int) -> None:
        self.model, self.device, self.batch, self.epochs = model, device, batch, epochs
        self.shape = vaekit.create_vae(model).input_shape
        self.x = torch.rand(examples - examples % batch, *self.shape, generator=torch.Generator().manual_seed(0))

    def bare(self, precision: str = "32") -> list[float]:
        model, x, clock = bare(self.model).to(self.device), self.x.flatten(1).to(self.device), Clock(self.device)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), device=self.device).split(self.batch):
                with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
                    loss = model(x[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
            clock.tick()
        return clock.seconds

    def graph(self) -> list[float]:
        model, x, clock = bare(self.model).to(self.device), self.x.flatten(1).to(self.device), Clock(self.device)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
        batch = x[: self.batch].clone()

        def step() -> None:
            adam.zero_grad()
            model(batch).backward()
            adam.step()

        replay = recorded(step)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), device=self.device).split(self.batch):
                batch.copy_(x[rows])
                replay()
            clock.tick()
        return clock.seconds

    def fit(self, there: bool = False, **options: Any) -> list[float]:
        vae, clock = vaekit.create_vae(self.model, seed=0), Clock(self.device)
        x = self.x.to(self.device) if there else self.x
        own = {"epochs": self.epochs, "batch_size": self.batch, "device": self.device, "progress": False, **options}
        vaekit.fit(vae, x, callbacks=[clock], **own)
        return clock.seconds


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph that is replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what PyTorch sets up in first calls must not be recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def contenders(task: Task, compiled: bool) -> dict[str, Callable[[], list[float]]]:
    found: dict[str, Callable[[], list[float]]] = {"bare loop": task.bare, "bare loop, bf16": partial(task.bare, "bf16")}
    if task.device == "cuda":
        found["bare loop, graph"] = task.graph
        found["fit, data there"] = partial(task.fit, there=True)
    found |= {"fit": task.fit, "fit, bf16": partial(task.fit, precision="bf16")}
    if compiled:
        found["fit, compiled"] = partial(task.fit, compile=True)
    return found


def measure(task: Task, turns: int, compiled: bool) -> list[dict[str, str]]:
    """A row for each contender; the table is printed."""
    steps = len(task.x) // task.batch
    works, seconds, memory, why_not = contenders(task, compiled), {}, {}, {}
    for _ in range(turns):
        for name, work in works.items():
            if name in why_not:
                continue
            if task.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                seconds.setdefault(name, []).extend(work()[1:])
            except Exception as error:  # whatever it is, the others are worth knowing
                why_not[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            if task.device == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 2**20
    baseline = quartiles(seconds["bare loop"])[1] if "bare loop" not in why_not else float("nan")
    shown: list[Sequence[object]] = [(task.model, "ms a step", "times the bare loop", "peak memory, MiB")]
    rows = []
    for name in works:
        row = {"model": task.model, "contender": name, "why_not": why_not.get(name, "")}
        if name in why_not:
            shown.append((name, f"- {why_not[name]}", "", ""))
        else:
            low, middle, high = quartiles(seconds[name])
            row |= {
                "ms_q1": rounded(1000 * low / steps),
                "ms": rounded(1000 * middle / steps),
                "ms_q3": rounded(1000 * high / steps),
            }
            row |= {"times_bare": rounded(middle / baseline), "memory_mib": rounded(memory.get(name))}
            used = f"{memory[name]:.0f}" if name in memory else "-"
            shown.append((name, spread(seconds[name], 1000 / steps, 3), f"{middle / baseline:.2f}", used))
        rows.append(row)
    print(table(shown), end="\n\n", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--examples", type=int, default=4480, help="an epoch (4480)")
    parser.add_argument("--epochs", type=int, default=4, help="of each turn, the first unmeasured (4)")
    parser.add_argument("--turns", type=int, default=2, help="how often each contender trains (2)")
    parser.add_argument("--compile", action="store_true", help="fit(compile=True) too")
    parser.add_argument("--csv", type=Path, help="write the numbers here")
    args = parser.parse_args(arguments)
    if args.epochs < 2 or args.turns < 1 or args.examples < args.batch_size:
        parser.error(
            "an epoch has at least one batch; --epochs is at least 2, since the first is not measured; --turns at least 1"
        )
    require(args.device)
    print(header(args.device))
    print(f"batches of {args.batch_size}, {args.examples // args.batch_size} steps an epoch; median (quartiles)\n")
    rows = []
    for model in args.models:
        rows += measure(Task(model, args.device, args.examples, args.batch_size, args.epochs), args.turns, args.compile)
        write_csv(args.csv, [HEAD, *([row.get(name, "") for name in HEAD] for row in rows)])  # after each: time may run out


if __name__ == "__main__":
    main()
