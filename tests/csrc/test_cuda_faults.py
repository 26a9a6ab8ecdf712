"""The CUDA kernels on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer; faults planted in them, each of which shows.

Without a GPU these stand between a mistake in a kernel and the people who run it; here it is seen that they do stand.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-Og", "-ffp-contract=off"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# What is planted, for each program that runs kernels: the text that it replaces, the new one, and what is said of it.
OF_THE_OPERATOR = {
    "a missing barrier": (
        "  __syncthreads();\n  double sum = 0;",
        "  double sum = 0;",
        r"kl\[\d+\] is",
    ),
    "a missing barrier before shared memory is used again": (
        "  __syncthreads();  // before the next row's sums are written\n",
        "",
        r"kl\[\d+\] is",
    ),
    "a barrier that a part of the block does not reach": (
        "    if (p.reduce && blockIdx.z == 0) reduce(p, segment, share);",
        "    if (p.reduce && segment.length > 0) reduce(p, segment, share);",
        r"__shfl_xor_sync .* but|deadlock|returned from the kernel",
    ),
    "a mask without half of the warp": (
        "kWholeWarp = 0xFFFFFFFFu",
        "kWholeWarp = 0xFFFFu",
        "which the mask does not name",
    ),
    "a shuffle over half of the width": (
        "value, distance, width);",
        "value, distance, width / 2);",
        r"kl\[\d+\] is|the width is no power of two",
    ),
    "a sum over threads of other rows": (
        "for (int distance = width / 2; distance",
        "for (int distance = kWarp / 2; distance",
        r"kl\[\d+\] is",
    ),
    "an element beyond the end of a row": (
        "const int from = i < 0 ? -i : 0, to = segment.length - i < n ? segment.length - i : n;",
        "const int from = i < 0 ? -i : 0, to = n;",
        "heap-buffer-overflow",
    ),
    "16 bytes beyond the end of the last row": (
        "      const auto logvar = load_vector<S>(p.logvar.data, p.logvar.offset(row) + column);\n      Vector<S> z;",
        "      const auto logvar = load_vector<S>(p.logvar.data, p.logvar.offset(row) + column + n);\n      Vector<S> z;",
        r"heap-buffer-overflow|z\[\d+\] is",
    ),
    "16 bytes from where a row does not begin at a multiple of them": (
        "whole(view.row_stride) &&",
        "",
        "misaligned address|alignment",
    ),
    "a row of a group that has none": (
        "row < work.rows ? length : 0",
        "length",
        "heap-buffer-overflow",
    ),
    "noise from the wrong end of a block": (
        "return segment.length == 0 ? 0 : static_cast<int>((stream",
        "return segment.length == 0 ? 0 : static_cast<int>((0 * stream",
        r"z\[\d+\] is",
    ),
    "segments whose sums are not all added": (
        "i < p.results ? first : p.count;",
        "i < p.results ? first + 1 : p.count;",
        r"kl\[\d+\] is",
    ),
    "samples of one stream": (
        "offset + static_cast<uint64_t>(k) * kSampleStride, stream + static_cast<uint64_t>(column), values",
        "offset, stream + static_cast<uint64_t>(column), values",
        r"z\[\d+\] is",
    ),
    "samples that two blocks leave out": (
        "k < p.samples; k += gridDim.z",
        "k < p.samples; k += gridDim.z + 2",
        r"z\[\d+\] is",
    ),
    "a row counted in 32 bits": (
        "sample * sample_stride + row * row_stride;",
        "sample * sample_stride + static_cast<int>(row * row_stride);",
        "z of rows far apart|SEGV",
    ),
    "a usual call without its kernel": (
        "if (vectors && is_usual(p)) {",
        "if (false) {",
        "another kernel than it should",
    ),
    "more segments than a grid has room for": (
        "const int64_t y = at_most(work.segments, ceiling(most, x));",
        "const int64_t y = work.segments;",
        "a grid of",
    ),
    "gradients that are not where their rows begin": (
        "const int64_t packed = row * p.grad_stride + column;",
        "const int64_t packed = row * (p.grad_stride + 1) + column;",
        r"grad_\w+\[\d+\] is|heap-buffer-overflow",
    ),
    "a prior that forward forgets": (
        "const Divergence<T> d = p.prior_mu ?",
        "const Divergence<T> d = false ?",
        r"kl\[\d+\] is",
    ),
}
OF_LIKELIHOODS = {
    "what rounding took of a sum": (
        "low += (high - (sum - part)) + (value - part);",
        "low += high - (sum - part);",
        "a sum is",
    ),
    "what rounding took in other threads": (
        "    add(other.high);\n    low += other.low;",
        "    add(other.low);",
        r"nll\[\d+\] is",
    ),
    "a missing barrier before the sums of warps are added": (
        "  __syncthreads();\n  if (threadIdx.x == 0) {",
        "  if (threadIdx.x == 0) {",
        r"(nll|shared)\[\d+\] is",
    ),
    "a missing barrier before the sums of warps are used again": (
        "  __syncthreads();  // before the next sums are written\n",
        "",
        r"(nll|shared)\[\d+\] is",
    ),
    "a missing element that counts": (
        "sum.add(p.ignore_missing && x[j] != x[j] ? T(0) : nll[j]);",
        "sum.add(nll[j]);",
        r"nll\[\d+\] is",
    ),
    "a missing element with a gradient": (
        "narrow(is_missing(i) ? T(0) : values[i], piece.values[i]);",
        "narrow(values[i], piece.values[i]);",
        r"gradient\[\d+\] is",
    ),
    "gradients of another plane": (
        "(row * p.planes + number) * p.event + column) / n",
        "(row * p.planes + 1 - number) * p.event + column) / n",
        r"gradient\[\d+\] is",
    ),
    "a sum that a group without a row writes": (
        "if (lane_of(work) != 0 || segment.row >= work.rows) return;",
        "if (lane_of(work) != 0) return;",
        "heap-buffer-overflow",
    ),
    "16 bytes from where a row does not begin at a multiple of them": (
        "whole(view.row_stride) &&",
        "",
        "misaligned address|alignment",
    ),
    "features of the next row": (
        "p.features == p.event ? column : column % p.features",
        "column",
        "heap-buffer-overflow",
    ),
    "parts of features that take each other's rows": (
        "row_step = by_feature ? p.work.rows : p.rows;",
        "row_step = by_feature ? p.work.rows + 1 : p.rows;",
        r"(shared|gradient)\[\d+\] is",
    ),
    "results that no block adds up": (
        "start < p.results; start += gridDim.x * at_once",
        "start + 1 < p.results; start += gridDim.x * at_once",
        r"(nll|shared)\[\d+\] is",
    ),
}
OF_PAIRS = {
    "a missing barrier before a tile is read": (
        "latents, latent, y);\n    __syncthreads();",
        "latents, latent, y);",
        r"(sum|gradient)\[\d+\] is",
    ),
    "a missing barrier before tiles are filled again": (
        "    __syncthreads();  // before the tiles are filled again\n",
        "",
        r"\[\d+\] is",
    ),
    "a point beyond the last": (
        "const bool exists = first + i < points && d < latents;",
        "const bool exists = d < latents;",
        "heap-buffer-overflow",
    ),
    "a latent beyond the last": (
        "const bool exists = first + i < points && d < latents;",
        "const bool exists = first + i < points;",
        r"heap-buffer-overflow|\[\d+\] is",
    ),
    "pairs with points that are not there": (
        "if (!exists || row_tile * kTile + tile_row(r) >= p.rows) continue;",
        "if (row_tile * kTile + tile_row(r) >= p.rows) continue;",
        r"sum\[0\] is",
    ),
    "pairs on one side of the diagonal": (
        "p.within && tile > row_tile ? T(2) : T(1)",
        "T(1)",
        r"sum\[0\] is",
    ),
    "tiles beyond the first strip": (
        "tile < tiles && tile < first + kStrip",
        "tile < tiles && tile < kStrip",
        r"sum\[0\] is",
    ),
    "a gradient of a row that is not there": (
        "if (row + tile_row(r) >= p.rows || d >= p.latents) continue;",
        "if (d >= p.latents) continue;",
        "heap-buffer-overflow",
    ),
    "a point that is on one side of a pair within a sample": (
        "p.within ? -4.0 : -2.0",
        "-2.0",
        r"gradient\[\d+\] is",
    ),
    "a row whose own example counts twice in q(z)": (
        "if (j >= p.examples || p.is_own(i, j)) total[r]",
        "if (j >= p.examples) total[r]",
        r"joint\[\d+\] is",
    ),
    "a row whose own example counts twice in a marginal": (
        "p.is_own(row, begin + j) ? -infinity : density",
        "density",
        r"marginal\[\d+\] is",
    ),
    "a row's own example without its weight": (
        "  sum.add(p.own_weight);\n",
        "",
        r"joint\[\d+\] is",
    ),
    "totals of half of a warp": (
        "for (int distance = kWarp / 2; distance > 0; distance /= 2) {\n        const T top",
        "for (int distance = kWarp / 4; distance > 0; distance /= 2) {\n        const T top",
        r"joint\[\d+\] is",
    ),
    "a total that the largest term does not change": (
        "if (sum != T(0)) sum *= exp_or_zero<true>(before - now, kLowestExponent<T>);",
        "",
        r"(joint|marginal)\[\d+\] is",
    ),
    "more latents than a warp has lanes": (
        "while ((1 << bits) < kTile && (1 << bits) < latents) ++bits;",
        "while ((1 << bits) < latents) ++bits;",
        r"\[\d+\] is|overflow|out of bounds",
    ),
    "weights from where another block of rows has them": (
        "p.weights[i * p.examples + begin + j]",
        "p.weights[(p.start + i) * p.examples + begin + j]",
        "heap-buffer-overflow",
    ),
    "sums that a later block of rows replaces": (
        "(p.start > 0 ? p.of_mean[place] : 0.0) +",
        "",
        r"of mu\[\d+\] is",
    ),
    "a row that is not in the block": (
        "if (i < p.count && d < p.latents) p.of_row",
        "if (d < p.latents) p.of_row",
        "heap-buffer-overflow",
    ),
    "a row's own gradient forgotten": (
        "      of_mu += of_row;\n",
        "",
        r"of mu\[\d+\] is",
    ),
}
OF_PROGRAMS = {"cuda_faults.cpp": OF_THE_OPERATOR, "cuda_nll_faults.cpp": OF_LIKELIHOODS, "cuda_pairs_faults.cpp": OF_PAIRS}
FAULTS = {(program, fault): planted for program, faults in OF_PROGRAMS.items() for fault, planted in faults.items()}


def run(folder, csrc, program, flags=SANITIZERS):
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++")), None)
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C++ compiler whose sanitizers are known to work here")
    built = subprocess.run(
        [compiler, *FLAGS, *flags, "-I", csrc, HERE / program, "-o", folder / "faults"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr[-3000:]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([folder / "faults"], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_the_kernels_are_right_and_clean_under_the_sanitizers(program, tmp_path):
    assert run(tmp_path, CSRC, program) == (0, "all is right\n")


@pytest.mark.parametrize(("program", "fault"), FAULTS, ids=map(" ".join, FAULTS))
def test_a_planted_fault_shows(program, fault, tmp_path):
    old, new, said = FAULTS[program, fault]
    shutil.copytree(CSRC, tmp_path / "csrc")
    having = [file for file in (tmp_path / "csrc" / "cuda").glob("*.cuh") if old in file.read_text()]
    assert having, f"the kernels no longer have {old!r}"
    for file in having:
        file.write_text(file.read_text().replace(old, new))
    needs_sanitizers = re.search("overflow|misaligned|SEGV", said)  # with which compiling takes twice as long
    code, output = run(tmp_path, tmp_path / "csrc", program, SANITIZERS if needs_sanitizers else [])
    assert code != 0
    assert re.search(said, output), output[:2000]
