"""What does the fused operator gain over the textbook? `vaekit.reparameterize_kl` against other ways to the same (z, kl).

Contenders, interleaved in one process; each makes fresh noise in each call:

    eager              the textbook's lines in PyTorch: randn_like, exp, the divergence in one expression; the others' baseline
    eager-compiled     torch.compile of it
    distributions      torch.distributions: Independent, Normal.rsample, kl_divergence
    randn              torch.randn alone, of z's shape: what noise from PyTorch's own generator costs at least; forward only
    vaekit             vaekit.reparameterize_kl(mu, logvar); where no compiled kernel is in use (see the header), pure PyTorch
    vaekit-key         the same with key=, as `vaekit.fit` calls it, so that no key is drawn (the noise is made anew all the same)
    vaekit-compiled    torch.compile of vaekit
    eager-chunks       the textbook's lines on the halves of one tensor [B, 2 D], as a layer gives them; autograd joins the two
                       gradients again
    vaekit-chunks      vaekit-key on such halves
    vaekit-packed      vaekit-key with packed= such a tensor, whose gradient the operator writes as one
    vaekit-graph       vaekit-key as a CUDA graph that is replayed, with the same noise each time: what is left
                       without Python and PyTorch before each kernel; only on cuda, with a compiled kernel
    fallback           the pure-PyTorch reference and its own backward formula, whether there is a compiled kernel or not
    fallback-compiled  torch.compile of it; these two only with --fallback or where --only names them

Passes: "forward" under no_grad; "both" is forward, then backward from fixed gradients of z and kl to mu and logvar, whose .grad
is None each time. "both/8" is the same for eight independent calls under one backward, as time for each: starting torch's
backward engine takes some 30 microseconds, which a training step pays once for all that it does. It is left out above 2^20
elements, where it does not matter. What torch.compile takes to compile, anew for each size and number of threads, is not in the
times.

Columns: microseconds a call and times eager (median and quartiles over the rounds; a ratio is taken within a round, below 1 is
faster), nanoseconds an element of z, bytes that have to move and the share of the machine's copy bandwidth at which they did,
extra memory.

Bytes: the operator's arguments and results, each once, whatever a contender moves in between. With n = B D elements of e bytes
and kl of k bytes a row, forward reads mu and logvar and writes z and kl, 3 n e + B k; backward reads mu, logvar and the gradients
of z and kl and writes two gradients, 5 n e + B k; randn writes n e. The bandwidth is that of copy_ between two tensors of 256 MiB
on as many threads; work that stays in a cache can exceed it.

Extra memory: the rise of the process' peak (cuda: of PyTorch's allocations) during one call, less the results: z, kl and, with
backward, two gradients. On the CPU it is measured (on Linux) in a process of its own for each contender, with the largest number
of threads, after warming up, and with every block of 64 KiB or more going back to the system when it is freed; so it counts
whatever a kernel allocates, but blurs by half a MiB, and is left out where a tensor has less than 1 MiB.

    python benchmarks/reparameterize_kl.py --csv table.csv --plot figure.png
    python benchmarks/reparameterize_kl.py --csv table.csv --plot figure.png --device cuda

On cuda a timing is the wall clock round enough calls for 2 ms, from an idle device to an idle device, divided by their number: it
is the device's time where that is longer than what Python and PyTorch take to launch a call, and that otherwise. There is no
number of threads; the first thing timed is copy_ on the device.

What to expect there, on paper. It is a PREDICTION: no GPU has confirmed it. benchmarks/cuda_code.py counts, in code compiled for
compute capability 9.0, 85 instructions an element forward and 87 backward in float32, of which 44.5 are float additions and
products, 7 integer products and some 28 integer additions, logic and comparisons. A multiprocessor issues 4 warp instructions
a cycle, so 128 for single elements, which is its narrowest place: 0.66 and 0.68 cycles an element. With 12 bytes an element
forward and 20 backward,

    time of a kernel = 4 us + elements * max(bytes / bandwidth, cycles / (multiprocessors * clock))

                                                                                microseconds, forward / backward
                    from memory      from arithmetic     64x2 to 128x64   512x128     4096x256      16384x512
    H100 SXM, ps    3.58 / 5.97      2.54 / 2.60         4.0 / 4.0        4.2 / 4.4    7.8 / 10.3   34.1 / 54.1
    A10, ps         20.0 / 33.3      5.46 / 5.59         4.2 / 4.3        5.3 / 6.2   25.0 / 39.0    172 / 284

at 3.35 TB/s, 132 multiprocessors, 1.98 GHz and 600 GB/s, 72, 1.695 GHz. So: float32 is bound by memory on both once a tensor is
large, and "of copy" should come near 100 %; on the H100 with little to spare, since arithmetic takes 7/10 of the time (forward).
Its 50 MB of L2 cache hold all that a call of 4096x256 touches; repeated calls there may be bound by arithmetic, and "of copy"
exceed 100 %. float16 and bfloat16 halve the bytes and not the arithmetic: on the H100 forward then is bound by instructions (2.5
against 1.8 ps), on the A10 by memory still. float64 is bound by memory on the H100, just; on the A10, which has 2 float64 units a
multiprocessor, arithmetic takes 4 to 7 times as long as memory. Up to 512x128 a kernel takes less than Python and PyTorch take
for a call: there only vaekit-graph can show the kernels' own speed. The textbook's forward reads or writes 24 numbers an element
in 12 kernels, where this moves 3 in one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from harness import header, interleaved, peak_memory, quartiles, ratios, require, spread, table, timed, write_csv
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

import vaekit
from vaekit.ops import philox, reference
from vaekit.ops.operands import Operands

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}
SIZES = ("64x2", "64x20", "128x64", "512x128", "4096x256", "16384x512")
LOOP_SECONDS = 2e-3  # a timing repeats a call for so long, so that the clock's own cost does not show
LEAST_MEMORY = 1 << 20  # bytes in a tensor


# --- the contenders ------------------------------------------------------------------------------------------------------


def eager(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    eps = torch.randn_like(mu)
    z = mu + torch.exp(0.5 * logvar) * eps
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(-1)
    return z, kl


def distributions(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    posterior = Independent(Normal(mu, torch.exp(0.5 * logvar)), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    return posterior.rsample(), kl_divergence(posterior, prior)


def randn(mu: Tensor, logvar: Tensor) -> tuple[Tensor]:
    return (torch.randn(mu.shape, dtype=mu.dtype, device=mu.device),)


class Fallback(torch.autograd.Function):
    """The reference without the dispatcher, which would choose the compiled kernel."""

    @staticmethod
    def forward(ctx, mu, logvar, eps):
        ctx.save_for_backward(mu, logvar, eps)
        return reference.forward(*Operands(mu, logvar, eps=eps))

    @staticmethod
    def backward(ctx, grad_z, grad_kl):
        mu, logvar, eps = ctx.saved_tensors
        return *reference.backward(grad_z, grad_kl, *Operands(mu, logvar, eps=eps))[:2], None


def fallback(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    eps = reference.noise(mu, philox.draw_key(None, mu.device), None, None, 0, 1)
    return Fallback.apply(mu, logvar, eps)


def of_halves(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda packed, **options: operator(*packed.chunk(2, -1), **options)


def packed(packed: Tensor, **options: Tensor) -> tuple[Tensor, Tensor]:
    return vaekit.reparameterize_kl(packed=packed, **options)


CONTENDERS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "eager": eager,
    "eager-chunks": of_halves(eager),
    "eager-compiled": eager,
    "distributions": distributions,
    "randn": randn,
    "vaekit": vaekit.reparameterize_kl,
    "vaekit-key": vaekit.reparameterize_kl,
    "vaekit-chunks": of_halves(vaekit.reparameterize_kl),
    "vaekit-packed": packed,
    "vaekit-compiled": vaekit.reparameterize_kl,
    "vaekit-graph": vaekit.reparameterize_kl,
    "fallback": fallback,
    "fallback-compiled": fallback,
}


WITH_KEY = ("vaekit-key", "vaekit-graph", "vaekit-chunks", "vaekit-packed")
WITH_ONE = ("eager-chunks", "vaekit-chunks", "vaekit-packed")


def recorded(work: Callable[[], object], name: str) -> Callable[[], object]:
    """The work as a CUDA graph that is replayed, for a contender of that kind."""
    if not name.endswith("-graph"):
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what PyTorch sets up in first calls must not be recorded
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


class Task(NamedTuple):
    """One size in one dtype on one device."""

    rows: int
    columns: int
    dtype: str
    device: str

    def call(self, name: str, which: str) -> Callable[[], object]:
        """A contender's work in the pass `which`: CALLS[which] calls. Gradients have to be enabled unless it is "forward"."""
        operator, generator = CONTENDERS[name], torch.Generator().manual_seed(0)
        if name.endswith("-compiled"):
            operator = torch.compile(operator, dynamic=False)
        options = {"key": vaekit.make_key(0, device=self.device)} if name in WITH_KEY else {}

        def fixed(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device, dtype)

        shape, dtype = (self.rows, self.columns), DTYPES[self.dtype]
        # mu and logvar of each call, or both in one.
        pairs = [
            tuple(leaf.requires_grad_(which != "forward") for leaf in ((torch.cat(two, -1),) if name in WITH_ONE else two))
            for two in ([fixed(shape, dtype) for _ in range(2)] for _ in range(CALLS[which]))
        ]
        if which == "forward":
            return recorded(lambda: operator(*pairs[0], **options), name)
        gradients = [fixed(result.shape, result.dtype) for pair in pairs for result in operator(*pair, **options)]

        def both() -> None:
            torch.autograd.backward([result for pair in pairs for result in operator(*pair, **options)], gradients)
            for pair in pairs:
                for leaf in pair:
                    leaf.grad = None

        return recorded(both, name)

    def bytes(self, name: str, which: str) -> tuple[int, int]:
        """Moved (see the file's first lines), and in the results alone."""
        tensor = self.rows * self.columns * DTYPES[self.dtype].itemsize
        kl = self.rows * reference.compute_dtype(DTYPES[self.dtype]).itemsize
        if name == "randn":
            return tensor, tensor
        return (3 * tensor + kl, tensor + kl) if which == "forward" else (8 * tensor + 2 * kl, 3 * tensor + kl)


