"""What do the objectives that compare every pair of a batch cost, next to the form that writes all pairs out?

A line for each objective and size: forward and backward of the part of `beta_tc` that looks at pairs (log q(z) and the sum of
log q(z_d)), and of the squared discrepancy of `info_vae` and `wae`, for B codes of D latents, in float32.

    naive              the textbook's: a tensor [B, B, D] of the difference of every pair in every latent, and autograd
    reference          vaekit's specification in PyTorch: some rows at a time, computed again in backward
    vaekit             the same in the compiled library, where there is one
    by naive, ...      vaekit's seconds by those of another form, round by round; below 1 vaekit is faster
    errors             relative difference of each value from that in float64

Seconds are medians with quartiles, the forms by turns. Memory is how far one call of forward and backward raises the resident
memory (on cuda, what PyTorch's allocator handed out), measured once in a process of its own; "-" is a naive form that would not
fit into --naive-limit, which is then neither timed nor measured.

    python benchmarks/pairwise_objectives.py
    python benchmarks/pairwise_objectives.py --size 4096x64 --rounds 3 --threads 1 --csv table.csv
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import header, interleaved, peak_memory, ratios, require, spread, table, timed, write_csv
from torch import Tensor

from vaekit.losses import squared_mmd
from vaekit.losses.total_correlation import log_aggregate, log_weights
from vaekit.ops import kernel_sum as kernel_sum_module
from vaekit.ops import log_aggregate as log_aggregate_module

SIZES = ["64x10", "256x16", "1024x16", "1024x64", "4096x64"]
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
FORMS = ("naive", "reference", "vaekit")
NAIVE_TENSORS = 8  # of every pair and latent, about: what autograd keeps, and what backward makes


def codes(rows: int, latents: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """mu, logvar and eps of overlapping posteriors."""
    generator = torch.Generator().manual_seed(0)
    mu, logvar, eps = (torch.randn(rows, latents, generator=generator) for _ in range(3))
    return mu.to(device).requires_grad_(), (0.3 * logvar - 1.0).to(device).requires_grad_(), eps.to(device)


def naive_aggregate(mu: Tensor, logvar: Tensor, eps: Tensor, own: float, other: float) -> tuple[Tensor, Tensor]:
    z = mu + torch.exp(0.5 * logvar) * eps
    pairs = -0.5 * ((z.unsqueeze(1) - mu).square() * torch.exp(-logvar) + logvar + math.log(2.0 * math.pi))
    weights = torch.full((len(mu), len(mu)), other, dtype=mu.dtype, device=mu.device).fill_diagonal_(own)
    return (pairs.sum(2) + weights).logsumexp(1), (pairs + weights.unsqueeze(2)).logsumexp(1).sum(1)


class ReferenceAggregate(torch.autograd.Function):
    """The operator's specification, as it serves where no compiled kernel does."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, logvar: Tensor, eps: Tensor, own: float) -> tuple[Tensor, Tensor]:
        totals = log_aggregate_module.forward(mu, logvar, eps, 0, own)
        ctx.save_for_backward(*totals, mu, logvar, eps)
        ctx.own = own
        return totals

    @staticmethod
    def backward(ctx: Any, of_joint: Tensor, of_marginals: Tensor) -> tuple[Tensor | None, ...]:
        return (*log_aggregate_module.backward(of_joint, of_marginals, *ctx.saved_tensors, 0, ctx.own), None, None)


def reference_aggregate(mu: Tensor, logvar: Tensor, eps: Tensor, own: float, other: float) -> tuple[Tensor, Tensor]:
    joint, marginals = ReferenceAggregate.apply(mu, logvar, eps, own - other)
    return joint + other, marginals.sum(1) + mu.shape[1] * other


def reference_mmd(x: Tensor, y: Tensor) -> Tensor:
    count, bandwidths = len(x), [2.0 * x.shape[1] * scale for scale in SCALES]
    itself = count * len(SCALES)
    xx, yy, xy = (kernel_sum_module.specification(a, b, bandwidths, False) for a, b in ((x, None), (y, None), (x, y)))
    return ((xx + yy - 2 * itself) / (count * (count - 1)) - 2.0 * xy / count**2).to(x.dtype)


def naive_mmd(x: Tensor, y: Tensor) -> Tensor:
    count = len(x)

    def kernels(a: Tensor, b: Tensor) -> Tensor:
        squared = (a.unsqueeze(1) - b).square().sum(2)
        bandwidths = [2.0 * a.shape[1] * scale for scale in SCALES]
        return torch.stack([bandwidth / (bandwidth + squared) for bandwidth in bandwidths]).sum(0)

    within = [(k.sum() - k.diagonal().sum()) / (count * (count - 1)) for k in (kernels(x, x), kernels(y, y))]
    return within[0] + within[1] - 2.0 * kernels(x, y).mean()


