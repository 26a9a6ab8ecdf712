"""Laws of loading what was built: a library where there is one for this torch, and otherwise a reason that helps, said once.

What is loaded follows from the environment, the build's record and the torch that runs, all of which are planted here. A few
tests at the end import vaekit in a process of its own, to see that an import acts on it. A stand-in takes the place of a library.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.installs import COMPILER, LIBRARY, PROGRAM, RECORD, ROOT, STAND_IN, imported, needs_compiler, needs_posix, run

import vaekit
from vaekit.ops import native

WITHOUT_CUDA, WITH_CUDA, WITH_ROCM = (
    native.Torch("2.10.0", None, None),
    native.Torch("2.10.0", "13.0", None),
    native.Torch("2.10.0", None, "6.4"),
)
FROM_LIBC10 = pytest.mark.skipif(sys.platform != "linux", reason="takes one of torch's ELF files")


def write_record(site: Path, schema: int = native._SCHEMA, cuda: dict | None = None, **entry) -> None:
    entries = {"cpu": entry, **({"cuda": cuda} if cuda else {})}
    record = {"schema": schema, "kernels": {device: {"deliberate": False, **entry} for device, entry in entries.items()}}
    (site / RECORD).write_text(json.dumps(record))


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder with a package whose CPU library was built; without the library."""
    (tmp_path / "vaekit").mkdir()
    write_record(tmp_path, built=True, bytes=1000, compiler="g++ 1.0", torch="2.10.0")
    return tmp_path


def load(site: Path, running: native.Torch = WITHOUT_CUDA, **environment: str) -> native.Kernels:
    return native.load(environment, running, site / "vaekit")


def stand_in(site: Path, device: str, obstacle: str = "") -> dict:
    """Puts a stand-in where the library belongs, which any torch loads, and gives what the record says of it."""
    library, source = site / f"vaekit/_C_{device}{native._SUFFIX}", site / f"{device}.cpp"
    second = STAND_IN.replace("cpu_capability", "cuda_obstacle").replace("stand-in", obstacle)
    source.write_text(STAND_IN.replace("cpu", device) + second)
    subprocess.run([*COMPILER.split(), "-shared", "-fPIC", "-o", library, source], check=True)
    return {"built": True, "bytes": library.stat().st_size, "compiler": "nvcc 1.0", "torch": "2.10.0"}


# --- the CPU's -----------------------------------------------------------------------------------------------------------


@needs_compiler
@needs_posix
def test_a_library_that_is_there_is_loaded_and_says_what_it_is(site):
    write_record(site, **{**stand_in(site, "cpu"), "compiler": "g++ 1.0"})
    kernels = load(site)
    assert kernels.loaded == {"cpu"}
    assert kernels.states["cpu"] == "native (stand-in; g++ 1.0, torch 2.10.0 headers)"
    assert kernels.warning("cpu") is None


@needs_compiler
@needs_posix
@pytest.mark.parametrize("value", ["1", "true", " YES "])
def test_a_library_that_is_there_can_be_left_out(site, value):
    write_record(site, **stand_in(site, "cpu"))
    kernels = load(site, VAEKIT_NO_NATIVE=value)
    assert (kernels.loaded, kernels.warning("cpu")) == (frozenset(), None)
    assert kernels.states["cpu"] == "reference (VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel)"
    for unset in ("", "0", "false", "No", "off"):
        assert load(site, VAEKIT_NO_NATIVE=unset).loaded == {"cpu"}


def never_built(site):
    (site / RECORD).unlink()
    return "pip install -e ."


def not_built(site):
    write_record(site, built=False, reason="no C++ compiler; install one")
    return "no C++ compiler; install one"


def another_schema(site):
    write_record(site, native._SCHEMA + 1, built=True)
    return "of another version"


def half_a_record(site):
    (site / RECORD).write_text("{")
    return "cannot be read"


def a_list_for_a_record(site):
    (site / RECORD).write_text("[1]")
    return "cannot be read"


def no_file(site):
    return "is missing although it was built; install vaekit again"


def cut_short(site):
    whole = Path(torch.__file__).parent / "lib/libc10.so"  # loading half a library ends a process
    (site / LIBRARY).write_bytes(whole.read_bytes()[:5000])
    write_record(site, built=True, bytes=whole.stat().st_size)
    return "has 5000 bytes"


def no_library(site):
    (site / LIBRARY).write_text("x" * 1000)
    return "could not be loaded"


def another_library(site):
    shutil.copy(Path(torch.__file__).parent / "lib/libc10.so", site / LIBRARY)
    write_record(site, built=True, bytes=(site / LIBRARY).stat().st_size)
    return "vaekit_cpu_capability"


