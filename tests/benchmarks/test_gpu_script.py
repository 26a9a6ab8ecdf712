"""The script for a machine with a GPU, without one: stand-ins for the programs that it needs, and its own programs on the CPU."""

import csv
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vaekit

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = [
    "environment",
    "build",
    "tests",
    "memcheck",
    "operator",
    "fit",
    "half",
    "likelihoods",
    "pairwise",
    "compiled",
    "racecheck",
]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("bash"), reason="the script is for Linux"
)

# A python that finds the GPU of $GPU, notes what it is asked to run and for whom, and does what $DOES says of it.
PYTHON = """#!/bin/bash
case "$*" in *get_device_capability*) echo "$GPU"; exit ;; esac
echo "$VAEKIT_CUDA|$TORCH_CUDA_ARCH_LIST|$PYTORCH_NO_CUDA_MEMORY_CACHING|$*" >> "$NOTES"
while read -r pattern action; do
    case "$*" in *"$pattern"*)
        case $action in
            fails) echo 'RuntimeError: an illegal memory access'; echo 'and more'; exit 1 ;;
            hangs) read -r < "$FIFO" ;;
            *) echo "$action"; exit ;;
        esac ;;
    esac
done <<< "$DOES"
echo fine
"""
SANITIZER = """#!/bin/bash
echo "sanitizer $*" >> "$NOTES"
while [ "$1" != "$PYTHON" ]; do shift; done
exec "$@"
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs gpu.sh with stand-ins; returns its exit status, the parts' results and what the python was asked to run."""
    programs = tmp_path / "programs"
    programs.mkdir()
    notes, fifo, out = tmp_path / "notes", tmp_path / "fifo", tmp_path / "out"
    os.mkfifo(fifo)

    def write(name, text):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    write("a_python", PYTHON)
    nothing = "#!/bin/bash\necho stand-in\n"

    def run(*options, gpu="9.0", does="", has=("nvcc", "nvidia-smi", "compute-sanitizer"), **environment):
        for name in has:
            write(name, SANITIZER if name == "compute-sanitizer" else nothing)
        notes.write_text("")
        system = [folder for folder in ("/usr/bin", "/bin") if os.path.isdir(folder)]
        own = {
            "PATH": os.pathsep.join([str(programs), *system]),
            "PYTHON": str(programs / "a_python"),
            "GPU": gpu,
            "DOES": does,
            "NOTES": str(notes),
            "FIFO": str(fifo),
            "CUDA_HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            **environment,
        }
        done = subprocess.run(["bash", FOLDER / "gpu.sh", *options, out], env=own, capture_output=True, text=True)
        with open(out / "summary.csv", newline="") as stream:
            rows = {row["part"]: row for row in csv.DictReader(stream)}
        assert all(row["said"] in done.stdout for row in rows.values())
        assert not list(tmp_path.glob("tmp.*")), "the copy is gone"
        return done.returncode, rows, notes.read_text().splitlines()

    return run


def results(rows):
    return {name: row["result"] for name, row in rows.items()}


def test_every_part_runs_on_the_gpu_that_is_there(script):
    code, rows, asked = script(gpu="8.6", does="-m pytest 3 passed in 1.0s")
    assert results(rows) == {part: "skipped" if part in LATER else "ok" for part in PARTS}
    assert code == (2 if LATER else 0)
    build = [line for line in asked if "build_ext" in line]
    assert len(build) == 1
    assert build[0].startswith("1|8.6|")
    assert "--inplace" in build[0]
    assert [line for line in asked if line.startswith("sanitizer")] == [
        f"sanitizer --tool {tool} --error-exitcode 86 {line.split()[-4]} benchmarks/kernel_calls.py --device cuda"
        for tool, line in zip(("memcheck", "racecheck"), [line for line in asked if line.startswith("sanitizer")], strict=True)
    ]
    assert [line.split("|")[2] for line in asked if "kernel_calls" in line and "|" in line] == ["1", "1"], (
        "each allocation by itself"
    )
    tests = next(line for line in asked if "pytest" in line)
    assert "-m cuda" in tests
    assert "tests/ops/test_cuda_device.py" in tests
    assert "test_gpu_script" not in tests
    assert all("--device cuda" in line for line in asked if "benchmarks/" in line)
    assert not any("pip" in line for line in asked)


# Parts whose benchmark has no option --device yet.
LATER = {
    part
    for part, name in (("likelihoods", "likelihoods.py"), ("pairwise", "pairwise_objectives.py"))
    if not (FOLDER / name).is_file() or '"--device"' not in (FOLDER / name).read_text()
}


