"""Is the library's noise normal and independent? Statistics of 1e8 draws through the public operator, in constant memory.

z of `vaekit.reparameterize_kl` with mu = 0 and logvar = 0 is the noise itself. It is drawn in chunks of 2^20, the first row of
each given by row_start. Each line compares a statistic with what theory says of independent standard normals: its value, the
expected value, the standard error, z = (value - expected) / error and a p-value, two-sided.

    moments         the means of x, x^2, x^3, x^4; their variances are 1, 2, 15, 96
    distribution    Kolmogorov-Smirnov's D at the edges of 65521 bins of equal probability (its p-value from the limit law,
                    small only where D is large), and chi-square over the bins (small also where they are filled too evenly)
    tails           how many draws lie beyond 3, 4, 5, 6 on either side, with the p-value of the Poisson law
    correlations    the mean of x y and of (x^2 - 1)(y^2 - 1) / 2, whose variance is 1, for x and y
                      1 to 4 elements apart;
                      the two normals of a Box-Muller pair;
                      the sums of two neighbouring Philox blocks (four elements, in float64 two), and the sums of their squares;
                      the same elements for the keys (seed, offset) and (seed + 1, offset); for samples 0 and 1 of num_samples;
                      for a key and fold_in(key, 1); for fold_in(key, 1) and fold_in(key, 2), as in two steps of `vaekit.fit`
    exact           the stream of (seed, offset + 1) is that of (seed, offset) one block on; sample k is the stream of
                    (seed, offset + k 2^40); rows from row_start on are those of a call with all rows: bit for bit

The last line has the smallest p-value, the number of tests and the verdict by Bonferroni's bound. The exit status is 1 where the
adjusted p-value is below 1e-4 or an exact relation fails. The standard errors are good from about 1e6 draws on; from about 1e10
on the rounding of float32 itself would show in the chi-square.

    python benchmarks/noise_statistics.py [--draws 1e8] [--seed 0] [--dtype float32|float64] [--csv FILE]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import header, table, write_csv
from scipy import stats
from torch import Tensor

import vaekit

ROW, CHUNK_ROWS = 256, 4096
BINS = 65521  # a prime, so that noise of too few bits does not fill the bins evenly
ALARM = 1e-4


@dataclass
class Line:
    """A statistic, what it should be, and how surprising it is."""

    name: str
    value: float
    expected: float
    error: float
    p: float | None = None

    @property
    def z(self) -> float:
        return (self.value - self.expected) / self.error

    def p_value(self) -> float:
        return 2 * float(stats.norm.sf(abs(self.z))) if self.p is None else self.p


@dataclass
class Mean:
    """The mean of many values with a known expectation and variance."""

    expected: float
    variance: float
    sum: float = 0.0
    count: int = 0

    def line(self, name: str) -> Line:
        return Line(name, self.sum / self.count, self.expected, math.sqrt(self.variance / self.count))


class Means(dict[str, Mean]):
    """Means by name; `correlate` adds those of x y and of the centred squares."""

    def add(self, name: str, total: Tensor, count: int, expected: float = 0.0, variance: float = 1.0) -> None:
        mean = self.setdefault(name, Mean(expected, variance))
        mean.sum += float(total)
        mean.count += count

    def correlate(self, name: str, x: Tensor, y: Tensor) -> None:
        self.add(name, x.dot(y), len(x))
        self.add(f"{name}, squares", centred_squares(x).dot(centred_squares(y)), len(x))


def centred_squares(x: Tensor) -> Tensor:
    """(x^2 - 1) / sqrt 2: mean 0, variance 1."""
    return x.square().sub_(1).div_(math.sqrt(2))


class Noise:
    """The operator as a source of noise."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device
        self.zeros = torch.zeros(CHUNK_ROWS, ROW, dtype=dtype, device=device)
        self.block = 2 if dtype == torch.float64 else 4  # elements of a Philox block

    def key(self, seed: int, offset: int = 0) -> Tensor:
        return vaekit.make_key(seed % 2**64, offset, device=self.device)

    def draw(self, key: Tensor, row_start: int, rows: int, num_samples: int | None = None) -> Tensor:
        """In float64, [rows * ROW] or [num_samples, rows * ROW]."""
        zeros = self.zeros[:rows]
        z, _ = vaekit.reparameterize_kl(zeros, zeros, key=key, row_start=row_start, num_samples=num_samples)
        return z.double().flatten(-2)


def exact_relations(noise: Noise, seed: int) -> dict[str, bool]:
    key, rows = noise.key(seed), 64

    def whole(key: Tensor) -> Tensor:
        return noise.draw(key, 0, rows)

    stream, samples = whole(key), noise.draw(key, 0, rows, num_samples=3)
    moved = whole(noise.key(seed, 1))
    return {
        f"offset + 1 is the stream {noise.block} elements on": torch.equal(moved[: -noise.block], stream[noise.block :]),
        "sample k is the stream at offset + k 2^40": all(
            torch.equal(samples[k], whole(noise.key(seed, k << 40))) for k in range(3)
        ),
        "row_start continues the stream": all(
            torch.equal(noise.draw(key, start, rows - start), stream[start * ROW :]) for start in (1, 7, 32)
        ),
    }


