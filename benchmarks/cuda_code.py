"""What the compiler made of the CUDA kernels, read from their compiled code, and what follows for their speed. Needs no GPU.

    python benchmarks/cuda_code.py --architectures 8.6 9.0

compiles csrc/cuda/reparameterize_kl.cuh with nvcc for each architecture and prints two tables. tests/csrc/test_cuda_code.py holds
the kernels to what the first one says.

1. What was made. Registers; blocks of 256 threads that a multiprocessor holds with them, and the share of its threads; bytes of
   spills and of stack; instructions that touch local memory; loads and stores of 16 bytes; instructions of the loop over a row,
   and of them for each element: in all, and by the units that execute them. The slow path of the square root and of the division,
   which practically no number takes, is not counted; of two ways round a condition both are.

   "cycles" is the least a multiprocessor needs for an element: the largest of count / rate over the units and of count / 128 over
   all instructions (4 schedulers, each an instruction for 32 threads a cycle), with the name of what takes so long. Rates are
   those of the CUDA C++ programming guide, "Throughput of native arithmetic instructions", in results a cycle and multiprocessor;
   conversions at their slowest, products of 32-bit numbers as multiplications however wide. fp32 and multiplication share units.

2. PREDICTIONS, which nothing has measured on a GPU yet. For an element

       memory      = bytes / bandwidth       forward reads mu and logvar and writes z: 3 e bytes for e bytes a number;
                                             backward reads mu, logvar and grad_z and writes two gradients: 5 e
       arithmetic  = cycles / (multiprocessors * clock)

   and for B rows of D elements, where kl adds k B bytes (k is 4, or 8 for double),

       time        = 4 us + max(B D memory + k B / bandwidth, B D arithmetic)

   4 us stands for what a launch takes however little it does: to start, to get the first numbers from memory, to go through the
   loop once. It is an estimate. Bandwidth, clock and multiprocessors are the data sheets', none of which a program quite reaches;
   what lies in the L2 cache (50 MB, 6 MB) can be faster. Nothing is said about what Python and PyTorch take to get there.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parents[1] / "csrc"
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-cubin", "-Xptxas", "-v")
STORAGE = {"float": 4, "double": 8, "BFloat16": 2, "Half": 2}  # bytes
OPERANDS = {"forward": 2, "backward": 3}  # read in the loop, 16 bytes at a time
LIKELIHOODS = {  # as csrc/cuda/*_nll.cuh call them, and whether a thread takes 16 bytes at a time
    "BernoulliNll": True,
    "GaussianNll": True,
    "DiscretizedLogisticNll": False,
    "PoissonNll": False,
    "NegativeBinomialNll": False,
    "ZeroInflatedNll": False,
}
PARTS = {  # of the library, and the headers of csrc/cuda that have their kernels
    "reparameterize_kl": ("reparameterize_kl",),
    "nll": ("bernoulli_nll", "gaussian_nll", "discretized_logistic_nll", "count_nll"),
    "pairs": ("kernel_sum", "log_aggregate"),
}
AGGREGATES = {  # the kernels of csrc/cuda/log_aggregate.cuh
    "marginals": "Forward",
    "joint": "Forward",
    "weights": "Backward",
    "columns": "Backward",
    "rows": "Backward",
    "gradients": "Backward",
}
SIZES = ("64x2", "64x20", "128x64", "512x128", "4096x256", "16384x512")  # of reparameterize_kl.py
BLOCK = 256  # threads
LAUNCH = 4e-6  # seconds


class Architecture(NamedTuple):
    """Limits of a multiprocessor, and results a cycle by unit."""

    threads: int
    fp32: int
    half: int
    fp64: int
    conversion64: int

    def rates(self) -> dict[str, int]:
        return {
            "fp32+mul": self.fp32,
            "mul": 64,
            "logic": 64,
            "half": self.half,
            "conv": 16,
            "mufu": 16,
            "fp64": self.fp64,
            "conv64": self.conversion64,
        }


ARCHITECTURES = {
    "7.5": Architecture(1024, 64, 64, 2, 2),
    "8.0": Architecture(2048, 64, 128, 32, 16),
    "8.6": Architecture(1536, 128, 64, 2, 2),
    "8.9": Architecture(1536, 128, 64, 2, 2),
    "9.0": Architecture(2048, 128, 128, 64, 16),
    "10.0": Architecture(2048, 128, 64, 64, 16),
}


class Gpu(NamedTuple):
    architecture: str
    multiprocessors: int
    hertz: float
    bandwidth: float


# H100: 66.9 TFLOP/s = 132 * 128 * 2 * 1.98 GHz; NVIDIA also names 1.755 GHz, as boost of the PCIe card. A10: 31.2 TFLOP/s.
GPUS = {"H100 SXM": Gpu("9.0", 132, 1.98e9, 3.35e12), "A10": Gpu("8.6", 72, 1.695e9, 600e9)}

# What executes an instruction, by the first part of its name; "other" (loads and stores, jumps, what is done once for a warp on
# the uniform unit) only has to be issued.
UNITS = {
    "fp32": "FADD FMUL FFMA FADD32I FMUL32I FFMA32I",
    "mul": "IMAD IMUL",
    "logic": "IADD3 IADD IADD32I VIADD LOP3 LOP SHF SHL SHR LEA ISETP FSETP FSEL SEL FMNMX IMNMX VIMNMX VIADDMNMX IABS PRMT MOV "
    "MOV32I PLOP3 P2R R2P SGXT BMSK FCHK",
    "half": "HADD2 HMUL2 HFMA2",
    "conv": "I2F I2FP F2I F2F F2FP I2I FRND",
    "mufu": "MUFU",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
}
UNIT_OF = {name: unit for unit, names in UNITS.items() for name in names.split()}


class Instruction(NamedTuple):
    predicate: str  # "@P0", or empty
    name: str  # "LDG.E.128"
    operands: str

    def unit(self) -> str:
        base, _, options = self.name.partition(".")
        unit = UNIT_OF.get(base, "other")
        return "conv64" if unit == "conv" and re.search(r"\b[FSU]64\b", options) else unit


class Kernel(NamedTuple):
    name: str  # "forward_usual<float>"
    registers: int
    spills: int  # bytes, stored and loaded
    stack: int  # bytes
    shared: int  # bytes
    code: list[Instruction]
    loop: list[Instruction]  # what the loop with the 16-byte loads does each time; empty where there is none

    def family(self) -> str:
        return self.name.partition("<")[0]

    def bytes(self) -> int:
        """Of a number in storage."""
        return next(STORAGE[word] for word in re.split("[<, >]+", self.name) if word in STORAGE)

    def count(self, pattern: str, loop: bool = False) -> int:
        return sum(re.fullmatch(pattern, i.name) is not None for i in (self.loop if loop else self.code))

    def elements(self) -> int:
        """That the loop does each time."""
        return self.count(r"LDG\..*128.*", loop=True) // OPERANDS[self.family().partition("_")[0]] * 16 // self.bytes()

    def per_element(self) -> dict[str, float]:
        """Instructions by unit."""
        counts = Counter(i.unit() for i in self.loop)
        return {unit: counts[unit] / self.elements() for unit in (*UNITS, "conv64", "other")}

    def resident(self, architecture: str) -> int:
        """Blocks that a multiprocessor holds: registers are given out 256 at a time to a warp, to a scheduler 16384 of them."""
        of_warp = -(-32 * self.registers // 256) * 256
        warps = 4 * (16384 // of_warp)
        return min(warps // (BLOCK // 32), ARCHITECTURES[architecture].threads // BLOCK)

    def cycles(self, architecture: str) -> tuple[float, str]:
        """The least that an element takes on a multiprocessor, and what takes it."""
        counts = self.per_element()
        counts["fp32+mul"] = counts["fp32"] + counts["mul"]
        limits = {unit: counts[unit] / rate for unit, rate in ARCHITECTURES[architecture].rates().items()}
        limits["issue"] = len(self.loop) / self.elements() / 128
        slowest = max(limits, key=limits.__getitem__)
        return limits[slowest], slowest


# --- compiling -----------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """A program is not there; what to install."""


def find(program: str, package: str) -> str:
    """On PATH, in the CUDA toolkit that CUDA_HOME or CUDA_PATH names, or in NVIDIA's packages from PyPI."""
    toolkits = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvidia = importlib.util.find_spec("nvidia")
    pypi = [
        path for folder in (nvidia and nvidia.submodule_search_locations) or [] for path in sorted(Path(folder).glob("*/bin"))
    ]
    for folder in (None, *toolkits, *pypi):
        if found := shutil.which(program, path=folder and str(folder)):
            return found
    raise Missing(f"{program} was not found; install the CUDA toolkit and put its bin folder on PATH, or pip install {package}")