def a_symbol_that_torch_lacks(site):
    source = site / "library.cpp"
    planted = 'extern "C" void torch_has_no_such_function();\nextern'
    source.write_text(STAND_IN.replace("{ return", "{ torch_has_no_such_function(); return").replace("extern", planted, 1))
    subprocess.run([*COMPILER.split(), "-shared", "-fPIC", "-o", site / LIBRARY, source], check=True)
    write_record(site, built=True, bytes=(site / LIBRARY).stat().st_size)
    return "torch_has_no_such_function"


DEFECTS = [
    never_built, not_built, another_schema, half_a_record, a_list_for_a_record, no_file, no_library,
    pytest.param(cut_short, marks=FROM_LIBC10), pytest.param(another_library, marks=FROM_LIBC10),
    pytest.param(a_symbol_that_torch_lacks, marks=[needs_compiler, needs_posix]),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_missing_kernel_is_explained_with_what_to_do(site, defect):
    expected = defect(site)
    kernels = load(site)
    assert kernels.loaded == frozenset()
    assert kernels.states["cpu"].startswith("reference (")
    assert expected in kernels.states["cpu"]
    message = kernels.warning("cpu")
    assert kernels.states["cpu"][len("reference (") : -1] in message
    assert "slower" in message
    assert "VAEKIT_NO_NATIVE=1" in message
    with pytest.raises(ImportError, match="VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled CPU kernel: ") as raised:
        load(site, VAEKIT_REQUIRE_NATIVE="1")
    assert expected in str(raised.value)


def test_no_kernel_is_nothing_to_warn_of_where_that_was_wanted(site):
    assert load(site, VAEKIT_NO_NATIVE="1").warning("cpu") is None
    write_record(site, built=False, reason="because", deliberate=True)
    kernels = load(site)
    assert (kernels.states["cpu"], kernels.warning("cpu")) == ("reference (because)", None)


def test_a_kernel_that_is_left_out_can_still_be_required(site):
    with pytest.raises(ImportError, match="no compiled CPU kernel: VAEKIT_NO_NATIVE is set"):
        load(site, VAEKIT_REQUIRE_NATIVE="1", VAEKIT_NO_NATIVE="1")


@pytest.mark.parametrize(("variable", "value"), [("VAEKIT_CUDA", "yes"), ("VAEKIT_CPU_CAPABILITY", "avx512")])
def test_a_variable_with_a_value_that_it_does_not_take_is_refused(site, variable, value):
    with pytest.raises(ValueError, match=f"{variable} has to be .*{value!r}"):
        load(site, **{variable: value})


def test_the_instruction_sets_are_those_of_the_library():
    source = (ROOT / "csrc/cpu/instruction_sets.h").read_text()
    assert all(f'"{name}"' in source for name in native._CAPABILITIES)


# --- CUDA's --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda_site(site) -> Path:
    """A package with a library for CUDA, and none for the CPU."""
    write_record(site, built=False, reason="because", deliberate=True, cuda=stand_in(site, "cuda"))
    return site


@needs_compiler
@needs_posix
def test_the_cuda_library_is_loaded_where_torch_has_cuda(cuda_site):
    kernels = load(cuda_site, WITH_CUDA)
    assert kernels.loaded == {"cuda"}, "whatever became of the CPU's"
    assert kernels.states["cuda"] == "native (stand-in; nvcc 1.0, torch 2.10.0 headers)"
    assert kernels.warning("cuda") is None


@needs_compiler
@needs_posix
def test_a_cuda_library_that_says_what_is_in_its_way_is_not_used(site):
    write_record(site, built=False, reason="because", deliberate=True, cuda=stand_in(site, "cuda", "the driver is too old"))
    kernels = load(site, WITH_CUDA)
    assert kernels.loaded == frozenset()
    assert kernels.states["cuda"].startswith("reference (the driver is too old; update the driver, or install vaekit again")
    assert kernels.warning("cuda")


@needs_compiler
@needs_posix
@pytest.mark.parametrize(
    ("running", "variables", "reason", "warns"),
    [
        (WITHOUT_CUDA, {}, "this torch (2.10.0) has no CUDA", True),
        (WITH_ROCM, {}, "this torch (2.10.0) is for ROCm, which vaekit has no kernel for", True),
        (WITH_CUDA, {"VAEKIT_CUDA": "0"}, "VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", False),
        (WITH_ROCM, {"VAEKIT_CUDA": "0"}, "VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", False),
        (WITH_CUDA, {"VAEKIT_NO_NATIVE": "1"}, "VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel", False),
    ],
    ids=["no CUDA", "ROCm", "VAEKIT_CUDA=0", "VAEKIT_CUDA=0 and ROCm", "VAEKIT_NO_NATIVE"],
)
def test_a_cuda_library_that_is_there_is_not_always_loaded(cuda_site, running, variables, reason, warns):
    kernels = load(cuda_site, running, **variables)
    assert (kernels.loaded, kernels.states["cuda"]) == (frozenset(), f"reference ({reason})")
    assert (kernels.warning("cuda") is not None) == warns


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        ({"built": False, "reason": "no nvcc; install one"}, "no nvcc; install one"),
        ({"built": True, "bytes": 1000}, "is missing although it was built; install vaekit again"),
        (None, "of another version"),
    ],
    ids=["not built", "missing", "built before there was one"],
)
def test_a_missing_cuda_kernel_is_explained(site, cuda, reason):
    write_record(site, built=False, reason="because", deliberate=True, cuda=cuda)
    kernels = load(site, WITH_CUDA)
    assert kernels.loaded == frozenset()
    assert reason in kernels.states["cuda"]
    message = kernels.warning("cuda")
    assert message.startswith(f"vaekit has no compiled CUDA kernel: {kernels.states['cuda'][len('reference (') : -1]}. ")
    assert "VAEKIT_CUDA=0 silences" in message


