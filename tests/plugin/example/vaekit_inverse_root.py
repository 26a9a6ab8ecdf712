"""A schedule that falls as the root of the step: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, (3)."""

from __future__ import annotations

from vaekit.schedules import Schedule


class InverseRoot(Schedule):
    """A line up to `peak` over `steps` optimizer steps, then peak * sqrt(steps / step), towards 0.

    Args:
        steps: of the warm-up.
        peak: the highest value.
    """

    def __init__(self, steps: int, peak: float = 1e-3) -> None:
        self.steps, self.peak = steps, peak

    def __call__(self, step: int | None) -> float:
        if step is None:
            return 0.0
        return self.peak * min((step + 1) / self.steps, (self.steps / (step + 1)) ** 0.5)
