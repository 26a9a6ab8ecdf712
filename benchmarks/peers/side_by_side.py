"""vaekit beside other libraries: the peers of this folder, each in a process of its own, which take turns.

All processes start at once and import what they need. Then they build, compile and take an epoch one after the other, unmeasured;
and then every round each of them trains one epoch, in an order that is drawn anew, while the others wait. A figure is a median
with its quartiles over the rounds; a ratio is taken within a round. A peer that is not installed, fails or says nothing for too
long is told in the table, and the others go on. What other processes use of the machine meanwhile is told too: figures from a
busy machine are worth little. "vaekit, compiled" takes a minute to compile where torch's cache has nothing yet:
where the whole has to be short, run it once before with --rounds 1, or leave it out by --only.

What is timed is an epoch of the library's own training, with its loading of batches and its bookkeeping, divided by its steps.
Memory is by how much building, compiling and training raised the process' resident memory at its peak. The test loss, in nats
an example, is computed in float64 from what each model encodes and decodes, after as many epochs: problems.py says how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import header, mean_and_deviation, quartiles, ratios, record, rounded, spread, table

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "results"
MODELS = ("dense-mnist", "burda-mnist", "keras-mnist", "table", "single-cell")
MNIST = MODELS[:3]


class Contender(NamedTuple):
    """A script, its options, the library whose interpreter runs it (`--python`), and the models that it has."""

    script: str
    options: tuple[str, ...]
    library: str
    models: tuple[str, ...]


CONTENDERS = {
    "vaekit": Contender("vaekit_fit.py", (), "vaekit", MODELS),
    "vaekit, bf16": Contender("vaekit_fit.py", ("--precision", "bf16"), "vaekit", MODELS),
    "vaekit, compiled": Contender("vaekit_fit.py", ("--compile",), "vaekit", MODELS),
    "bare loop": Contender("torch_loop.py", (), "torch", MODELS),
    "bare loop, bf16": Contender("torch_loop.py", ("--precision", "bf16"), "torch", MODELS),
    "keras on jax": Contender("keras_jax.py", (), "keras", MODELS[:4]),
    "pythae": Contender("pythae_trainer.py", (), "pythae", MNIST),
    "scvi-tools": Contender("scvi_tools.py", (), "scvi-tools", ("single-cell",)),
    "scvi-tools, gene-cell": Contender("scvi_tools.py", ("--dispersion", "gene-cell"), "scvi-tools", ("single-cell",)),
}
LIBRARIES = tuple(dict.fromkeys(contender.library for contender in CONTENDERS.values()))
# The first of them that ran is what the others are held against.
BASELINES = ("keras on jax", "scvi-tools", "bare loop", "vaekit")
LEAST_ROUNDS = 3  # however slow the start was


class Fell(Exception):
    """Why a peer takes no further turn."""


class Peer:
    """One contender's process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], threads: int) -> None:
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (`end` closes it)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1, env=environment
        )
        if hasattr(os, "sched_setaffinity"):  # JAX has no option for its number of threads
            os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[:threads])

    def news(self, within: float) -> dict[str, Any]:
        """The next line that the peer reports.

        Raises:
            Fell: it ended, or said nothing for so many seconds.
        """
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], within)[0]:
            raise Fell(f"said nothing for {within:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [each.strip() for each in self.errors if each.strip()]
            raise Fell(f"ended with {self.process.returncode}: {said[-1] if said else 'no message'}")
        found: dict[str, Any] = json.loads(line)
        if found["event"] == "missing":
            raise Fell(found["reason"])
        return found

    def turn(self, within: float) -> dict[str, Any]:
        """Lets the peer go on to its next report."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `news` tells
            self.process.stdin.write("\n")
        return self.news(within)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def processor_seconds(pids: Sequence[int]) -> tuple[float, float] | None:
    """What all processes have used since the machine started, and these ones; None where Linux does not tell."""
    try:
        each = [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        of_pids = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(each) - each[3] - each[4]) / ticks, sum(int(word) for words in of_pids for word in words) / ticks


class Others:
    """What other processes used of the machine while ours took their rounds: a share of all processors."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids, self.start, self.before = pids, time.monotonic(), processor_seconds(pids)

    def share(self) -> float | None:
        after, elapsed = processor_seconds(self.pids), (time.monotonic() - self.start) * (os.cpu_count() or 1)
        if self.before is None or after is None or not elapsed:
            return None
        return max(0.0, (after[0] - self.before[0] - after[1] + self.before[1]) / elapsed)


class Race:
    """The peers that are running, what they told, and why others are not.

    Args:
        limit: seconds without a report after which a peer is given up.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.running: dict[str, Peer] = {}
        self.seconds: dict[str, list[float]] = {}
        self.told: dict[str, dict[str, Any]] = {}  # the last of each
        self.fell: dict[str, str] = {}
        self.others: float | None = None

    def start(self, names: Sequence[str], pythons: Mapping[str, str], options: Sequence[str], threads: int) -> None:
        """Starts the processes, and waits until each has imported what it needs."""
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONWARNINGS": "ignore"}
        for name in names:
            script, own, library, _ = CONTENDERS[name]
            try:
                self.running[name] = Peer(
                    [pythons[library], str(FOLDER / script), *options, *own, "--turns"], environment, threads
                )
            except OSError as reason:
                self.fell[name] = f"{pythons[library]} cannot be run: {reason.strerror}"
        for name in list(self.running):
            self._heard(name, Peer.news)

    def turn(self, name: str) -> bool:
        """Lets a peer go on to its next report; whether it is still in the race."""
        return name in self.running and self._heard(name, Peer.turn)

    def to_the_end(self, name: str) -> None:
        """Lets a peer take what is left for it."""
        while self.turn(name) and self.told[name]["event"] != "result":
            pass

    def end(self) -> None:
        for peer in self.running.values():
            peer.end()

    def _heard(self, name: str, how: Callable[[Peer, float], dict[str, Any]]) -> bool:
        try:
            self.told[name] = how(self.running[name], self.limit)
        except Fell as reason:
            self.fell[name] = str(reason)
            self.running.pop(name).end()
            return False
        return True


def timed(names: Sequence[str], limit: float, seconds: float, rounds: int, **start: Any) -> Race:
    """The contenders take a warm-up and so many rounds in turns, or as many as begin within so many seconds."""
    race, deadline, shuffle = Race(limit), time.monotonic() + seconds, random.Random(0)
    try:
        race.start(names, **start)
        for name in names:
            start_of_turn = time.monotonic()
            if race.turn(name):  # the warm-up
                print(f"{name}: built and warm after {time.monotonic() - start_of_turn:.1f} s", file=sys.stderr)
        order = list(race.running)
        race.seconds = {name: [] for name in order}
        others = Others([os.getpid(), *(peer.process.pid for peer in race.running.values())])
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.monotonic() > deadline:
                return race
            shuffle.shuffle(order)
            for name in order:
                if race.turn(name):
                    race.seconds[name].append(race.told[name]["seconds"])
            race.others = others.share()
        for name in order:
            race.turn(name)  # the result
    except KeyboardInterrupt:
        print("interrupted: these are the rounds that there were", file=sys.stderr)
    finally:
        race.end()
    return race


def untimed(names: Sequence[str], limit: float, **start: Any) -> Race:
    """The contenders train to their end one after the other."""
    race = Race(limit)
    try:
        race.start(names, **start)
        for name in names:
            race.to_the_end(name)
        return race
    finally:
        race.end()


# --- the tables ----------------------------------------------------------------------------------------------------------

KEY = ("model", "contender")
TIMES_HEAD = (
    *(*KEY, "ms_q1", "ms", "ms_q3", "baseline", "times_baseline_q1", "times_baseline", "times_baseline_q3"),
    *(
        "memory_mib",
        "process_mib",
        "rounds",
        "epochs",
        "test_loss",
        "threads",
        "examples",
        "others",
        "why_not",
        "versions",
        "machine",
    ),
)
LOSSES_HEAD = (*KEY, "epochs", "seeds", "test_loss", "deviation", "reconstruction", "kl", "examples", "why_not", "versions")


def told_versions(told: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {version}" for name, version in told.get("versions", {}).items())


def table_of_times(model: str, names: Sequence[str], race: Race, threads: int) -> list[dict[str, object]]:
    """The rows of a timed race, which are printed too."""
    ran = [name for name in names if race.seconds.get(name) and name not in race.fell]
    baseline = next((name for name in BASELINES if name in ran), "")
    shown: list[Sequence[object]] = [("", "ms a step", f"times {baseline}", "memory, MiB", "test loss, nats")]
    rows = []
    for name in names:
        told, row = race.told.get(name, {}), {"model": model, "contender": name, "threads": threads, "machine": machine()}
        if name not in ran:
            row["why_not"] = race.fell.get(name, "no time was left for a round")
            shown.append((name, f"- {row['why_not']}", "", "", ""))
            rows.append(row)
            continue
        seconds, steps = race.seconds[name], told["steps"]
        relative = ratios(seconds, race.seconds[baseline][: len(seconds)])
        loss, memory = told.get("loss"), told.get("memory_mib")
        row |= dict(zip(("ms_q1", "ms", "ms_q3"), (rounded(1000 * s / steps) for s in quartiles(seconds)), strict=True))
        row |= dict(zip(TIMES_HEAD[6:9], map(rounded, quartiles(relative)), strict=True))
        row |= {"baseline": baseline, "rounds": len(seconds), "epochs": len(seconds) + 1, "versions": told_versions(told)}
        row |= {"memory_mib": rounded(memory), "process_mib": rounded(told.get("process_mib")), "test_loss": rounded(loss)}
        row |= {"examples": told.get("examples", ""), "others": rounded(race.others)}
        shown.append(
            (
                *(name, spread(seconds, 1000 / steps), spread(relative)),
                "-" if memory is None else f"{memory:.0f}",
                "-" if loss is None else f"{loss:.2f}",
            )
        )
        rows.append(row)
    print(table(shown))
    if race.others is not None:
        print(f"\nOther processes used {race.others:.0%} of the processors during the rounds.")
    return rows


def machine() -> str:
    return header().partition("\n")[0]


def table_of_losses(model: str, names: Sequence[str], races: Sequence[Race], epochs: int) -> list[dict[str, object]]:
    """The rows of races with several seeds, which are printed too."""
    shown: list[Sequence[object]] = [("", f"test loss after {epochs} epochs, nats (deviation)", "reconstruction", "KL")]
    rows = []
    for name in names:
        told = [race.told[name] for race in races if race.told.get(name, {}).get("event") == "result"]
        row: dict[str, object] = {"model": model, "contender": name, "epochs": epochs, "seeds": len(told)}
        if not told:
            row["why_not"] = next((race.fell[name] for race in races if name in race.fell), "no result")
            shown.append((name, f"- {row['why_not']}", "", ""))
            rows.append(row)
            continue
        means = {term: statistics.fmean(each[term] for each in told) for term in ("loss", "reconstruction", "kl")}
        losses = [each["loss"] for each in told]
        row |= {"test_loss": f"{means['loss']:.3f}", "deviation": rounded(statistics.stdev(losses)) if len(told) > 1 else ""}
        row |= {"reconstruction": f"{means['reconstruction']:.3f}", "kl": f"{means['kl']:.3f}"}
        row |= {"examples": told[0]["examples"], "versions": told_versions(told[0])}
        shown.append((name, mean_and_deviation(losses), f"{means['reconstruction']:.2f}", f"{means['kl']:.2f}"))
        rows.append(row)
    print(table(shown))
    return rows


# --- the command ---------------------------------------------------------------------------------------------------------


def interpreters(choices: Sequence[str]) -> dict[str, str]:
    """{library: python}, from "keras=/path/to/python", or "peers=..." for all but vaekit and torch."""
    found = dict.fromkeys(LIBRARIES, sys.executable)
    for choice in choices:
        library, _, python = choice.partition("=")
        names = LIBRARIES[2:] if library == "peers" else (library,)
        if not python or not set(names) <= set(LIBRARIES):
            sys.exit(f"--python takes LIBRARY=PATH, with one of {', '.join((*LIBRARIES, 'peers'))}; got {choice!r}")
        found.update(dict.fromkeys(names, python))
    return found


def write_data(model: str, file: Path) -> None:
    """One process makes the data of all; the peers' folder is on its path and not on ours."""
    program = "import sys, problems; problems.save(sys.argv[2], problems.PROBLEMS[sys.argv[1]].data())"
    done = subprocess.run([sys.executable, "-c", program, model, file], cwd=FOLDER, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"there are no data for {model}: {done.stderr.strip().splitlines()[-1]}")


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("beside other libraries")
    group.add_argument("--peers", action="store_true", help="time vaekit beside them, each in a process of its own, in turns")
    group.add_argument("--losses", type=int, metavar="EPOCHS", help="compare test losses after so many epochs instead of times")
    group.add_argument("--seeds", type=int, default=1, help="of a comparison of losses (1)")
    group.add_argument(
        "--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=f"these contenders ({'; '.join(CONTENDERS)})"
    )
    group.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="LIBRARY=PATH",
        help=f"the interpreter that has a library ({', '.join(LIBRARIES)}; peers: all but vaekit and torch); repeatable",
    )
    group.add_argument("--threads", type=int, default=os.cpu_count(), help="threads, and processors, of each (all)")
    group.add_argument("--examples", type=int, help="training examples; by default as many as take about a second")
    group.add_argument("--seconds", type=float, default=45.0, help="after the start, no round begins but the first three (45)")
    group.add_argument("--limit", type=float, default=180.0, help="seconds without a word after which a peer is given up (180)")
    group.add_argument("--results", type=Path, default=RESULTS, help="the folder of peers_times.csv and peers_losses.csv")


