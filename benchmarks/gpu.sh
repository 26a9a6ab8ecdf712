#!/usr/bin/env bash
# Everything that wants a GPU, in one go and under 8 minutes: builds the libraries for the GPU at hand, runs the tests that need one,
# the kernels under compute-sanitizer, and the benchmarks, and leaves CSVs, logs and a summary in a folder.
#
#     bash benchmarks/gpu.sh OUT                          # on a Linux machine with an NVIDIA GPU, nvcc and torch
#     bash benchmarks/gpu.sh --rehearse OUT               # every part on the CPU, with tiny sizes: does the script itself work?
#     bash benchmarks/gpu.sh --only build,tests OUT       # some parts; `build` makes what the others use
#
# It works in a copy of this checkout and installs nothing. It needs no network, and of Python's packages torch (2.10 or later),
# numpy, pytest, hypothesis, typer, tqdm, matplotlib, safetensors and lightning_fabric, which pytorch-lightning brings too.
#
# Each part has a limit of its own, or GPU_LIMIT, and all together have GPU_SECONDS (460); one that fails leaves the others alone.
# OUT/summary.txt says of each: ok, failed, timed out or skipped, the seconds, and the line that says why. The exit status is 0 if
# all that was asked for is ok, 1 if something failed or timed out, 2 if something is missing.
#
# PYTHON names the interpreter (python3), CUDA_HOME the toolkit (/usr/local/cuda), where nvcc and compute-sanitizer are looked for
# after PATH.
set -u

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

rehearse='' only='' out=''
while [ $# -gt 0 ]; do
    case $1 in
        --rehearse) rehearse=1 ;;
        --only) only=${2:-}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) echo "gpu.sh: no option $1; --help says which there are" >&2; exit 2 ;;
        *) [ -z "$out" ] || { echo "gpu.sh: one folder for the results, got $out and $1" >&2; exit 2; }; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { usage; exit 2; }

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$out/logs" && out=$(cd "$out" && pwd) || exit 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
began=$SECONDS deadline=$((SECONDS + ${GPU_SECONDS:-460})) status=0
printf 'part,result,seconds,said\n' > "$out/summary.csv"
printf '%-12s %-9s %7s  %s\n' part result seconds said > "$out/summary.txt"

for file in setup.py pyproject.toml README.md csrc vaekit tests benchmarks; do cp -a "$here/$file" "$work/"; done
cd "$work" || exit 2
toolkit=${CUDA_HOME:-/usr/local/cuda}/bin
PATH=$PATH:$toolkit
export PATH PYTHON PYTHONPATH=$work PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MPLBACKEND=agg OUT=$out
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton HYPOTHESIS_PROFILE=${HYPOTHESIS_PROFILE:-ci}
device=cuda
[ -z "$rehearse" ] || device=cpu
export device

# said FILE: the line of a log that is worth reading in a summary: the last that names an error, or else the last.
said() {
    local line
    line=$(grep -E '^E  |[Ee]rror|FAILED|SKIPPED' "$1" | tail -n 1)
    [ -n "$line" ] && [ "${2:-}" != ok ] || line=$(grep -v '^ *$' "$1" | tail -n 1)
    printf '%s' "$line" | tr -d '\r"' | cut -c1-200
}

# record PART RESULT SECONDS SAID
record() {
    printf '%s,%s,%s,"%s"\n' "$1" "$2" "$3" "$4" >> "$out/summary.csv"
    printf '%-12s %-9s %7s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$out/summary.txt"
    case $2 in failed | 'timed out') status=1 ;; skipped) [ "$status" = 1 ] || status=2 ;; esac
}

# part NAME LIMIT NEEDS COMMAND...: runs a command for at most so many seconds. NEEDS are programs, gpu, or a file with --device.
part() {
    local name=$1 limit=${GPU_LIMIT:-$2} needs=$3 left lacking start code
    shift 3
    [ -z "$only" ] || [[ ,$only, == *,$name,* ]] || return 0
    lacking=$(lacks $needs)
    [ -z "$lacking" ] || { record "$name" skipped 0 "$lacking"; return 0; }
    left=$((deadline - SECONDS))
    [ "$left" -ge 10 ] || { record "$name" skipped 0 "no time was left"; return 0; }
    [ "${limit%.*}" -le "$left" ] || limit=$left
    start=$SECONDS
    timeout -k 5 "$limit" "$@" > "$out/logs/$name.log" 2>&1 < /dev/null
    code=$?
    case $code in
        0) record "$name" ok $((SECONDS - start)) "$(said "$out/logs/$name.log" ok)" ;;
        124 | 137) record "$name" 'timed out' $((SECONDS - start)) "after $limit s: $(said "$out/logs/$name.log" ok)" ;;
        *) record "$name" failed $((SECONDS - start)) "$(said "$out/logs/$name.log")" ;;
    esac
}

# lacks NEEDS...: the first that is missing, in words.
lacks() {
    local need
    for need in "$@"; do
        case $need in
            gpu) [ -n "$rehearse" ] || [ -n "$capability" ] || { printf '%s' "$no_gpu"; return; } ;;
            *.py) [ -f "$need" ] || { printf 'there is no %s' "$need"; return; }
                grep -q -e '"--device"' "$need" || { printf '%s has no option --device' "$need"; return; } ;;
            *) [ -n "$rehearse" ] || command -v "$need" > /dev/null || { printf 'there is no %s on PATH or in %s' "$need" "$toolkit"; return; } ;;
        esac
    done
}

# --- what there is -------------------------------------------------------------------------------------------------------

capability='' no_gpu=''
if [ -z "$rehearse" ]; then
    probe='import torch