def test_a_part_that_fails_is_told_and_the_others_still_run(script):
    code, rows, _ = script("--only", "build,tests,memcheck,fit", does="fit_on_device fails\n-m pytest 59 skipped in 2.0s")
    assert results(rows) == {"build": "ok", "tests": "failed", "memcheck": "ok", "fit": "failed"}
    assert rows["fit"]["said"] == "RuntimeError: an illegal memory access"
    assert rows["tests"]["said"] == "error: no test ran"
    assert code == 1


def test_a_part_that_hangs_is_ended_and_the_time_of_all_is_bounded(script):
    code, rows, _ = script("--only", "fit,half", does="fit_on_device hangs", GPU_LIMIT="0.2")
    assert results(rows) == {"fit": "timed out", "half": "ok"}
    assert rows["fit"]["said"].startswith("after 0.2 s")
    assert code == 1
    code, rows, asked = script("--only", "fit,half", GPU_SECONDS="5")
    assert results(rows) == {"fit": "skipped", "half": "skipped"}
    assert rows["half"]["said"] == "no time was left"
    assert (code, asked) == (2, [])


@pytest.mark.parametrize(
    ("lacking", "has", "gpu"),
    [
        ("torch 2.11.0 was built without CUDA", ("nvcc",), "torch 2.11.0 was built without CUDA"),
        ("a_python cannot import torch", ("nvcc",), ""),
        ("there is no nvcc", (), "9.0"),
    ],
)
def test_what_is_missing_is_said(script, lacking, has, gpu):
    code, rows, asked = script("--only", "build", has=has, gpu=gpu)
    assert rows["build"]["result"] == "skipped"
    assert lacking in rows["build"]["said"]
    assert (code, asked) == (2, [])


def test_a_rehearsal_runs_every_part_on_the_cpu(script):
    code, rows, asked = script("--rehearse", gpu="", has=())
    assert results(rows) == {part: "skipped" if part in LATER else "ok" for part in PARTS}
    assert not any("cuda" in line for line in asked if "benchmarks/" in line)
    assert sum("--device cpu" in line for line in asked) == len(PARTS) - len(LATER) - 3


# --- its programs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in ("fit_on_device", "kernel_calls", "harness", "peers", "peers.torch_networks"):
        sys.modules.pop(name, None)


def test_the_kernels_that_are_watched_compute_what_the_cpu_computes(module, capsys):
    module("kernel_calls").main(["--device", "cpu"])
    assert "as on the CPU" in capsys.readouterr().out


def test_a_kernel_that_computes_something_else_is_named(module, monkeypatch):
    kernel_calls = module("kernel_calls")
    true, seen = kernel_calls.results, []

    def results(function, tensors, device):
        seen.append(1)
        return [r + len(seen) % 2 for r in true(function, tensors, device)]

    monkeypatch.setattr(kernel_calls, "results", results)
    with pytest.raises(AssertionError, match=r"reparameterize_kl \(64, 20\) torch.float32"):
        kernel_calls.main(["--device", "cpu"])


def test_fit_stands_beside_bare_loops_and_one_that_fails_is_told(module, tmp_path, monkeypatch, capsys):
    fit_on_device, file = module("fit_on_device"), tmp_path / "fit.csv"
    fit = vaekit.fit
    monkeypatch.setattr(
        vaekit, "fit", lambda *args, **options: 1 / 0 if options.get("precision") == "bf16" else fit(*args, **options)
    )
    options = ["--device", "cpu", "--examples", "16", "--batch-size", "8", "--epochs", "3", "--turns", "2", "--csv", str(file)]
    fit_on_device.main(["--models", "conv-mnist", *options])
    with open(file, newline="") as stream:
        rows = {row["contender"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["bare loop", "bare loop, bf16", "fit", "fit, bf16"]
    assert float(rows["bare loop"]["times_bare"]) == 1.0
    assert float(rows["fit"]["ms_q1"]) <= float(rows["fit"]["ms"]) <= float(rows["fit"]["ms_q3"])
    assert rows["fit, bf16"]["why_not"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_the_bare_loops_have_the_weights_of_the_presets_and_take_their_data(module):
    for name in module("fit_on_device").MODELS:
        bare, vae = module("peers.torch_networks").bare(name), vaekit.create_vae(name)
        shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (bare, vae)]
        assert shapes[0] == shapes[1]
        assert bare(torch.rand(2, *vae.input_shape).flatten(1)).isfinite()
