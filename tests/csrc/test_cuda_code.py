"""What nvcc makes of the CUDA kernels, for each architecture: nothing in local memory, 16 bytes at a time, room for enough
threads, no more instructions than now. benchmarks/cuda_code.py compiles and reads: no GPU is needed, nvcc and nvdisasm are.
"""

import importlib.util
import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

FILE = Path(__file__).parents[2] / "benchmarks" / "cuda_code.py"
spec = importlib.util.spec_from_file_location("cuda_code", FILE)
cuda_code = sys.modules["cuda_code"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cuda_code)

USUAL = [f"{family}_usual<{storage}>" for family in ("forward", "backward") for storage in cuda_code.STORAGE]
# Instructions for an element: some 5 % above the most that any architecture takes now.
MOST = {
    "forward_usual<float>": 92,
    "forward_usual<double>": 208,
    "forward_usual<BFloat16>": 98,
    "forward_usual<Half>": 91,
    "backward_usual<float>": 94,
    "backward_usual<double>": 200,
    "backward_usual<BFloat16>": 106,
    "backward_usual<Half>": 93,
}
PHILOX = "-0x2daee0ad|-0x326172a9"  # 0xD2511F53 and 0xCD9E8D57, as the listing has them


def skip_without_tools():
    try:
        cuda_code.find_nvcc()
        cuda_code.find_nvdisasm()
    except cuda_code.Missing as missing:
        pytest.skip(str(missing))


# The oldest, the one that most is said of and the newest; in the deep profile those between them too.
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
USED = tuple(cuda_code.ARCHITECTURES) if DEEP else ("7.5", "9.0", "10.0")


@pytest.fixture(scope="session", params=USED)
def architecture(request):
    skip_without_tools()
    if request.param not in cuda_code.supported():
        pytest.skip(f"this nvcc does not compile for {request.param}")
    return request.param


