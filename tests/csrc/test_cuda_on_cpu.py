"""Laws of cuda_on_cpu.h, which runs the source of a CUDA kernel on the CPU: against NumPy, in many orders, and with misuses."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).with_name("cuda_on_cpu_kernels.cpp")
ORDERS = [("natural", 0), ("reversed", 0), *(("shuffled", seed) for seed in range(20))]
BLOCKS = [1, 2, 31, 32, 33, 96, 257, 1024]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="session", params=["assembly", "portable"])
def file(request, build_module, build_folder):
    """The module, with the switch between fibers in assembly, where there is one, or the C library's."""
    name = f"cuda_on_cpu_{request.param}"
    flags = ["-O1", "-DCUDA_ON_CPU_PORTABLE"] if request.param == "portable" else []
    return build_module(name, SOURCE, build_folder / name, flags)


@pytest.fixture(scope="session")
def kernels(file, load_module):
    module = load_module(file)
    assert module.PORTABLE or ("portable" not in file.name and platform.machine() == "x86_64")
    return module


def distinct(call):
    """The results of a call in every order, without repetitions, as bytes."""
    return {np.asarray(call(order, seed)).tobytes() for order, seed in ORDERS}


# --- orders and indices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("grid", [1, 3])
def test_every_thread_of_every_block_runs_exactly_once(kernels, grid, block):
    """visits writes who came: a number for each thread of the grid, and another after the barrier."""
    for order, seed in ORDERS[:6]:
        visits = kernels.visits(grid, block, order, seed).reshape(grid, 2, block)
        assert sorted(visits.ravel()) == list(range(2 * grid * block))
        blocks = visits // block  # one block after another, and each wholly before its barrier, then wholly behind it
        np.testing.assert_array_equal(blocks, blocks[:, :1, :1] + np.array([0, grid])[:, None] + np.zeros((1, 1, block)))


