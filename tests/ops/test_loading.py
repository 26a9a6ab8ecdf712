"""Laws of loading what was built: a library where there is one for this torch, and otherwise a reason that helps, said once."""

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


@pytest.fixture
def site(tmp_path) -> Path:
    """An installed vaekit whose library was built; without the library."""
    shutil.copytree(ROOT / "vaekit", tmp_path / "vaekit", ignore=shutil.ignore_patterns("__pycache__", "_build.json", "_C_*"))
    write_record(tmp_path, built=True, bytes=1000, compiler="g++ 1.0", torch="2.10.0")
    return tmp_path


def write_record(site: Path, schema: int = native._SCHEMA, cuda: dict | None = None, **entry) -> None:
    entries = {"cpu": entry, **({"cuda": cuda} if cuda else {})}
    record = {"schema": schema, "kernels": {device: {"deliberate": False, **entry} for device, entry in entries.items()}}
    (site / RECORD).write_text(json.dumps(record))


def never_built(site):
    (site / RECORD).unlink()
    return "pip install -e ."


def not_built(site):
    write_record(site, built=False, reason="no C++ compiler; install one")
    return "no C++ compiler; install one"


def another_schema(site):
    write_record(site, native._SCHEMA + 1, built=True)
    return "of another version"


def no_record(site):
    (site / RECORD).write_text("{")
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


def a_symbol_that_torch_lacks(site):
    source = site / "library.cpp"
    source.write_text(STAND_IN.replace("{ return", "{ torch_has_no_such_function(); return").replace("extern", PLANTED, 1))
    subprocess.run([*COMPILER.split(), "-shared", "-fPIC", "-o", site / LIBRARY, source], check=True)
    write_record(site, built=True, bytes=(site / LIBRARY).stat().st_size)
    return "torch_has_no_such_function"


PLANTED = 'extern "C" void torch_has_no_such_function();\nextern'
DEFECTS = [
    never_built, not_built, another_schema, no_record, no_file, no_library,
    pytest.param(cut_short, marks=pytest.mark.skipif(sys.platform != "linux", reason="takes one of torch's ELF files")),
    pytest.param(a_symbol_that_torch_lacks, marks=[needs_compiler, needs_posix]),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_missing_kernel_is_explained_once(site, defect):
    expected = defect(site)
    seen = imported(site)
    assert not seen["native"]
    assert seen["loaded"] == []
    assert seen["kernel"].startswith("reference (")
    assert expected in seen["kernel"]
    [(category, file, message)] = seen["warnings"]
    assert category == "RuntimeWarning"
    assert Path(file).name == "program.py", "the line that imports vaekit"
    assert seen["kernel"][len("reference (") : -1] in message
    assert "slower" in message
    assert "VAEKIT_NO_NATIVE=1" in message


def test_no_kernel_at_all_is_nothing_to_warn_of_where_that_was_wanted(site):
    assert imported(site, VAEKIT_NO_NATIVE=1)["warnings"] == []
    write_record(site, built=False, reason="because", deliberate=True)
    seen = imported(site)
    assert (seen["kernel"], seen["warnings"]) == ("reference (because)", [])


@pytest.mark.parametrize("variables", [{}, {"VAEKIT_NO_NATIVE": 1}], ids=["missing", "left out"])
def test_a_kernel_can_be_required(site, variables):
    done = run(site, "-c", "import vaekit", VAEKIT_REQUIRE_NATIVE=1, **variables)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled CPU kernel: ")
    assert ("VAEKIT_NO_NATIVE is set" if variables else "is missing although it was built") in last


def test_the_doctor_repeats_the_reason(site):
    reason = not_built(site)
    done = run(site, "-m", "vaekit", "doctor")
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert rows["cpu kernel"].strip() == f"reference ({reason})"
    if torch.version.cuda is None and torch.version.hip is None:
        assert rows["cuda kernel"].strip() == f"reference (this torch ({torch.__version__}) has no CUDA)"
    assert done.stderr.count("RuntimeWarning") == 1


CUDA_TORCH, ROCM_TORCH = (
    {"PLANTED_VERSIONS": json.dumps(v)} for v in ({"cuda": "13.0", "hip": None}, {"cuda": None, "hip": "6.4"})
)


def stand_in(site: Path, device: str, obstacle: str = "") -> dict:
    """Puts a stand-in where the library belongs, which any torch loads, and gives what the record says of it."""
    library, source = site / f"vaekit/_C_{device}{native._SUFFIX}", site / f"{device}.cpp"
    second = STAND_IN.replace("cpu_capability", "cuda_obstacle").replace("stand-in", obstacle)
    source.write_text(STAND_IN.replace("cpu", device) + second)
    subprocess.run([*COMPILER.split(), "-shared", "-fPIC", "-o", library, source], check=True)
    return {"built": True, "bytes": library.stat().st_size, "compiler": "nvcc 1.0", "torch": "2.10.0"}


@pytest.fixture
def cuda_site(site) -> Path:
    """An installed vaekit with a library for CUDA, and none for the CPU."""
    write_record(site, built=False, reason="because", deliberate=True, cuda=stand_in(site, "cuda"))
    return site


@needs_compiler
@needs_posix
def test_the_cuda_library_is_loaded_where_torch_has_cuda(cuda_site):
    seen = imported(cuda_site, **CUDA_TORCH)
    assert seen["loaded"] == ["cuda"], "whatever became of the CPU's"
    assert seen["cuda"] == "native (stand-in; nvcc 1.0, torch 2.10.0 headers)"
    assert (seen["warnings"], seen["later"], seen["initialized"]) == ([], [], False)


@needs_compiler
@needs_posix
def test_a_cuda_library_that_says_what_is_in_its_way_is_not_used(site):
    write_record(site, built=False, reason="because", deliberate=True, cuda=stand_in(site, "cuda", "the driver is too old"))
    seen = imported(site, **CUDA_TORCH)
    assert seen["loaded"] == []
    assert seen["cuda"].startswith("reference (the driver is too old; update the driver, or install vaekit again")
    assert len(seen["later"]) == 1


@needs_compiler
@needs_posix
@pytest.mark.parametrize(
    ("variables", "reason", "warns"),
    [
        ({"PLANTED_VERSIONS": '{"cuda": null, "hip": null}'}, f"this torch ({torch.__version__}) has no CUDA", True),
        (ROCM_TORCH, f"this torch ({torch.__version__}) is for ROCm, which vaekit has no kernel for", True),
        ({**CUDA_TORCH, "VAEKIT_CUDA": "0"}, "VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", False),
        ({**ROCM_TORCH, "VAEKIT_CUDA": "0"}, "VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", False),
        ({**CUDA_TORCH, "VAEKIT_NO_NATIVE": "1"}, "VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel", False),
    ],
    ids=["no CUDA", "ROCm", "VAEKIT_CUDA=0", "VAEKIT_CUDA=0 and ROCm", "VAEKIT_NO_NATIVE"],
)
def test_a_cuda_library_that_is_there_is_not_always_loaded(cuda_site, variables, reason, warns):
    seen = imported(cuda_site, **variables)
    assert (seen["loaded"], seen["cuda"], seen["warnings"]) == ([], f"reference ({reason})", [])
    assert len(seen["later"]) == warns


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        ({"built": False, "reason": "no nvcc; install one"}, "no nvcc; install one"),
        ({"built": True, "bytes": 1000}, "is missing although it was built; install vaekit again"),
        (None, "of another version"),
    ],
    ids=["not built", "missing", "built before there was one"],
)
def test_a_missing_cuda_kernel_is_explained_once_and_only_to_who_needs_it(site, cuda, reason):
    write_record(site, built=False, reason="because", deliberate=True, cuda=cuda)
    seen = imported(site, **CUDA_TORCH)
    assert (seen["loaded"], seen["warnings"], seen["initialized"]) == ([], [], False)
    assert reason in seen["cuda"]
    [(category, line, message)] = seen["later"]
    assert (category, line) == ("RuntimeWarning", "for _ in range(3): wrapper()")
    assert message.startswith(f"vaekit has no compiled CUDA kernel: {seen['cuda'][len('reference (') : -1]}. ")
    assert "VAEKIT_CUDA=0 silences" in message