def compiled(folder, architecture, **options):
    """The kernels, compiled by the first worker that asks."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "listing.txt").exists():
            cuda_code.build(architecture, folder, **options)
    return cuda_code.read(folder)


@pytest.fixture(scope="session")
def kernels(architecture, build_folder):
    return compiled(build_folder / f"cuda_code_{architecture}", architecture)


def shortcomings(kernel, architecture):
    """What a kernel for the usual call falls short of."""
    forward = kernel.name.startswith("forward")
    found = []
    if kernel.spills or kernel.stack or kernel.count(r"(LDL|STL)\b.*"):
        found.append(
            f"local memory: {kernel.spills} bytes spilled, {kernel.stack} of stack, {kernel.count('(LDL|STL).*')} accesses"
        )
    threads = kernel.resident(architecture) * cuda_code.BLOCK
    if threads < (768 if kernel.bytes() == 2 else 1024):
        found.append(f"threads: {kernel.registers} registers leave room for {threads}")
    if not kernel.loop:
        return [*found, "16 bytes: no loop that loads so many"]
    loads, stores = kernel.count(r"LDG\..*\b128\b.*", loop=True), kernel.count(r"STG\..*\b128\b.*", loop=True)
    if loads != (2 if forward else 3) or stores != (1 if forward else 2):
        found.append(f"16 bytes: {loads} loads and {stores} stores of so many")
    if narrow := [i.name for i in kernel.loop if re.match(r"(LD|ST)G?\b", i.name) and "128" not in i.name]:
        found.append(f"16 bytes: in the loop there are {narrow}")
    # 20 products of 32 by 32 bits for a block, but for one factor that is 0.
    products = sum(bool(re.search(PHILOX, i.operands)) for i in kernel.loop if re.match(r"U?IMAD\.(WIDE|HI)", i.name))
    blocks = kernel.elements() // (2 if kernel.bytes() == 8 else 4)
    if products != 19 * blocks:
        found.append(f"philox: {products} products in the loop for {blocks} blocks")
    if len(kernel.loop) > MOST[kernel.name] * kernel.elements():
        found.append(f"instructions: {len(kernel.loop)} for {kernel.elements()} elements, at most {MOST[kernel.name]} each")
    return found


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_call_is_compiled_well(kernels, architecture, name):
    assert shortcomings(kernels[name], architecture) == []


def test_the_other_kernels_hardly_spill(kernels, architecture):
    """They take every call, for which registers do not quite suffice here and there."""
    others = [kernel for kernel in kernels.values() if "_usual" not in kernel.name]
    assert len(others) == 2 * 4 * 2 + 2
    for kernel in others:
        assert kernel.spills <= 64, kernel.name
        assert kernel.stack <= 32, kernel.name
        assert kernel.count(r"(LDL|STL)\b.*") <= 16, kernel.name
        assert kernel.resident(architecture) >= 2, kernel.name
        vectors = kernel.name.endswith(", true>")
        assert (kernel.count(r"LDG\..*\b128\b.*") > 0) == vectors, kernel.name
        assert (kernel.count(r"STG\..*\b128\b.*") > 0) == vectors, kernel.name


# Each part for one of two, because compiling takes a quarter of a minute.
OTHER_PARTS = list(itertools.product(("nll", "pairs"), ("7.5", "9.0"))) if DEEP else [("nll", "9.0"), ("pairs", "7.5")]
# Kernels whose registers do not quite suffice, and the bytes of stack that they take.
SPILLING = {
    "nll_forward<DiscretizedLogisticNll, double, 1>": 40,
    "nll_backward<DiscretizedLogisticNll, double, 1>": 40,
    "kernel_sum_gradients<InverseMultiquadric, double>": 24,
    "kernel_sum_gradients<InverseMultiquadric, float>": 8,
}
# Instructions in double of a float32 kernel: a row's or a block's sum, a shared parameter; the last step of gradients over pairs.
WIDE = {"nll": 9, "pairs": 48}


@pytest.fixture(scope="session", params=OTHER_PARTS, ids=" ".join)
def other_kernels(request, build_folder):
    part, architecture = request.param
    skip_without_tools()
    if architecture not in cuda_code.supported():
        pytest.skip(f"this nvcc does not compile for {architecture}")
    return part, architecture, compiled(build_folder / f"cuda_code_{part}_{architecture}", architecture, part=part)


def shortcomings_of_others(kernel, part, architecture):
    found = []
    if kernel.stack > SPILLING.get(kernel.name, 0):
        found.append(f"local memory: {kernel.spills} bytes spilled, {kernel.stack} of stack")
    if kernel.resident(architecture) < (1 if part == "pairs" else 2):
        found.append(f"threads: {kernel.registers} registers")
    wide = sum(i.unit() in ("fp64", "conv64") for i in kernel.code)
    if kernel.bytes() < 8 and wide > WIDE[part]:
        found.append(f"double: {wide} instructions")
    if re.search(r", [248]>$", kernel.name):  # so many elements at a time
        if not kernel.count(r"LDG\..*\b128\b.*"):
            found.append("16 bytes: no loads")
        if kernel.name.startswith("nll_backward") and not kernel.count(r"STG\..*\b128\b.*"):
            found.append("16 bytes: no stores")
    return found


def test_the_kernels_of_likelihoods_and_over_pairs_are_compiled_well(other_kernels):
    part, architecture, kernels = other_kernels
    assert len(kernels) == len(cuda_code.instances(part))
    found = {name: shortcomings_of_others(kernel, part, architecture) for name, kernel in kernels.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_sums_in_double_are_found(tmp_path):
    skip_without_tools()
    shutil.copytree(cuda_code.CSRC, tmp_path / "csrc")
    file = tmp_path / "csrc" / "cuda" / "sums.cuh"
    text = file.read_text()
    before = "const float sum = high + value, part = sum - high;"
    assert before in text
    file.write_text(text.replace(before, "const double sum = double(high) + value, part = sum - high;"))
    architecture = cuda_code.supported()[-1]
    cuda_code.build(architecture, tmp_path, csrc=tmp_path / "csrc", only="nll_forward<BernoulliNll, float, 4>", part="nll")
    (kernel,) = cuda_code.read(tmp_path).values()
    assert any(line.startswith("double") for line in shortcomings_of_others(kernel, "nll", architecture))


def test_too_many_registers_or_instructions_are_found(kernels, architecture):
    kernel = kernels["backward_usual<double>"]
    greedy = kernel._replace(registers=96, loop=[*kernel.loop, *[cuda_code.Instruction("", "DADD", "")] * 100])
    found = {line.partition(":")[0] for line in shortcomings(greedy, architecture)}
    assert found >= {"threads", "instructions"}


CUH, PHILOX_H = "cuda/reparameterize_kl.cuh", "philox.h"


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        (CUH, "kl[j] = d.kl;", "T list[32] = {}; list[segment.length % 32] = d.kl; kl[j] = list[i % 32];", "local memory"),
        (CUH, "kBlocksAtOnce = sizeof(S) == 4 ? 5 :", "kBlocksAtOnce = sizeof(S) == 4 ? 8 :", "local memory"),
        ("cuda/storage.cuh", "struct alignas(kVectorBytes) Vector", "struct Vector", "16 bytes"),
        (PHILOX_H, "VAEKIT_UNROLL(10)", "VAEKIT_UNROLL(1)", "philox"),
    ],
    ids=["array", "registers", "alignment", "rounds"],
)
def test_what_is_compiled_badly_is_found(tmp_path, file, before, after, expected):
    skip_without_tools()
    shutil.copytree(cuda_code.CSRC, tmp_path / "csrc")
    text = (tmp_path / "csrc" / file).read_text()
    assert text.count(before) == 1
    (tmp_path / "csrc" / file).write_text(text.replace(before, after))
    architecture = cuda_code.supported()[-1]
    cuda_code.build(architecture, tmp_path, csrc=tmp_path / "csrc", only="forward_usual<float>")
    (kernel,) = cuda_code.read(tmp_path).values()
    found = shortcomings(kernel, architecture)
    assert any(line.startswith(expected) for line in found), found


# --- reading, without nvcc -----------------------------------------------------------------------------------------------

SYMBOL = "_ZN6vaekit4cuda13forward_usualIfEEvNS0_7ForwardE"
MESSAGES = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{SYMBOL}' for 'sm_90'
ptxas info    : Function properties for {SYMBOL}
    16 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 56 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem
"""
# Rows (.L_x_1), in them columns (.L_x_2) with a square root whose slow path is called, and behind them the sum (.L_x_5).
LISTING = f"""\
\t.section\t.text.{SYMBOL},"ax",@progbits
        .type           {SYMBOL},@function
{SYMBOL}:
.text.{SYMBOL}:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.64 R2, desc[UR4][R2.64] ;
.L_x_2:
        /*0020*/                   LDG.E.128 R8, desc[UR4][R8.64] ;
        /*0030*/                   LDG.E.128.CONSTANT R4, desc[UR4][R6.64] ;
        /*0040*/                   IMAD.WIDE.U32 R26, R18, -0x2daee0ad, RZ ;
        /*0050*/                   I2F.F64.U32 R26, R18 ;
        /*0060*/              @!P1 BRA `(.L_x_3) ;
        /*0070*/                   MOV R28, 0x90 ;
        /*0080*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_sqrt_rn_f32_slowpath) ;
        /*0090*/                   MOV R26, R32 ;
        /*00a0*/                   BRA `(.L_x_4) ;
.L_x_3:
        /*00b0*/                   FMUL.FTZ R33, R30, R29 ;
.L_x_4:
        /*00c0*/                   STG.E.128 desc[UR4][R8.64], R4 ;
        /*00d0*/               @P0 CALL.REL.NOINC `(.L_x_5) ;
        /*00e0*/                   BRA `(.L_x_2) ;
.L_x_5:
        /*00f0*/                   SHFL.BFLY PT, R4, R5, R6, R7 ;
        /*0100*/                   BRA.U UP0, `(.L_x_1) ;
        /*0110*/                   STL [R1], R4 ;
        /*0120*/                   EXIT ;
        .type           $__internal_0_$__cuda_sm20_sqrt_rn_f32_slowpath,@function
$__internal_0_$__cuda_sm20_sqrt_rn_f32_slowpath:
        /*0130*/                   RET.REL.NODEC R4 `({SYMBOL}) ;
.L_x_6:
        /*0140*/                   BRA `(.L_x_6);
"""


