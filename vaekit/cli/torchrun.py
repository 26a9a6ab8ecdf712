"""`vaekit train --devices 2` hands itself over to torchrun, which starts the command once for each device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from vaekit.training.processes import Place, checked_devices, is_under_torchrun, place_of_this_process


def place_or_hand_over(devices: int | Sequence[int], arguments: Sequence[str]) -> Place:
    """Where this process is among those of the run; where several are needed and there is one, torchrun takes its place.

    Args:
        devices: how many, or which.
        arguments: of this command.

    Raises:
        ValueError: as `place_of_this_process`.
    """
    devices = checked_devices(devices)
    count = devices if isinstance(devices, int) else len(devices)
    if count == 1 or is_under_torchrun():
        return place_of_this_process(devices)
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores // count, 1)))  # torchrun would take 1, and say so
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "vaekit"]
    if os.name == "nt":  # where exec returns to the shell at once
        sys.exit(subprocess.call([*command, *arguments]))
    sys.stdout.flush()
    return os.execv(sys.executable, [*command, *arguments])