def test_no_cuda_kernel_is_nothing_to_warn_of_where_that_was_wanted(site):
    cuda = {"built": False, "reason": "VAEKIT_CUDA=0 was set", "deliberate": True}
    write_record(site, built=False, reason="because", deliberate=True, cuda=cuda)
    assert imported(site, **CUDA_TORCH)["later"] == []


@needs_compiler
@needs_posix
def test_a_cuda_kernel_is_required_where_it_was_built_and_torch_has_cuda(site):
    built = {"built": True, "bytes": 1000}
    cpu = stand_in(site, "cpu")
    write_record(site, **cpu, cuda=built)
    (site / "program.py").write_text(PROGRAM)

    def said(**variables):
        return run(site, "program.py", VAEKIT_REQUIRE_NATIVE=1, **{**CUDA_TORCH, **variables}).stderr.strip().splitlines()[-1:]

    [line] = said()
    assert line.startswith("ImportError: VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled CUDA kernel: ")
    assert "is missing although it was built" in line
    assert said(PLANTED_VERSIONS='{"cuda": null, "hip": null}') == []
    assert said(VAEKIT_CUDA=0) == []
    write_record(site, **cpu, cuda={"built": False, "reason": "no nvcc"})
    assert said() == []


def test_the_variable_for_cuda_is_0_or_1_at_import_too(site):
    assert (
        "ValueError: VAEKIT_CUDA has to be 0 or 1, or unset; got 'yes'"
        in run(site, "-c", "import vaekit", VAEKIT_CUDA="yes").stderr
    )


def test_the_lookup_is_what_was_loaded():
    assert vaekit.has_native("cpu") == ("cpu" in native.LOADED)
    assert vaekit.has_native("cuda") == ("cuda" in native.LOADED)
    assert isinstance(native.LOADED, frozenset)