def test_the_orders_are_what_they_are_called(kernels):
    np.testing.assert_array_equal(
        kernels.visits(2, 40, "natural", 0), np.concatenate([np.arange(40) + start for start in (0, 80, 40, 120)])
    )
    np.testing.assert_array_equal(
        kernels.visits(2, 40, "reversed", 0), np.concatenate([np.arange(40)[::-1] + start for start in (40, 120, 0, 80)])
    )
    shuffled = np.array([kernels.visits(3, 40, "shuffled", seed).reshape(3, 2, 40) for seed in range(20)])
    again = np.array([kernels.visits(3, 40, "shuffled", seed).reshape(3, 2, 40) for seed in range(20)])
    np.testing.assert_array_equal(shuffled, again)
    assert len({tuple(first) for first in shuffled[:, :, 0, 0] // 40}) > 3  # the order of the blocks
    threads = shuffled.reshape(120, 40) % 40
    assert len({tuple(row) for row in threads}) == 120  # a new one for each seed, block and time round
    assert len(set(threads[:, 0])) > 30  # any can be the first
    in_warps = np.sort(threads[:, :32], axis=1) == np.arange(32)
    assert 0 < in_warps.all(axis=1).sum() < 120  # sometimes one warp runs ahead, sometimes they are mixed


@pytest.mark.parametrize(("grid", "block"), [(0, 1), (1, 0), (1, 1025)])
def test_what_hardware_cannot_launch_is_refused(kernels, grid, block):
    with pytest.raises(RuntimeError, match=f"cannot launch {grid} blocks of {block} threads"):
        kernels.configuration(grid, block)


# --- barriers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
def test_a_tree_of_sums_is_right_in_every_order(kernels, block):
    values = RNG.integers(-(2**40), 2**40, (5, block))
    for order, seed in ORDERS:
        np.testing.assert_array_equal(kernels.tree_sums(values.ravel(), block, order, seed), values.sum(1))


def test_the_orders_find_a_missing_barrier(kernels):
    values = RNG.integers(1, 2**40, 64)
    assert len(distinct(lambda *order: kernels.tree_sums(values, 64, *order))) == 1
    assert len(distinct(lambda *order: kernels.tree_sums_without_barriers(values, 64, *order))) > 1
    values = values.astype(np.int32)
    assert len(distinct(lambda *order: kernels.neighbours(values, 64, *order))) == 1
    assert len(distinct(lambda *order: kernels.neighbours_without_barrier(values, 64, *order))) > 1


def test_the_orders_find_a_warp_that_runs_too_far_ahead(kernels):
    """A warp's second sum overwrites the first, which another warp still reads: only if it is 5 shuffles ahead."""
    values = RNG.standard_normal(512)
    expected = np.stack([values.reshape(2, 256).sum(1), (values**2).reshape(2, 256).sum(1)], 1).repeat(256, 0).ravel()
    for order, seed in ORDERS:
        np.testing.assert_allclose(kernels.two_sums(values, 256, order, seed), expected, rtol=1e-12)
    assert len(distinct(lambda *order: kernels.two_sums(values, 256, *order))) == 1
    assert len(distinct(lambda *order: kernels.two_sums_without_the_last_barrier(values, 256, *order))) > 1


def test_local_variables_outlive_a_wait(kernels):
    place = np.arange(96)
    whole = [place.astype(np.uint64) + np.uint64(i) for i in range(8)]
    real = [place + float(i) for i in range(3)]
    for _ in range(7):
        for i, factor in ((0, 3), (1, 5), (2, 7), (3, 9), (4, 3), (5, 5), (6, 7), (7, 9)):
            whole[i] = np.uint64(factor) * whole[i] + whole[(i + 1) % 8]
        for i, factor in enumerate((0.5, 0.25, 0.125)):
            real[i] = real[i] * factor + real[(i + 1) % 3]
    expected = (np.bitwise_xor.reduce(whole) >> np.uint64(20)).astype(np.float64) + real[0] + real[1] + real[2]
    for order, seed in ORDERS:
        np.testing.assert_array_equal(kernels.local_state(3, 32, 7, order, seed), expected)


# --- warps ---------------------------------------------------------------------------------------------------------------


def sources(kind, by, width):
    """Whose value each of 32 lanes gets, as PTX defines shfl (ISA 8.5, 9.7.9.6), with its c operand as CUDA's headers make it."""
    result = []
    for lane in range(32):
        clamp, segment = (0 if kind == "up" else 31), (32 - width) & 31
        b = int(by[lane]) & 31
        last, first = (lane & segment) | (clamp & ~segment), lane & segment
        source = {"index": first | (b & ~segment), "up": lane - b, "down": lane + b, "xor": lane ^ b}[kind]
        valid = source >= last if kind == "up" else source <= last
        result.append(source if valid else lane)
    return np.array(result)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("kind", ["index", "up", "down", "xor"])
def test_a_shuffle_reads_the_lane_that_ptx_says(kernels, kind, width):
    values = RNG.standard_normal(64)
    number = ["index", "up", "down", "xor"].index(kind)
    same = [np.full(32, by) for by in range(34)]
    differing = [RNG.integers(0, 32, 32) for _ in range(10)]
    for i, by in enumerate([*same, *differing]):
        found = kernels.shuffle_float64(number, values, np.tile(by, 2), width, *ORDERS[i % len(ORDERS)])
        lanes = sources(kind, by, width)
        np.testing.assert_array_equal(found, values[np.concatenate([lanes, lanes + 32])])


def test_a_shuffle_does_what_the_programming_guide_says(kernels):
    """The examples of CUDA's programming guide, without the model above."""
    lanes = np.arange(32)

    def shuffle(kind, by, width):
        return list(kernels.shuffle_int32(kind, lanes, np.full(32, by), width, "natural", 0))

    assert shuffle(0, 0, 32) == [0] * 32  # broadcast of one value across a warp
    assert shuffle(1, 2, 8)[:16] == [0, 1, 0, 1, 2, 3, 4, 5, 8, 9, 8, 9, 10, 11, 12, 13]  # the lower lanes are unchanged
    assert shuffle(2, 2, 8)[:16] == [2, 3, 4, 5, 6, 7, 6, 7, 10, 11, 12, 13, 14, 15, 14, 15]  # and here the upper ones
    assert shuffle(3, 8, 8)[:16] == [*range(8), *range(8)]  # earlier groups can be read, later ones not
    assert shuffle(0, 11, 8)[:16] == [3] * 8 + [11] * 8  # the lane modulo the width


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32", "int64", "uint64"])
def test_a_shuffle_keeps_every_bit(kernels, dtype):
    size = np.dtype(dtype).itemsize
    values = RNG.integers(0, 256, 96 * size, dtype=np.uint8).view(dtype)
    by = RNG.integers(0, 32, 96)
    found = getattr(kernels, f"shuffle_{dtype}")(0, values, by, 32, "shuffled", 1)
    expected = values[by + np.arange(96) // 32 * 32]
    assert found.dtype == dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float", "double", "int64"])
@pytest.mark.parametrize("lanes", [0, 1, 2, 4, 8, 16])
def test_a_partial_warp_sums_its_lanes(kernels, dtype, lanes):
    """One whole warp and another with only the first lanes."""
    block = 32 + lanes
    values = RNG.integers(-99, 99, (2, block))
    expected = np.concatenate(
        [values[:, :32].sum(1, keepdims=True).repeat(32, 1), values[:, 32:].sum(1, keepdims=True).repeat(lanes, 1)], 1
    )
    for order, seed in ORDERS:
        found = getattr(kernels, f"warp_sums_{dtype}")(values.ravel(), block, order, seed)
        np.testing.assert_array_equal(found, expected.ravel())


@pytest.mark.parametrize("likely", [0.0, 0.1, 0.9, 1.0])
def test_votes_count_the_lanes_of_the_mask(kernels, likely):
    values = (RNG.random(128) < likely) * RNG.integers(1, 2**31, 128)
    groups = values.reshape(4, 16, 2)  # warp, lane, even or odd
    bits = (groups != 0) * (np.uint64(1) << np.arange(32, dtype=np.uint64).reshape(16, 2))
    for order, seed in ORDERS:
        ballot, any_, all_ = (found.reshape(4, 16, 2) for found in kernels.votes(values, order, seed))
        np.testing.assert_array_equal(ballot, np.broadcast_to(bits.sum(1, keepdims=True), ballot.shape))
        np.testing.assert_array_equal(any_ != 0, np.broadcast_to((groups != 0).any(1, keepdims=True), any_.shape))
        np.testing.assert_array_equal(all_ != 0, np.broadcast_to((groups != 0).all(1, keepdims=True), all_.shape))


# --- what a kernel may not do --------------------------------------------------------------------------------------------

AT = r"is at {0} \(\S+cuda_on_cpu_kernels.cpp:\d+{1}\)"
BARRIER = AT.format("__syncthreads", "")
UNNAMED = "which the mask does not name"


def at(operation, mask="0x[0-9a-f]{8}", width=32):
    return AT.format(operation, f", mask {mask}, width {width}")


# The threads that the message names when they run in their natural order, and the message in any order.
MISUSES = {
    "deadlock": ([], r"deadlock: threads 0-39 at __syncthreads \(\S+:\d+\); threads 40-63 at __syncwarp \(\S+:\d+, mask .*"),
    "partial barrier": ([0], rf"thread \d+ {BARRIER}, but threads? (5|6|9)[-, 569]* returned from the kernel"),
    "return at a barrier": ([0], rf"thread \d+ {BARRIER}, but thread 63 returned from the kernel"),
    "two barriers": ([0, 7], rf"thread \d+ {BARRIER}, but thread \d+ {BARRIER}"),
    "not in own mask": ([3], rf"thread (3|35) {at('__syncwarp', '0xfffffff7')}, but is lane 3, {UNNAMED}"),
    "other masks": ([0, 3], rf"thread \d+ {at('__syncwarp')}, but (thread \d+ {at('__syncwarp')}|is lane \d+, {UNNAMED})"),
    "a mask that is not returned": (
        [0, 1],
        rf"thread \d+ {at('__syncwarp')}, but thread (\d+ {at('__syncwarp')}|(1|33) returned.*)",
    ),
    "one lane in two masks": ([0, 1], rf"thread \d+ {at('__syncwarp')}, but thread (\d+ {at('__syncwarp')}|(0|32) returned.*)"),
    "other operations": ([0, 3], rf"thread \d+ {at('__a.._sync')}, but thread \d+ {at('__a.._sync')}"),
    "other widths": ([0, 3], rf"thread \d+ {at('__shfl_sync', width='..')}, but thread \d+ {at('__shfl_sync', width='..')}"),
    "other lines": ([0, 3], rf"thread \d+ {at('__shfl_sync')}, but thread \d+ {at('__shfl_sync')}"),
    "returned lane": ([0], rf"thread \d+ {at('__syncwarp')}, but thread (3|35) returned from the kernel"),
    "lane returns": ([0], rf"thread \d+ {at('__syncwarp')}, but thread (31|63) returned from the kernel"),
    "short: beyond the block": ([0], rf"thread \d+ {at('__syncwarp')} for lane 20, but the block ends before it"),
    "short: mask with a gap": ([4], rf"thread \d+ {at('__shfl_xor_sync', '0x000fffff')} and reads lane \d+, {UNNAMED}"),
    "width 24": ([], r"__shfl_down_sync \(\S+:\d+, mask 0xffffffff, width 24\): the width is no power of two up to 32"),
    "width 0": ([], r"__shfl_down_sync \(\S+:\d+, mask 0xffffffff, width 0\): the width is no power of two up to 32"),
    "width 64": ([], r"__shfl_down_sync \(\S+:\d+, mask 0xffffffff, width 64\): the width is no power of two up to 32"),
    "reads outside the mask": ([4], rf"thread \d+ {at('__shfl_down_sync', '0x000000ff')} and reads lane \d+, {UNNAMED}"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_is_an_error_that_says_who_and_where(kernels, name):
    source = SOURCE.read_text().splitlines()
    start = next(number for number, line in enumerate(source, 1) if f'name == "{name}"' in line)
    end = next(number for number, line in enumerate(source[start:], start + 1) if "} else if (name" in line or "throw" in line)
    threads, message = MISUSES[name]
    for order, seed in ORDERS:
        with pytest.raises(RuntimeError) as raised:
            kernels.misuse(name, order, seed)
        said = str(raised.value)
        assert re.fullmatch("block 0: " + message, said), said
        if order == "natural":
            assert [int(thread) for thread in re.findall(r"thread (\d+) is at", said)] == threads
        lines = [int(line) for line in re.findall(r"cpp:(\d+)", said)]
        assert lines
        assert all(start < line < end for line in lines)
        if name in ("deadlock", "two barriers", "other lines"):
            assert len(set(lines)) == 2


@pytest.mark.parametrize("name", ["deadlock", "partial barrier", "other masks", "width 24"])
def test_an_error_leaves_nothing_behind(kernels, name):
    values = RNG.integers(-(2**40), 2**40, (3, 64))
    for order, seed in ORDERS:
        with pytest.raises(RuntimeError, match="block 0"):
            kernels.misuse(name, order, seed)
        np.testing.assert_array_equal(kernels.tree_sums(values.ravel(), 64, order, seed), values.sum(1))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of what is mapped")
def test_the_stacks_of_abandoned_threads_are_freed(kernels):
    def mapped():
        return len(Path("/proc/self/maps").read_text().splitlines())

    for _ in range(2):
        before = mapped()
        for _ in range(50):
            with pytest.raises(RuntimeError, match="deadlock"):
                kernels.misuse("deadlock", "natural", 0)
    assert mapped() < before + 64


def test_a_kernel_launches_no_other(kernels):
    with pytest.raises(RuntimeError, match="a kernel cannot launch another one"):
        kernels.launches()
    kernels.configuration(1, 1)


# --- exceptions and stacks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waited", [False, True])
@pytest.mark.parametrize("thread", [0, 5, 63, 64, 127])
def test_an_exception_leaves_the_launch_as_it_was_thrown(kernels, thread, waited):
    with pytest.raises(IndexError, match=r"^thrown by the kernel$"):  # what pybind11 makes of std::out_of_range
        kernels.throws(2, 64, thread, waited)
    kernels.throws(2, 64, 128, waited)


def test_exceptions_within_a_kernel_are_its_own_affair(kernels):
    place = np.arange(128)
    for order, seed in ORDERS:
        np.testing.assert_array_equal(kernels.catches(2, 64, order, seed), np.where(place % 2 == 0, 3 * place, -3))


def alone(file, code, **environment):
    """Runs Python code with the module as `kernels` in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(file.parent)!r}); import {file.name.partition('.')[0]} as kernels\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


def test_a_stack_is_large_enough_and_ends_at_a_guard(file, kernels):
    kibibytes = 48
    np.testing.assert_array_equal(kernels.stack(32, kibibytes), np.full(32, kibibytes * (kibibytes + 1)))
    # After two blocks that wait, the stack that is taken first has another one's below it.
    ran = alone(file, "kernels.waits(2, 64, 1); kernels.stack(1, kernels.STACK // 1024 + 1)")
    assert ran.returncode in (-signal.SIGSEGV, -signal.SIGBUS) or "stack-overflow" in ran.stderr, ran.stderr


# --- AddressSanitizer ----------------------------------------------------------------------------------------------------

CLEAN = """
import numpy as np
values = np.arange(192)
for seed in range(10):
    for name in {misuses}:
        try:
            kernels.misuse(name, "shuffled", seed)
        except RuntimeError:
            pass
        else:
            raise AssertionError(name)
        assert (kernels.tree_sums(values, 64, "shuffled", seed) == values.reshape(3, 64).sum(1)).all()
    for waited in (False, True):
        try:
            kernels.throws(2, 64, 70, waited)
        except IndexError:
            pass
        else:
            raise AssertionError("throws")
    kernels.two_sums(values.astype(np.float64), 64, "shuffled", seed)
    kernels.catches(2, 64, "shuffled", seed)
    kernels.local_state(2, 64, 3, "shuffled", seed)
    kernels.stack(32, 48)
print(kernels.writes_shared(7))
"""


@pytest.fixture(scope="session")
def sanitized(build_module, build_folder):
    """The module under AddressSanitizer, and the libraries that Python then has to load first."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
        if compiler
    ]
    if sys.platform != "linux" or not found or not all(os.path.isabs(name) for name in found):
        pytest.skip("no AddressSanitizer of GCC's")
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address"]
    file = build_module("cuda_on_cpu_sanitized", SOURCE, build_folder / "cuda_on_cpu_sanitized", flags)
    return file, {"LD_PRELOAD": " ".join(found)}


@pytest.mark.parametrize("after_return", [0, 1])
def test_fibers_are_clean_under_address_sanitizer(sanitized, after_return):
    file, environment = sanitized
    options = f"detect_leaks=0:detect_stack_use_after_return={after_return}"
    ran = alone(file, CLEAN.format(misuses=list(MISUSES)), ASAN_OPTIONS=options, **environment)
    assert ran.returncode == 0, ran.stderr[-5000:]
    assert ran.stdout == "[0 1 2 3 4 5 6 1]\n"
    assert "Sanitizer" not in ran.stderr


def test_address_sanitizer_sees_a_write_beyond_shared_memory(sanitized):
    file, environment = sanitized
    ran = alone(file, "kernels.writes_shared(8)", ASAN_OPTIONS="detect_leaks=0", **environment)
    assert ran.returncode != 0
    # UndefinedBehaviorSanitizer, if CXXFLAGS asks for it, is the first to see it.
    assert re.search("global-buffer-overflow|index 8 out of bounds", ran.stderr), ran.stderr[-5000:]
    assert "cuda_on_cpu_kernels.cpp:" in ran.stderr