lacking = "" if torch.version.cuda else f"torch {torch.__version__} was built without CUDA"
if not lacking and not torch.cuda.is_available():
    lacking = f"torch {torch.__version__} sees no NVIDIA GPU with a driver"
print(lacking or "%d.%d" % torch.cuda.get_device_capability())'
    found=$(timeout 60 "$PYTHON" -c "$probe" 2> "$out/logs/probe.log" | tail -n 1)
    case $found in
        [0-9]*.[0-9]*) capability=$found ;;
        '') no_gpu="$PYTHON cannot import torch: $(said "$out/logs/probe.log")" ;;
        *) no_gpu=$found ;;
    esac
fi

environment() {
    command -v git > /dev/null && git -C "$1" log -1 --format='commit %h of %cd' 2> /dev/null
    grep -m 1 'model name' /proc/cpuinfo
    nproc | sed 's/$/ processors/'
    ! command -v nvidia-smi > /dev/null || nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
    command -v nvcc > /dev/null && nvcc --version | tail -n 2
    "$PYTHON" - << 'END'
import importlib.metadata, sys
from importlib.util import find_spec
print("python", sys.version.split()[0])
needed = {"torch": "torch", "numpy": "numpy", "pytest": "pytest", "hypothesis": "hypothesis", "typer": "typer", "tqdm": "tqdm",
          "matplotlib": "matplotlib", "safetensors": "safetensors", "lightning_fabric": "lightning-fabric"}
missing = [name for name in needed if find_spec(name) is None]
for name, package in needed.items():
    try:
        print(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        pass
sys.exit(f"error: these packages are missing: {', '.join(missing)}" if missing else 0)
END
}

# --- the parts -----------------------------------------------------------------------------------------------------------

# The CPU's library and CUDA's side by side. A rehearsal takes the CPU's from the checkout where it has one.
build() {
    if [ "$device" = cpu ]; then
        [ -f vaekit/_C_cpu.so ] || VAEKIT_CUDA=0 "$PYTHON" setup.py -q build_ext --inplace || return
    else
        export TORCH_CUDA_ARCH_LIST=$1
        VAEKIT_CUDA=1 VAEKIT_REQUIRE_NATIVE=1 "$PYTHON" setup.py build_ext --inplace --parallel 2 || return
    fi
    "$PYTHON" -c 'import sys, vaekit; kernel = vaekit.build_info()[sys.argv[1] + " kernel"]; print(sys.argv[1], "kernel:", kernel)
sys.exit(0 if vaekit.has_native(sys.argv[1]) else "error: it is not in use")' "$device"
}

# Only the files with such tests: others may import packages that are not here. That all were skipped is no success on a GPU.
tests() {
    local files
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.cuda' tests)
    "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider "${files[@]}" | tee "$OUT/logs/tests_pytest.log"
    [ "${PIPESTATUS[0]}" = 0 ] || return 1
    [ "$device" = cpu ] || tail -n 1 "$OUT/logs/tests_pytest.log" | grep -q passed || { echo "error: no test ran"; return 1; }
}

sanitizer() {
    local under=(compute-sanitizer --tool "$1" --error-exitcode 86)
    [ "$device" = cuda ] || under=()
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${under[@]}" "$PYTHON" benchmarks/kernel_calls.py --device "$device"
}

export -f environment build tests sanitizer

# The limits add up to more than there is in all: what matters most comes first.
if [ -z "$rehearse" ]; then
    operator=(--device cuda) compiled=(--sizes 64x2 512x128 16384x512 --rounds 7) fit=() tables=(--device cuda --compile --rounds 9)
    pairs=(--device cuda --rounds 3)
else
    operator=(--device cpu --sizes 8x2 --threads 1 --rounds 2) compiled=(--sizes 8x2 --rounds 2) tables=(--device cpu --rounds 2 --threads 1 --only 'bernoulli 64x784')
    fit=(--examples 16 --batch-size 8 --epochs 2 --turns 1 --models dense-mnist conv-mnist) pairs=(--device cpu --rounds 2 --size 8x2)
fi
benchmark=("$PYTHON" benchmarks/reparameterize_kl.py "${operator[@]}" --no-memory)
plain=(--only distributions randn vaekit vaekit-key vaekit-graph)

part environment 30 '' bash -c 'environment "$1"' - "$here"
part build 170 'gpu nvcc' bash -c 'build "$1"' - "$capability"
part tests 120 gpu bash -c tests
part memcheck 75 'gpu compute-sanitizer' bash -c 'sanitizer memcheck'
part operator 60 gpu "${benchmark[@]}" "${plain[@]}" --csv "$out/operator.csv" --plot "$out/operator.png"
part fit 110 gpu "$PYTHON" benchmarks/fit_on_device.py --device "$device" "${fit[@]}" --csv "$out/fit.csv"
part half 45 gpu "${benchmark[@]}" "${plain[@]}" --dtype bfloat16 --csv "$out/operator_bfloat16.csv"
part likelihoods 75 'gpu benchmarks/likelihoods.py' "$PYTHON" benchmarks/likelihoods.py "${tables[@]}" --csv "$out/likelihoods.csv"
part pairwise 45 'gpu benchmarks/pairwise_objectives.py' "$PYTHON" benchmarks/pairwise_objectives.py "${pairs[@]}" --csv "$out/pairwise.csv"
part compiled 90 gpu "${benchmark[@]}" "${compiled[@]}" --only eager-compiled vaekit-compiled vaekit-key --csv "$out/operator_compiled.csv"
part racecheck 75 'gpu compute-sanitizer' bash -c 'sanitizer racecheck'

printf '\n%s s in all; %s\n' $((SECONDS - began)) "$out" | tee -a "$out/summary.txt"
exit $status