def value(objective: str, form: str, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    if objective == "beta_tc":
        aggregate = {"naive": naive_aggregate, "reference": reference_aggregate, "vaekit": log_aggregate}[form]
        joint, marginals = aggregate(mu, logvar, eps, *log_weights("stratified", len(mu), 10 * len(mu)))
        return (joint - marginals).mean()
    z = mu + torch.exp(0.5 * logvar) * eps
    mmd = {"naive": naive_mmd, "reference": reference_mmd, "vaekit": lambda x, y: squared_mmd(x, y, "imq", SCALES)}[form]
    return mmd(z, eps)


def work(objective: str, form: str, rows: int, latents: int, device: str) -> Callable[[], object]:
    """Forward and backward."""
    mu, logvar, eps = codes(rows, latents, device)
    return lambda: torch.autograd.grad(value(objective, form, mu, logvar, eps), (mu, logvar))


def error(objective: str, form: str, rows: int, latents: int, device: str) -> str:
    with torch.no_grad():
        inputs = codes(rows, latents, device)
        exact = value(objective, "reference", *(t.double() for t in inputs))
        return f"{float((value(objective, form, *inputs).double() - exact).abs() / exact.abs()):.0e}"


def print_memory(objective: str, form: str, rows: int, latents: int, device: str) -> None:
    """MiB that a call adds to this process, in which a smaller one has been before."""
    work(objective, form, 300, 1, device)()  # large enough to load what calls of several blocks of rows load
    added = peak_memory(work(objective, form, rows, latents, device), device)
    print("unknown" if added is None else f"{added:.0f}")


def memory(objective: str, form: str, size: str, device: str, threads: int) -> str:
    """What `print_memory` prints, in a process of its own that gives freed blocks back."""
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    options = ["--size", size, "--device", device, "--threads", str(threads), "--memory-of", objective, form]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **glibc})
    return done.stdout.strip()


def parsed_size(text: str) -> tuple[int, int]:
    """ "1024x64" as (1024, 64)."""
    rows, _, latents = text.partition("x")
    if not (rows.isdecimal() and latents.isdecimal() and int(rows) > 1 and int(latents) > 0):
        raise argparse.ArgumentTypeError(f"a size is ROWSxLATENTS, 1024x64 for example, of at least two rows; got {text!r}")
    return int(rows), int(latents)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=("beta_tc", "mmd"), action="append", help="only this one; repeatable")
    parser.add_argument("--size", type=parsed_size, action="append", metavar="BxD", help=f"repeatable ({', '.join(SIZES)})")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads (its own default)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (5)")
    parser.add_argument("--naive-limit", type=float, default=4.0, help="GiB that the naive form may take, about (4)")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--memory-of", nargs=2, metavar=("OBJECTIVE", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for option in ("threads", "rounds"):
        if (given := getattr(args, option)) < 1:
            parser.error(f"--{option} has to be at least 1, got {given}")
    require(args.device)
    torch.set_num_threads(args.threads)
    sizes = args.size or [parsed_size(size) for size in SIZES]
    if args.memory_of:
        print_memory(*args.memory_of, *sizes[0], args.device)
        return
    print(header(args.device))
    print(f"{args.rounds} rounds; forward and backward, median (quartiles); --help says more\n")
    lines: list[tuple[str, ...]] = [
        (
            *("objective", "B", "D"),
            *(f"{form}, ms" for form in FORMS),
            *(f"by {form}" for form in FORMS[:-1]),
            *(f"{form}, MiB" for form in FORMS),
            "errors",
        )
    ]
    for objective in args.objective or ("beta_tc", "mmd"):
        for rows, latents in sizes:
            fits = NAIVE_TENSORS * 4 * rows * rows * latents <= args.naive_limit * 2**30
            forms = FORMS if fits else FORMS[1:]
            at_least = 0.05 if rows * rows * latents < 1 << 22 else 0.0
            works = {form: work(objective, form, rows, latents, args.device) for form in forms}
            contenders = {form: timed(work_of, args.device, at_least) for form, work_of in works.items()}
            seconds = interleaved(contenders, args.rounds)
            row = {
                f"by {form}": spread(ratios(seconds["vaekit"], seconds[form])) if form in forms else "-" for form in FORMS[:-1]
            }
            for form in FORMS:
                row[f"{form}, ms"] = spread(seconds[form], scale=1e3, digits=1) if form in forms else "-"
                size = f"{rows}x{latents}"
                row[f"{form}, MiB"] = memory(objective, form, size, args.device, args.threads) if form in forms else "-"
            row["errors"] = ", ".join(f"{form} {error(objective, form, rows, latents, args.device)}" for form in forms)
            lines.append((objective, str(rows), str(latents), *(row[column] for column in lines[0][3:])))
    print(table(lines))
    write_csv(args.csv, lines)


if __name__ == "__main__":
    main()
