"""Keeps a step that is not finite from leaving a trace: in the weights, the optimizer, the averages and the buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaekit.training.optimizers.direct import DirectAdam

READ_ON = ("cpu",)  # devices on which reading a flag waits for nothing


class Gate:
    """Lets an optimizer's step through only if it is good; what says so stays on the device where the optimizer allows it.

    An optimizer whose kernel takes `found_inf`, as PyTorch's fused ones do, is handed the flag and skips its step by itself. Of
    another one the flag is read, which waits for the device, and the call left out, as `torch.amp.GradScaler` does. So is the
    first step of every optimizer, because a kernel that skips it leaves some state uninitialised: the momentum of SGD.

    A `found_inf` that is there already, that of a GradScaler, counts as well, and is put back.

    Args:
        optimizer: whose step is to be gated.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer, self._takes_flag = optimizer, bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self._bad: Tensor | None = None
        self._before: Tensor | None = None
        hooks: list[RemovableHandle] = []
        if self._takes_flag:
            hooks = [optimizer.register_step_pre_hook(self._close), optimizer.register_step_post_hook(self._open)]
        self._direct = DirectAdam(optimizer, [hook.id for hook in hooks])

    def lets_through(self, bad: Tensor) -> bool:
        """Whether the optimizer is to be called for a step with this flag, a bool scalar on the device."""
        self._bad = bad
        return True if self._takes_flag and self._optimizer.state else not bool(bad)

    def step(self) -> bool:
        """Take the step that was let through, where `DirectAdam` can; whether it did."""
        return self._bad is not None and self._direct.step(self._bad)

    def _close(self, optimizer: Any, *_: Any) -> None:
        self._before = getattr(optimizer, "found_inf", None)
        if self._bad is not None:
            bad = self._bad.float()
            optimizer.found_inf = bad if self._before is None else torch.maximum(bad, self._before)

    def _open(self, optimizer: Any, *_: Any) -> None:
        if self._before is not None:
            optimizer.found_inf = self._before
        elif hasattr(optimizer, "found_inf"):
            del optimizer.found_inf


class Buffers:
    """The buffers of a model, which a forward pass moves before anybody knows whether the step is good.

    Running averages of batch normalisation, and codebooks.

    Args:
        model: on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [(module, name) for module in model.modules() for name, _ in module.named_buffers(recurse=False)]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are before a step."""
        self._kept = [getattr(module, name).clone() for module, name in self._places]

    @torch.no_grad()
    def put_back(self, bad: Tensor) -> None:
        """Make them what they were before the step, if the flag says so; on the CPU it is simply read."""
        if bad.device.type in READ_ON and not bad:
            return
        for (module, name), kept in zip(self._places, self._kept, strict=True):
            buffer = getattr(module, name)
            buffer.copy_(torch.where(bad, kept, buffer))