def passes(name: str) -> tuple[str, ...]:
    return ("forward",) if name == "randn" else ("forward", "both")


CALLS = {"forward": 1, "both": 1, "both/8": 8}
LARGEST_SHARED = 1 << 20  # elements


# --- measuring -----------------------------------------------------------------------------------------------------------


def set_threads(threads: int | None) -> None:
    """None, on a GPU: as many as there are."""
    torch._dynamo.reset()
    if threads is not None:
        torch.set_num_threads(threads)
        torch._inductor.config.cpp.threads = threads  # by default a cached kernel keeps the number that it was first compiled for


def on(threads: int | None) -> str:
    return "" if threads is None else f" on {threads} thread{'s' * (threads > 1)}"


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written."""
    source, target = torch.ones(1 << 26, device=device), torch.ones(1 << 26, device=device)
    at_least = LOOP_SECONDS if device == "cuda" else 0.0  # one copy takes a CPU long enough
    seconds = interleaved({"copy": timed(lambda: target.copy_(source), device, at_least)}, rounds=7)["copy"]
    return 2 * source.nbytes / quartiles(seconds)[1]


def missing_compiler(device: str) -> str | None:
    """What torch.compile says where there is no C++ compiler, or no Triton, to work with."""
    number = random.random()  # a kernel that no cache holds
    try:
        torch.compile(lambda x: x + number, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:
        if any(word in str(error) for word in ("InvalidCxxCompiler", "TritonMissing")):
            return str(error).strip().splitlines()[0]
        raise
    return None


def extra_memory(task: Task, name: str, threads: int | None) -> dict[str, float | None]:
    """MiB beyond arguments and results in each pass, on the CPU measured in a process of its own."""
    if name.endswith("-graph"):  # whose memory is taken when it is recorded, and kept
        return {}
    if task.device == "cuda":
        return extra_memory_here(task, name, threads)
    if task.bytes("randn", "forward")[0] < LEAST_MEMORY:
        return {}
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", __file__, "--memory-of", json.dumps([name, threads, *task])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **glibc})
    return json.loads(done.stdout.splitlines()[-1])


def extra_memory_here(task: Task, name: str, threads: int | None) -> dict[str, float | None]:
    """The same in this process."""
    extra: dict[str, float | None] = {}
    for which in passes(name):
        set_threads(threads)
        with torch.set_grad_enabled(which != "forward"):
            work = task.call(name, which)
            for _ in range(3):
                work()
            peak = peak_memory(work, task.device)
        extra[which] = None if peak is None else max(0.0, peak - task.bytes(name, which)[1] / 2**20)
    return extra


class Measured(NamedTuple):
    threads: int | None  # None on cuda
    size: str
    which: str
    name: str
    seconds: list[float]
    baseline: list[float]
    elements: int
    bytes: int
    bandwidth: float
    extra: float | None

    def row(self) -> tuple[object, ...]:
        *_, per_element, moved, _, fraction, _ = self.numbers()
        return (
            "-" if self.threads is None else self.threads,
            *self[1:4],
            spread(self.seconds, 1e6, digits=1),
            spread(ratios(self.seconds, self.baseline)),
            f"{per_element:.2f}",
            f"{moved:,}",
            f"{fraction:.1%}",
            "-" if self.extra is None else f"{self.extra:.1f}",
        )

    def numbers(self) -> tuple[object, ...]:
        median = quartiles(self.seconds)[1]
        return (
            *self[:4],
            *(1e6 * s for s in quartiles(self.seconds)),
            *quartiles(ratios(self.seconds, self.baseline)),
            1e9 * median / self.elements,
            self.bytes,
            self.bandwidth,
            self.bytes / median / self.bandwidth,
            self.extra,
        )


HEAD = ("threads", "B x D", "pass", "contender", "microseconds", "times eager", "ns/element", "bytes", "of copy", "extra MiB")
CSV_HEAD = (
    *("threads", "size", "pass", "contender", "microseconds_q1", "microseconds", "microseconds_q3"),
    *("times_eager_q1", "times_eager", "times_eager_q3", "ns_per_element"),
    *("bytes", "copy_bytes_per_second", "fraction_of_copy", "extra_mib"),
)


def measure(
    sizes: Sequence[str], names: Sequence[str], threads: Sequence[int | None], dtype: str, device: str, rounds: int, memory: bool
) -> list[Measured]:
    measured: list[Measured] = []
    most = max(threads, key=lambda count: count or 0)
    for count in threads:
        set_threads(count)
        bandwidth = copy_bandwidth(device)
        print(f"copy_{on(count)}: {bandwidth / 1e9:.1f} GB/s", file=sys.stderr)
        for size in sizes:
            rows, columns = map(int, size.split("x"))
            task = Task(rows, columns, dtype, device)
            extra = {name: extra_memory(task, name, count) for name in names if memory and count == most}
            for which, shared in CALLS.items():
                if shared > 1 and rows * columns > LARGEST_SHARED:
                    continue
                set_threads(count)
                with torch.set_grad_enabled(which != "forward"):
                    here = [name for name in names if which == "forward" or name != "randn"]
                    calls = {name: timed(task.call(name, which), device, LOOP_SECONDS) for name in here}
                    seconds = {name: [s / shared for s in found] for name, found in interleaved(calls, rounds).items()}
                for name in calls:
                    measured.append(
                        Measured(
                            count, size, which, name, seconds[name], seconds["eager"], rows * columns,
                            task.bytes(name, which)[0], bandwidth, extra.get(name, {}).get(which),
                        )
                    )  # fmt: skip
            print(f"{size}{on(count)}: done", file=sys.stderr)
    return measured


# --- the figure ----------------------------------------------------------------------------------------------------------

# Okabe and Ito's palette, which colour-blind eyes tell apart; a contender keeps its colour, compiled it is dashed and hollow.
COLOURS = {"eager": "#000000", "distributions": "#E69F00", "randn": "#009E73", "vaekit": "#0072B2", "fallback": "#CC79A7"}
MARKERS = {"eager": "o", "distributions": "^", "randn": "v", "vaekit": "s", "fallback": "D"}
SHADES = {
    "vaekit-key": "#56B4E9",
    "vaekit-graph": "#D55E00",
    "vaekit-chunks": "#999999",
    "vaekit-packed": "#F0E442",
    "eager-chunks": "#8B4513",
}


def plot(found: Sequence[Measured], file: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    threads, sizes = list(dict.fromkeys(m.threads for m in found)), list(dict.fromkeys(m.size for m in found))
    elements = {m.size: m.elements for m in found}
    figure, axes = plt.subplots(2, len(threads), figsize=(5.2 * len(threads) + 1.8, 8), sharex=True, sharey="row", squeeze=False)
    for axis, (which, count) in zip(axes.flat, [(w, c) for w in ("forward", "both") for c in threads], strict=True):
        here = [m for m in found if m.which == which and m.threads == count]
        for name in dict.fromkeys(m.name for m in here):
            points = [m for m in here if m.name == name]
            low, middle, high = zip(*([q / m.elements * 1e9 for q in quartiles(m.seconds)] for m in points), strict=True)
            family, compiled = name.partition("-")[0], name.endswith("-compiled")
            axis.errorbar(
                [m.elements for m in points],
                middle,
                yerr=[[b - a for a, b in zip(low, middle, strict=True)], [b - a for a, b in zip(middle, high, strict=True)]],
                label=name,
                color=SHADES.get(name, COLOURS[family]),
                marker=MARKERS[family],
                markerfacecolor="white" if compiled else None,
                linestyle="--" if compiled else "-",
                markersize=6,
                capsize=2,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks([elements[s] for s in sizes], [s.replace("x", " x ") for s in sizes], rotation=30, ha="right")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set_title(f"{'forward' if which == 'forward' else 'forward and backward'}{on(count).replace(' on', ',')}")
    for row in axes:
        row[0].set_ylabel("nanoseconds an element")
    for axis in axes[-1]:
        axis.set_xlabel("rows x latent dimensions")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.set_layout_engine("constrained")
    figure.savefig(file, dpi=130)
    print(f"written: {file}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="BxD", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--threads", nargs="+", type=int, help="numbers of threads, one after the other (1 2); on the CPU only")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="how often each contender is timed (15)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help="these contenders, and eager")
    parser.add_argument("--fallback", action="store_true", help="time the pure-PyTorch reference as well")
    parser.add_argument("--no-memory", action="store_true", help="leave extra memory out, which takes a process each time")
    parser.add_argument("--csv", type=Path, help="write the numbers here")
    parser.add_argument("--plot", type=Path, help="draw nanoseconds an element against the size here (png, svg, pdf)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        name, threads, *task = json.loads(args.memory_of)
        print(json.dumps(extra_memory_here(Task(*task), name, threads)))
        return
    require(args.device)
    if args.device == "cuda" and args.threads:
        parser.error("--threads is for the CPU")
    threads = [None] if args.device == "cuda" else args.threads or [1, 2]
    wanted = args.only or [name for name in CONTENDERS if args.fallback or not name.startswith("fallback")]
    names = [name for name in CONTENDERS if name == "eager" or name in wanted]
    if args.device == "cpu" or not vaekit.has_native("cuda"):
        names = [name for name in names if not name.endswith("-graph")]
    problem = missing_compiler(args.device) if any(name.endswith("-compiled") for name in names) else None
    if problem:
        names = [name for name in names if not name.endswith("-compiled")]

    environment = header(args.device)
    print(environment)
    print(f"{args.dtype} on {args.device}, {args.rounds} rounds; median (quartiles)\n")
    found = measure(args.sizes, names, threads, args.dtype, args.device, args.rounds, not args.no_memory)
    print(table([HEAD, *(measured.row() for measured in found)]))
    if problem:
        print(f"\nwithout the compiled contenders, because torch.compile found no compiler: {problem}")
    write_csv(args.csv, [CSV_HEAD, *(measured.numbers() for measured in found)])
    if args.plot:
        plot(found, args.plot, f"{environment}\n{args.dtype}; medians and quartiles of {args.rounds} rounds")


if __name__ == "__main__":
    main()
