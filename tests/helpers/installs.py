"""An installed vaekit that a process of its own imports: what it sees of its libraries and its warnings."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vaekit.ops import native

ROOT = Path(__file__).parents[2]
LIBRARY = f"vaekit/_C_cpu{native._SUFFIX}"
CUDA_LIBRARY = f"vaekit/_C_cuda{native._SUFFIX}"
RECORD = "vaekit/_build.json"
STAND_IN = 'extern "C" __attribute__((visibility("default"))) const char* vaekit_cpu_capability() { return "stand-in"; }\n'

COMPILER = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER.split()[0]) is None, reason=f"no C++ compiler {COMPILER!r} here")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays the compiler")


def environment(**changes):
    """This one, without what decides about libraries."""
    decides = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "PYTHONPATH", "PYTHONWARNINGS")
    kept = {k: v for k, v in os.environ.items() if k not in decides and not k.startswith(("VAEKIT_", "NVCC_"))}
    return {**kept, **({"CXX": os.environ["CXX"]} if "CXX" in os.environ else {}), **{k: str(v) for k, v in changes.items()}}


PROGRAM = """
import json, linecache, os, torch, warnings
if "PLANTED_VERSIONS" in os.environ:  # a torch that says that it has CUDA or ROCm; nothing that is imported asks it for more
    vars(torch.version).update(json.loads(os.environ["PLANTED_VERSIONS"]))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import vaekit
    import vaekit.ops.native
with warnings.catch_warnings(record=True) as later:
    warnings.simplefilter("always")
    def wrapper():
        vaekit.ops.native.warn_without_cuda_kernel()
    for _ in range(3): wrapper()
print(json.dumps({
    "file": vaekit.__file__, "native": vaekit.has_native("cpu"), "loaded": sorted(vaekit.ops.native.LOADED),
    "kernel": vaekit.build_info()["cpu kernel"], "cuda": vaekit.build_info()["cuda kernel"],
    "warnings": [[w.category.__name__, w.filename, str(w.message)] for w in seen if "vaekit" in str(w.message)],
    "later": [[w.category.__name__, linecache.getline(w.filename, w.lineno).strip(), str(w.message)] for w in later],
    "initialized": torch.cuda.is_initialized(),
}))
"""


def run(site: Path, *arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment(PYTHONPATH=site, **variables), capture_output=True, text=True
    )


def imported(site: Path, **variables) -> dict:
    """What a process sees that imports the vaekit in `site`."""
    (site / "program.py").write_text(PROGRAM)
    done = run(site, "program.py", **variables)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["file"]) == site / "vaekit/__init__.py"
    return seen