def test_a_listing_is_read():
    (kernel,) = cuda_code.parse(MESSAGES, LISTING).values()
    assert kernel[:5] == ("forward_usual<float>", 56, 32, 16, 64)
    assert len(kernel.code) == 21
    assert kernel.code[6] == ("@!P1", "BRA", "`(.L_x_3)")
    assert [i.name for i in kernel.loop] == [
        *("LDG.E.128", "LDG.E.128.CONSTANT", "IMAD.WIDE.U32", "I2F.F64.U32", "BRA"),
        *("FMUL.FTZ", "STG.E.128", "CALL.REL.NOINC", "BRA"),
    ]
    assert (kernel.elements(), kernel.count("(LDL|STL).*"), kernel.count(r"STG\..*128.*")) == (4, 1, 1)
    units = {"fp32": 0.25, "mul": 0.25, "logic": 0, "half": 0, "conv": 0, "mufu": 0, "fp64": 0, "conv64": 0.25, "other": 1.5}
    assert kernel.per_element() == units
    assert kernel.cycles("9.0") == (9 / 4 / 128, "issue")
    assert kernel.cycles("8.6") == (0.25 / 2, "conv64")


def test_a_kernel_without_a_loop_of_16_bytes_has_none():
    (kernel,) = cuda_code.parse(MESSAGES, LISTING.replace("LDG.E.128", "LDG.E.64")).values()
    assert kernel.loop == []
    assert "16 bytes: no loop that loads so many" in shortcomings(kernel, "9.0")


