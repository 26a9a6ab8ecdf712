"""Lines and curves from one weight to another: for the beta of an objective, for example.

Linear warm-up: S. R. Bowman et al., "Generating Sentences from a Continuous Space", 2015, arXiv:1511.06349, section 3.1;
sigmoid: the same, figure 2;
cyclic: H. Fu et al., "Cyclical Annealing Schedule", 2019, arXiv:1903.10145, section 4; cosine: I. Loshchilov, F. Hutter,
"SGDR", 2017, arXiv:1608.03983, equation 5.
"""

from __future__ import annotations

import math

from vaekit.checks import checked_number, checked_size
from vaekit.schedules.base import Schedule, between, cosine_between, registry


@registry.register("linear")
class Linear(Schedule):
    """A straight line from `start` to `end` over `steps` optimizer steps, then `end`.

    Use it to warm beta up where latents collapse at the beginning of training.

    Bowman et al., "Generating Sentences from a Continuous Space", 2015, arXiv:1511.06349, section 3.1.

    Example:
        >>> warm_up = Linear(start=0.0, end=1.0, steps=100)
        >>> warm_up(0), warm_up(50), warm_up(1000), warm_up(None)
        (0.0, 0.5, 1.0, 1.0)
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        self.steps, self.start, self.end = (
            checked_size("steps", steps),
            checked_number("start", start),
            checked_number("end", end),
        )

    @property
    def least_steps(self) -> int:
        return self.steps

    def __call__(self, step: int | None) -> float:
        return between(self.start, self.end, 1.0 if step is None else step / self.steps)


@registry.register("cosine")
class Cosine(Schedule):
    """Half a wave of a cosine from `start` to `end` over `steps` optimizer steps, level at both, then `end`.

    Use it in the place of "linear" where its corners show in the loss.

    Loshchilov and Hutter, "SGDR", 2017, arXiv:1608.03983, equation 5.

    Example:
        >>> warm_up = Cosine(start=0.0, end=1.0, steps=100)
        >>> warm_up(0), round(warm_up(25), 4), round(warm_up(50), 4), warm_up(1000), warm_up(None)
        (0.0, 0.1464, 0.5, 1.0, 1.0)
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        self.steps, self.start, self.end = (
            checked_size("steps", steps),
            checked_number("start", start),
            checked_number("end", end),
        )

    @property
    def least_steps(self) -> int:
        return self.steps

    def __call__(self, step: int | None) -> float:
        fraction = 1.0 if step is None else min(step / self.steps, 1.0)
        return cosine_between(self.start, self.end, fraction)


@registry.register("sigmoid")
class Sigmoid(Schedule):
    """A logistic curve from `start` to `end` over `steps` optimizer steps, half way after half of them, then `end`.

    1 / (1 + exp(-steepness (step / steps - 1/2))), stretched a little to be at `start` and `end` where it begins and ends: with
    the default steepness by 1.4 %. The steeper, the more of it is in the middle steps.
    Use it to leave the divergence out until the decoder reads the code, and then to bring it in fast.

    Bowman et al., "Generating Sentences from a Continuous Space", 2015, arXiv:1511.06349, figure 2.

    Example:
        >>> warm_up = Sigmoid(start=0.0, end=1.0, steps=100)
        >>> warm_up(0), round(warm_up(25), 4), warm_up(50), warm_up(1000), warm_up(None)
        (0.0, 0.0701, 0.5, 1.0, 1.0)
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0, steepness: float = 10.0) -> None:
        if checked_number("steepness", steepness) <= 0.0:
            raise ValueError(f"steepness has to be positive, got {steepness}")
        self.steps, self.start, self.end = (
            checked_size("steps", steps),
            checked_number("start", start),
            checked_number("end", end),
        )
        self.steepness = float(steepness)

    @property
    def least_steps(self) -> int:
        return self.steps

    def __call__(self, step: int | None) -> float:
        fraction = 1.0 if step is None else min(step / self.steps, 1.0)
        rise = math.tanh(0.5 * self.steepness * (fraction - 0.5)) / math.tanh(0.25 * self.steepness)
        return between(self.start, self.end, 0.5 + 0.5 * rise)


@registry.register("cyclic")
class Cyclic(Schedule):
    """A repeated line from `start` to `end`, then `end` for good.

    `cycles` times, the line takes the first `ramp` of `period` steps, and the rest of the period stays at `end`. Use it where one
    warm-up leaves latents unused: each further one starts from better codes.

    Fu et al., "Cyclical Annealing Schedule", 2019, arXiv:1903.10145, section 4.

    Example:
        >>> beta = Cyclic(period=100, cycles=4, ramp=0.5)
        >>> beta(0), beta(25), beta(75), beta(100), beta(400)
        (0.0, 0.5, 1.0, 0.0, 1.0)
    """

    def __init__(self, period: int, cycles: int = 4, ramp: float = 0.5, start: float = 0.0, end: float = 1.0) -> None:
        if not 0.0 < checked_number("ramp", ramp) <= 1.0:
            raise ValueError(f"ramp, the rising part of a period, has to be in (0, 1], got {ramp}")
        self.period, self.cycles = checked_size("period", period), checked_size("cycles", cycles)
        self.ramp, self.start, self.end = ramp, checked_number("start", start), checked_number("end", end)

    @property
    def least_steps(self) -> int:
        return self.period * self.cycles

    def __call__(self, step: int | None) -> float:
        if step is None or step >= self.period * self.cycles:
            return self.end
        return between(self.start, self.end, (step % self.period) / (self.period * self.ramp))
