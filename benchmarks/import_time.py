"""What does `import vaekit` cost over `import torch`? Seconds, in fresh processes that take turns.

python benchmarks/import_time.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from harness import header, interleaved, spread, table

CLOCK = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds_of(statement: str) -> float:
    done = subprocess.run([sys.executable, "-c", CLOCK.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    statements = ("import torch", "import torch, vaekit")
    seconds = interleaved({s: (lambda s=s: seconds_of(s)) for s in statements}, args.rounds)  # type: ignore[misc]
    added = [b - a for a, b in zip(*seconds.values(), strict=True)]
    print(header(), "\n")
    rows = [("", "seconds, median (quartiles)"), *((s, spread(v, digits=3)) for s, v in seconds.items())]
    print(table([*rows, ("import vaekit adds", spread(added, digits=3))]))


if __name__ == "__main__":
    main()
