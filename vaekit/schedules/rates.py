"""Learning rates that fall, at once or after a warm-up.

Warm-up: P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677, section 2.2; cosine: I. Loshchilov, F. Hutter,
"SGDR", 2017, arXiv:1608.03983, equation 5; one cycle: L. N. Smith, N. Topin, "Super-Convergence", 2017, arXiv:1708.07120.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaekit.checks import checked_number, checked_size, checked_sizes, checked_word
from vaekit.schedules.base import Schedule, between, cosine_between, registry


@registry.register("warmup_cosine")
class WarmupCosine(Schedule):
    """A line from `start` to `peak` over `warmup` steps, then half a wave of a cosine to `end` at `steps`.

    Use it as the learning rate of a long run: the first steps, in which Adam knows little of the gradient's size, are small, and
    so are the last, which lets the weights settle.

    Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677, section 2.2; Loshchilov and Hutter, "SGDR", 2017,
    arXiv:1608.03983, equation 5.

    Args:
        steps: of the optimizer, the warm-up included; where it is left out of a learning rate, the run's.
        peak: the highest value, at step `warmup`.
        warmup: less than `steps`; a fraction, 0.05 for example, is a share of them, rounded down.
        start, end: the first and the last value.

    Raises:
        TypeError, ValueError: a negative value; a warm-up as long as the whole.

    Example:
        >>> rate = WarmupCosine(steps=1100, peak=1e-3, warmup=100)
        >>> rate(0), rate(50), rate(100), round(rate(600), 6), rate(1100)
        (0.0, 0.0005, 0.001, 0.0005, 0.0)
    """

    def __init__(self, steps: int, peak: float, warmup: Any, start: float = 0.0, end: float = 0.0) -> None:
        self.steps = checked_size("steps", steps)
        if isinstance(warmup, float) and 0.0 <= warmup < 1.0:
            warmup = int(warmup * steps)
        self.warmup = checked_size("warmup", warmup, least=0)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup has to be less than the {self.steps:,} steps of the whole, got {warmup!r}")
        self.start, self.peak, self.end = (
            checked_number("start", start, least=0.0),
            checked_number("peak", peak, least=0.0),
            checked_number("end", end, least=0.0),
        )

    @property
    def least_steps(self) -> int:
        return self.steps

    def __call__(self, step: int | None) -> float:
        if step is None:
            return self.end
        if step < self.warmup:
            return between(self.start, self.peak, step / self.warmup)
        return cosine_between(self.peak, self.end, (step - self.warmup) / (self.steps - self.warmup))


@registry.register("step")
class StepDecay(Schedule):
    """`start`, multiplied by `gamma` at each of the `milestones`, or after `every` so many steps.

    Use it where a loss has settled at a learning rate and falls again at a lower one: K. He et al., "Deep Residual Learning",
    2015, arXiv:1512.03385, section 3.4.

    Args:
        start: the value before the first milestone.
        gamma: the factor, above 0 and at most 1.
        milestones: steps, in ascending order.
        every: the number of steps between two decays, without end. Give this or milestones.

    Raises:
        TypeError, ValueError: a value outside its range; milestones that do not ascend; both milestones and every, or neither.

    Example:
        >>> rate = StepDecay(start=0.1, gamma=0.5, milestones=(100, 150))
        >>> rate(99), rate(100), rate(150), rate(None)
        (0.1, 0.05, 0.025, 0.025)
        >>> StepDecay(start=0.1, gamma=0.5, every=10)(29)
        0.025
    """

    def __init__(
        self, start: float, gamma: float = 0.1, milestones: Sequence[int] | None = None, every: int | None = None
    ) -> None:
        self.start = checked_number("start", start, least=0.0)
        self.gamma = checked_number("gamma", gamma, above=0.0, most=1.0)
        if (milestones is None) == (every is None):
            raise ValueError("the schedule needs milestones, [1000, 2000] for example, or every, 1000 for example, and not both")
        self.every = None if every is None else checked_size("every", every)
        self.milestones = () if milestones is None else checked_sizes("milestones", milestones)
        if milestones is not None and (not self.milestones or list(self.milestones) != sorted(set(self.milestones))):
            raise ValueError(f"milestones have to be steps in ascending order, [1000, 2000] for example, got {milestones!r}")

    @property
    def least_steps(self) -> int:
        return 1 + (self.milestones[-1] if self.every is None else self.every)

    def __call__(self, step: int | None) -> float:
        if self.every is not None:
            if step is None:
                return 0.0 if self.gamma < 1.0 else self.start  # what it comes near without end
            return float(self.start * self.gamma ** (step // self.every))
        decays = len(self.milestones) if step is None else sum(step >= milestone for milestone in self.milestones)
        return float(self.start * self.gamma**decays)


@registry.register("one_cycle")
class OneCycle(Schedule):
    """Up to `peak` in the first part of the run, and down to far below the `start` in the rest of it.

    Use it with a peak well above the rate that you would hold constant, for a run that is to be short. Only the learning rate
    goes through the cycle, and the momentum stays as it is.

    Smith and Topin, "Super-Convergence", 2017, arXiv:1708.07120, section 3. Its last value is reached at step `steps` - 1, the
    last of the run.

    Args:
        steps: of the optimizer; where it is left out of a learning rate, the run's.
        peak: the highest value.
        rise: the part of the steps in which it goes up, in (0, 1).
        start: the first value; a 25th of the peak by default.
        end: the last value; a 10,000th of the start by default.
        shape: "cosine" or "linear".

    Raises:
        TypeError, ValueError: a negative value; a rise outside (0, 1); another shape.

    Example:
        >>> rate = OneCycle(steps=101, peak=1.0, rise=0.5, start=0.0, shape="linear")
        >>> rate(0), round(rate(25), 3), round(rate(50), 3), rate(100), rate(None)
        (0.0, 0.505, 0.99, 0.0, 0.0)
    """

    def __init__(
        self,
        steps: int,
        peak: float,
        rise: float = 0.3,
        start: float | None = None,
        end: float | None = None,
        shape: str = "cosine",
    ) -> None:
        self.steps, self.peak = checked_size("steps", steps), checked_number("peak", peak, least=0.0)
        self.rise = checked_number("rise", rise, above=0.0, below=1.0)
        self.start = self.peak / 25.0 if start is None else checked_number("start", start, least=0.0)
        self.end = self.start / 1e4 if end is None else checked_number("end", end, least=0.0)
        self.shape = checked_word("shape", shape, ("cosine", "linear"))

    @property
    def least_steps(self) -> int:
        return self.steps

    def __call__(self, step: int | None) -> float:
        curve = cosine_between if self.shape == "cosine" else between
        top, last = max(self.rise * self.steps - 1.0, 0.0), self.steps - 1.0  # torch's OneCycleLR counts the same way
        if step is None or step >= last:
            return self.end
        if step < top:
            return curve(self.start, self.peak, step / top)
        return curve(self.peak, self.end, (step - top) / (last - top))