def test_no_cuda_kernel_is_nothing_to_warn_of_where_that_was_wanted(site):
    cuda = {"built": False, "reason": "VAEKIT_CUDA=0 was set", "deliberate": True}
    write_record(site, built=False, reason="because", deliberate=True, cuda=cuda)
    assert load(site, WITH_CUDA).warning("cuda") is None


@needs_compiler
@needs_posix
def test_a_cuda_kernel_is_required_where_it_was_built_and_torch_has_cuda(site):
    cpu = stand_in(site, "cpu")
    write_record(site, **cpu, cuda={"built": True, "bytes": 1000})
    with pytest.raises(ImportError, match="no compiled CUDA kernel: .* is missing although it was built"):
        load(site, WITH_CUDA, VAEKIT_REQUIRE_NATIVE="1")
    assert load(site, WITHOUT_CUDA, VAEKIT_REQUIRE_NATIVE="1").loaded == {"cpu"}
    assert load(site, WITH_CUDA, VAEKIT_REQUIRE_NATIVE="1", VAEKIT_CUDA="0").loaded == {"cpu"}
    write_record(site, **cpu, cuda={"built": False, "reason": "no nvcc"})
    assert load(site, WITH_CUDA, VAEKIT_REQUIRE_NATIVE="1").loaded == {"cpu"}


# --- what an import does -------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(site) -> Path:
    """The whole package, its CPU library built and missing."""
    unwanted = shutil.ignore_patterns("__pycache__", "_build.json", "_C_*")
    shutil.copytree(ROOT / "vaekit", site / "vaekit", ignore=unwanted, dirs_exist_ok=True)
    return site


def test_an_import_warns_once_and_the_first_call_with_a_cuda_tensor_too(installed):
    write_record(installed, built=True, bytes=1000, cuda={"built": False, "reason": "no nvcc; install one"})
    seen = imported(installed, PLANTED_VERSIONS=json.dumps({"cuda": "13.0", "hip": None}))
    assert (seen["native"], seen["loaded"], seen["initialized"]) == (False, [], False)
    [(category, file, message)] = seen["warnings"]
    assert (category, Path(file).name) == ("RuntimeWarning", "program.py"), "the line that imports vaekit"
    assert seen["kernel"][len("reference (") : -1] in message
    [(category, line, message)] = seen["later"]
    assert (category, line) == ("RuntimeWarning", "for _ in range(3): wrapper()")
    assert seen["cuda"][len("reference (") : -1] in message


def test_an_import_asks_the_environment_and_the_torch_that_runs(installed):
    assert imported(installed, VAEKIT_NO_NATIVE=1)["warnings"] == []
    (installed / "program.py").write_text(PROGRAM)
    last = run(installed, "program.py", VAEKIT_REQUIRE_NATIVE=1).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: VAEKIT_REQUIRE_NATIVE is set")


def test_the_doctor_repeats_the_reason(installed):
    reason = not_built(installed)
    done = run(installed, "-m", "vaekit", "doctor")
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert rows["cpu kernel"].strip() == f"reference ({reason})"
    if torch.version.cuda is None and torch.version.hip is None:
        assert rows["cuda kernel"].strip() == f"reference (this torch ({torch.__version__}) has no CUDA)"
    assert done.stderr.count("RuntimeWarning") == 1


def test_the_lookup_is_what_was_loaded():
    assert vaekit.has_native("cpu") == ("cpu" in native.LOADED)
    assert vaekit.has_native("cuda") == ("cuda" in native.LOADED)
    assert isinstance(native.LOADED, frozenset)