def interrupt_once(number: int, frame: object) -> None:
    """Whoever bounds our time still gets the rounds that there were; `timeout` signals twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(model: str, args: argparse.Namespace) -> None:
    """What `training.py --peers` does for one model."""
    names = [name for name in CONTENDERS if model in CONTENDERS[name].models and (not args.only or name in args.only)]
    if not names:
        sys.exit(f"none of {', '.join(args.only)} has the model {model}")
    epochs = args.losses or args.rounds + 1
    signal.signal(signal.SIGTERM, interrupt_once)
    print(header())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.npz")
        write_data(model, data)
        options = ["--model", model, "--epochs", str(epochs), "--data", str(data)]
        options += ["--examples", str(args.examples)] if args.examples else []
        start = {"pythons": interpreters(args.python), "threads": args.threads}
        if args.losses:
            seeds = range(args.seeds)
            print(f"{model}, {epochs} epochs, {args.seeds} seed(s): mean (standard deviation)\n")
            races = [untimed(names, args.limit, options=[*options, "--seed", str(seed)], **start) for seed in seeds]
            record(args.results / "peers_losses.csv", LOSSES_HEAD, KEY, table_of_losses(model, names, races, epochs))
            return
        print(f"{model}, {args.threads} thread(s), up to {args.rounds} rounds of an epoch; median (quartiles)\n")
        race = timed(names, args.limit, args.seconds, args.rounds, options=[*options, "--seed", "0"], **start)
        record(args.results / "peers_times.csv", TIMES_HEAD, KEY, table_of_times(model, names, race, args.threads))