def test_messages_and_listing_have_to_agree():
    with pytest.raises(ValueError, match="ptxas spoke of 1 kernels, the listing has 0"):
        cuda_code.parse(MESSAGES, "")
    with pytest.raises(ValueError, match="not a kernel's symbol: _Z3foov"):
        cuda_code.readable("_Z3foov")


def test_names_are_readable():
    assert cuda_code.readable("_ZN6vaekit4cuda11forward_anyINS_8BFloat16ELb1EEEvNS0_7ForwardE") == "forward_any<BFloat16, true>"
    assert cuda_code.readable("_ZN6vaekit4cuda12backward_anyIdLb0EEEvNS0_8BackwardE") == "backward_any<double, false>"
    assert cuda_code.readable("_ZN6vaekit4cuda9add_partsIdEEvNS0_5PartsE") == "add_parts<double>"
    nll = "_ZN6vaekit4cuda11nll_forwardINS0_12BernoulliNllENS_8BFloat16ELi8EEEvNS0_10NllForwardE"
    assert cuda_code.readable(nll) == "nll_forward<BernoulliNll, BFloat16, 8>"


@pytest.mark.parametrize(
    ("registers", "architecture", "blocks"),
    # The occupancy calculator's: 64 registers of 256 threads are a quarter of 64 K; 40 would do for 6.4 blocks, 41 count as 48.
    [
        (64, "9.0", 4),
        (65, "9.0", 3),
        (32, "9.0", 8),
        (16, "9.0", 8),
        (40, "9.0", 6),
        (41, "9.0", 5),
        (32, "8.6", 6),
        (32, "7.5", 4),
    ],
)
def test_blocks_that_fit(registers, architecture, blocks):
    (kernel,) = cuda_code.parse(MESSAGES, LISTING).values()
    assert kernel._replace(registers=registers).resident(architecture) == blocks


def test_predictions_follow_the_formula():
    (kernel,) = cuda_code.parse(MESSAGES, LISTING).values()
    gpu = cuda_code.Gpu("9.0", 10, 1e9, 1e12)
    memory, arithmetic = cuda_code.prediction(kernel, gpu)
    assert memory == pytest.approx(12e-12)
    assert arithmetic == pytest.approx(9 / 4 / 128 / 1e10)
    assert cuda_code.predicted_time(kernel, gpu, "100x50") == pytest.approx(4e-6 + 100 * 50 * 12e-12 + 400e-12)
    slow = gpu._replace(bandwidth=1e15)
    assert cuda_code.predicted_time(kernel, slow, "100x50") == pytest.approx(4e-6 + 5000 * 9 / 4 / 128 / 1e10)


def test_a_program_that_is_missing_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cuda_code.Missing, match="nvdisasm was not found; .*pip install nvidia-cuda-nvdisasm"):
        cuda_code.find_nvdisasm()