def find_nvcc() -> str:
    return find("nvcc", "nvidia-cuda-nvcc")


def find_nvdisasm() -> str:
    return find("nvdisasm", "nvidia-cuda-nvdisasm")


@functools.cache
def supported() -> tuple[str, ...]:
    """Those of ARCHITECTURES that this nvcc compiles for."""
    known = subprocess.run([find_nvcc(), "--list-gpu-code"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return tuple(name for name in ARCHITECTURES if f"sm_{name.replace('.', '')}" in known)


def instances(part: str) -> list[str]:
    """The kernels of a part of the library, and the arguments that they take."""
    kernels = []
    if part == "reparameterize_kl":
        kernels += [f"add_parts<{storage}>(__grid_constant__ const Parts)" for storage in ("float", "double")]
        for storage in STORAGE:
            for family in ("forward", "backward"):
                of = f"(__grid_constant__ const {family.capitalize()})"
                kernels += [
                    f"{family}_{kind}{of}" for kind in (f"usual<{storage}>", f"any<{storage}, true>", f"any<{storage}, false>")
                ]
    if part == "nll":
        for storage, size in STORAGE.items():
            for likelihood, takes_vectors in LIKELIHOODS.items():
                for n in (1, 16 // size) if takes_vectors else (1,):
                    kernels += [
                        f"nll_{family}<{likelihood}, {storage}, {n}>(__grid_constant__ const Nll{family.capitalize()})"
                        for family in ("forward", "backward")
                    ]
    if part == "pairs":
        for storage in ("float", "double"):
            kernels += [f"prepare_aggregate<{storage}>(__grid_constant__ const Prepare<{storage}>)"]
            for family, direction in AGGREGATES.items():
                kernels += [f"aggregate_{family}<{storage}>(__grid_constant__ const Aggregate{direction}<{storage}>)"]
            kernels += [f"write_bandwidths<{storage}>(__grid_constant__ const Bandwidths)"]
            for kernel in ("Gaussian", "InverseMultiquadric"):
                kernels += [f"kernel_sum_strips<{kernel}, {storage}>(__grid_constant__ const KernelSumForward)"]
                kernels += [f"kernel_sum_gradients<{kernel}, {storage}>(__grid_constant__ const KernelSumBackward)"]
    return kernels


def source(part: str, only: str = "") -> str:
    """Every kernel of a part, instantiated, or those whose names hold `only`."""
    includes = "".join(f'#include "cuda/{header}.cuh"\n' for header in PARTS[part])
    lines = "".join(f"template __global__ void {kernel};\n" for kernel in instances(part) if only in kernel)
    return f"{includes}namespace vaekit::cuda {{\n{lines}}}\n"


def build(architecture: str, folder: Path, csrc: Path = CSRC, only: str = "", part: str = "reparameterize_kl") -> None:
    """Leaves what ptxas said and nvdisasm's listing in `folder`, for `read`; `csrc` may be a changed copy."""
    nvcc, nvdisasm, number = find_nvcc(), find_nvdisasm(), architecture.replace(".", "")
    folder.mkdir(parents=True, exist_ok=True)
    file, cubin = folder / "kernels.cu", folder / "kernels.cubin"
    file.write_text(source(part, only))
    target = f"-gencode=arch=compute_{number},code=sm_{number}"
    compiled = subprocess.run([nvcc, *FLAGS, target, f"-I{csrc}", file, "-o", cubin], capture_output=True, text=True)
    if compiled.returncode:
        raise RuntimeError(f"nvcc failed for {architecture}:\n{compiled.stdout}{compiled.stderr}")
    listing = subprocess.run([nvdisasm, "-c", cubin], stdout=subprocess.PIPE, text=True, check=True).stdout
    (folder / "messages.txt").write_text(compiled.stdout + compiled.stderr)
    (folder / "listing.txt").write_text(listing)


def read(folder: Path) -> dict[str, Kernel]:
    return parse((folder / "messages.txt").read_text(), (folder / "listing.txt").read_text())


def kernels_of(architecture: str, part: str) -> dict[str, Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        build(architecture, Path(folder), part=part)
        return read(Path(folder))


# --- reading -------------------------------------------------------------------------------------------------------------


def readable(symbol: str) -> str:
    """The name of a kernel from its symbol, _ZN6vaekit4cuda11forward_anyIfLb1EEEvNS0_7ForwardE for forward_any<float, true>."""
    words = {"f": "float", "d": "double", "Lb0E": "false", "Lb1E": "true"}
    argument = r"[fd]|NS\d*_\d+[A-Za-z]\w*?E|Lb[01]E|Li\d+E"
    found = re.search(rf"4cuda\d+(\w+?)I((?:{argument})+)EEv", symbol)
    if not found:
        raise ValueError(f"not a kernel's symbol: {symbol}")
    arguments = [words.get(word) or re.sub(r"^(NS\d*_\d+|Li)|E$", "", word) for word in re.findall(argument, found[2])]
    return f"{found[1]}<{', '.join(arguments)}>"


def parse(messages: str, listing: str) -> dict[str, Kernel]:
    """The kernels, from what ptxas -v said and what nvdisasm -c printed."""
    resources = {}
    for symbol, text in pairs(r"Compiling entry function '(\S+)' for", messages):

        def number(pattern: str, text: str = text) -> int:
            return sum(map(int, re.findall(pattern, text)))

        resources[symbol] = (
            number(r"Used (\d+) registers"),
            number(r"(\d+) bytes spill (?:stores|loads)"),
            number(r"(\d+) bytes stack frame"),
            number(r"(\d+) bytes smem"),
        )
    kernels = {}
    for symbol, text in pairs(r"^\.text\.(\S+):$", listing):
        code, labels = instructions(text)
        kernels[readable(symbol)] = Kernel(readable(symbol), *resources[symbol], code, hot_loop(code, labels))
    if not kernels or len(kernels) != len(resources):
        raise ValueError(f"ptxas spoke of {len(resources)} kernels, the listing has {len(kernels)}")
    return kernels


def pairs(pattern: str, text: str) -> list[tuple[str, str]]:
    """What the pattern's group found, each with the text up to where it is found next."""
    parts = re.split(pattern, text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def instructions(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """A kernel's code, and the places in it that labels name."""
    code: list[Instruction] = []
    labels = {}
    for line in text.splitlines():
        if label := re.fullmatch(r"\s*([.$]\S+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:(@\S+)\s+)?([A-Z]\S*?)(?:\s+(.*?))?\s*;", line):
            code.append(Instruction(found[1] or "", found[2], found[3] or ""))
    return code, labels


def hot_loop(code: Sequence[Instruction], labels: dict[str, int]) -> list[Instruction]:
    """The smallest loop that holds a load of 16 bytes, without slow paths: without what surrounds a call up to the next jumps."""
    after: list[list[int]] = []  # where each instruction can lead
    calls = []
    for place, instruction in enumerate(code):
        base = instruction.name.partition(".")[0]
        target = re.search(r"\.L\w+", instruction.operands)
        jumps = base in ("BRA", "JMP", "CALL") and target is not None  # a "call" of a label is a jump, of a function one
        if base == "CALL" and not jumps:
            calls.append(place)
        ends = jumps or base in ("BRA", "JMP", "BRX", "EXIT", "RET")
        falls_through = not ends or bool(instruction.predicate) or "," in instruction.operands  # BRA.U UP0, `(.L_x_1)
        after.append([labels[target[0]]] if jumps else [])
        if falls_through and place + 1 < len(code):
            after[-1].append(place + 1)
    before: list[list[int]] = [[] for _ in code]
    for place, nexts in enumerate(after):
        for to in nexts:
            before[to].append(place)

    heads: dict[int, set[int]] = {}
    for place, nexts in enumerate(after):
        for head in nexts:
            if head <= place:  # a jump back: the loop is all from which one gets here without passing the head
                heads.setdefault(head, set()).update(reachable([place], before, {head}) | {head})
    hot = {head: loop for head, loop in heads.items() if any(re.fullmatch(r"LDG\..*128.*", code[place].name) for place in loop)}
    if not hot:
        return []
    head, best = min(hot.items(), key=lambda item: len(item[1]))
    starts = {to for nexts in after for to in nexts if len(nexts) > 1 or len(before[to]) > 1} | set(labels.values())
    slow: set[int] = set()
    for place in best.intersection(calls):
        first = last = place
        while first not in starts:
            first -= 1
        while after[last] == [last + 1] and last + 1 not in starts:
            last += 1
        slow.update(range(first, last + 1))
    usual = reachable([head], after, set(range(len(code))) - best | slow)
    return [code[place] for place in sorted(usual)]


def reachable(places: Iterable[int], edges: Sequence[Sequence[int]], closed: set[int]) -> set[int]:
    """All that one gets to from these places along the edges, not through closed ones."""
    found: set[int] = set()
    waiting = [place for place in places if place not in closed]
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting.extend(to for to in edges[place] if to not in closed)
    return found


# --- the tables ----------------------------------------------------------------------------------------------------------


def made(architecture: str, kernels: dict[str, Kernel]) -> list[list[object]]:
    rows: list[list[object]] = [
        [
            *("kernel", "regs", "blocks", "threads", "spill", "stack", "local", "LDG.128", "STG.128", "loop", "/element"),
            *(*UNITS, "conv64", "other"),
            *("cycles", "by"),
        ]
    ]
    for kernel in sorted(kernels.values(), key=lambda k: ("_usual" not in k.name, k.name)):
        blocks = kernel.resident(architecture)
        row: list[object] = [kernel.name, kernel.registers, blocks, f"{blocks * BLOCK / ARCHITECTURES[architecture].threads:.0%}"]
        row += [kernel.spills, kernel.stack, kernel.count(r"(LDL|STL)\b.*")]
        row += [kernel.count(r"LDG\..*128.*"), kernel.count(r"STG\..*128.*")]
        if "_usual" in kernel.name and kernel.loop:
            cycles, by = kernel.cycles(architecture)
            each = kernel.per_element()
            row += [len(kernel.loop), f"{len(kernel.loop) / kernel.elements():.1f}"]
            row += [*(f"{count:.1f}" for count in each.values()), f"{cycles:.3f}", by]
        else:
            row += ["-"] * (len(rows[0]) - len(row))
        rows.append(row)
    return rows


def prediction(kernel: Kernel, gpu: Gpu) -> tuple[float, float]:
    """Seconds for an element, from memory and from arithmetic."""
    numbers = 3 if kernel.family().startswith("forward") else 5
    return numbers * kernel.bytes() / gpu.bandwidth, kernel.cycles(gpu.architecture)[0] / gpu.multiprocessors / gpu.hertz


def predicted_time(kernel: Kernel, gpu: Gpu, size: str) -> float:
    rows, columns = map(int, size.split("x"))
    memory, arithmetic = prediction(kernel, gpu)
    of_kl = rows * max(4, kernel.bytes()) / gpu.bandwidth
    return LAUNCH + max(rows * columns * memory + of_kl, rows * columns * arithmetic)


def predictions(gpu: Gpu, kernels: dict[str, Kernel]) -> list[list[object]]:
    rows: list[list[object]] = [["kernel", "memory ps", "arithmetic ps", "bound by", *(f"{size} us" for size in SIZES)]]
    for kernel in kernels.values():
        if "_usual" in kernel.name and kernel.loop:
            memory, arithmetic = prediction(kernel, gpu)
            row = [kernel.name, f"{1e12 * memory:.2f}", f"{1e12 * arithmetic:.2f}"]
            row.append("memory" if memory >= arithmetic else kernel.cycles(gpu.architecture)[1])
            rows.append([*row, *(f"{1e6 * predicted_time(kernel, gpu, size):.1f}" for size in SIZES)])
    return [rows[0], *sorted(rows[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=ARCHITECTURES,
        metavar="X.Y",
        help=f"default, where nvcc knows them: {' '.join(ARCHITECTURES)}",
    )
    parser.add_argument("--part", choices=PARTS, default="reparameterize_kl", help="of the library's kernels")
    args = parser.parse_args()
    from harness import table

    try:
        for architecture in args.architectures or supported():
            kernels = kernels_of(architecture, args.part)
            print(f"compute capability {architecture}\n{table(made(architecture, kernels))}\n")
            for name, gpu in GPUS.items():
                if gpu.architecture == architecture and args.part == "reparameterize_kl":
                    print(f"{name}: PREDICTED, never measured; times of a call with all B x D elements")
                    print(f"{table(predictions(gpu, kernels))}\n")
    except Missing as error:
        sys.exit(f"cuda_code: {error}")


if __name__ == "__main__":
    main()