def statistics_of(noise: Noise, seed: int, rows: int) -> list[Line]:
    """Every line of the table."""
    means, tails = Means(), dict.fromkeys((3, 4, 5, 6), 0)
    counts = torch.zeros(BINS, dtype=torch.int64, device=noise.device)
    key = noise.key(seed)
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        x, next_sample = noise.draw(key, start, count, num_samples=2)
        next_key = noise.draw(noise.key(seed + 1), start, count)
        first, second = (noise.draw(vaekit.fold_in(key, step), start, count) for step in (1, 2))
        for power, (expected, variance) in enumerate(((0, 1), (1, 2), (0, 15), (3, 96)), start=1):
            means.add(f"moment {power}", x.pow(power).sum(), len(x), expected, variance)

        counts += torch.bincount(torch.special.ndtr(x).mul_(BINS).long().clamp_(max=BINS - 1), minlength=BINS)
        for bound in tails:
            tails[bound] += int((x.abs() > bound).sum())

        for lag in (1, 2, 3, 4):
            means.correlate(f"elements {lag} apart", x[:-lag], x[lag:])
        means.correlate("Box-Muller pair", x[::2], x[1::2])
        sums, energies = (v.view(-1, noise.block).sum(1) / math.sqrt(noise.block) for v in (x, centred_squares(x)))
        means.add("neighbouring blocks", sums[:-1].dot(sums[1:]), len(sums) - 1)
        means.add("neighbouring blocks, squares", energies[:-1].dot(energies[1:]), len(sums) - 1)

        means.correlate("samples 0 and 1", x, next_sample)
        means.correlate("keys (seed) and (seed + 1)", x, next_key)
        means.correlate("a key and fold_in(key, 1)", x, first)
        means.correlate("fold_in(key, 1) and fold_in(key, 2)", first, second)

    n = rows * ROW
    lines = [mean.line(name) for name, mean in means.items()]
    return [*lines[:4], *distribution(counts, n), *(tail(bound, beyond, n) for bound, beyond in tails.items()), *lines[4:]]


def distribution(counts: Tensor, n: int) -> list[Line]:
    edges = torch.arange(1, BINS + 1, dtype=torch.float64, device=counts.device) / BINS
    largest = float((counts.cumsum(0) / n - edges).abs().max())
    law, scale = stats.kstwobign, math.sqrt(n)  # of scale * D
    kolmogorov = Line("Kolmogorov-Smirnov D", largest, law.mean() / scale, law.std() / scale, float(law.sf(scale * largest)))
    square = float(((counts - n / BINS).square() / (n / BINS)).sum())
    law = stats.chi2(BINS - 1)
    p = min(1.0, 2 * min(float(law.sf(square)), float(law.cdf(square))))
    return [kolmogorov, Line(f"chi-square, {BINS} bins", square, law.mean(), law.std(), p)]


def tail(bound: int, beyond: int, n: int) -> Line:
    expected = n * 2 * float(stats.norm.sf(bound))
    p = min(1.0, 2 * min(float(stats.poisson.cdf(beyond, expected)), float(stats.poisson.sf(beyond - 1, expected))))
    return Line(f"beyond {bound} sigma", beyond, expected, math.sqrt(expected), p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=float, default=1e8, help=f"of each stream, rounded up to whole rows of {ROW} (1e8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    args = parser.parse_args()
    rows = math.ceil(args.draws / ROW)
    noise = Noise(getattr(torch, args.dtype), args.device)
    print(header(args.device))
    print(f"{rows * ROW:,} draws in {args.dtype} from the key ({args.seed}, 0) and as many from each of four related streams\n")
    began = time.perf_counter()
    with torch.no_grad():
        relations = exact_relations(noise, args.seed)
        lines = statistics_of(noise, args.seed, rows)
    head = ("statistic", "value", "expected", "standard error", "z", "p")
    numbers = [
        (line.name, f"{line.value:.9g}", f"{line.expected:.9g}", f"{line.error:.3g}", f"{line.z:+.2f}", f"{line.p_value():.3g}")
        for line in lines
    ]
    print(table([head, *numbers]))
    write_csv(args.csv, [head, *numbers])
    print()
    for relation, holds in relations.items():
        print(f"{relation}: {'exactly' if holds else 'NO'}")
    worst = min(lines, key=Line.p_value)
    adjusted = min(1.0, worst.p_value() * len(lines))
    sound = adjusted >= ALARM and all(relations.values())
    print(
        f"{time.perf_counter() - began:.0f} s. Smallest p {worst.p_value():.3g} ({worst.name}) of {len(lines)} tests, adjusted "
        f"{adjusted:.3g}; {sum(relations.values())} of {len(relations)} exact relations hold: {'sound' if sound else 'NOT SOUND'}"
    )
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
