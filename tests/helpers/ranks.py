"""One function in several processes at once, as torchrun would start them.

Start-up is what costs: a server imports torch and vaekit once, and forks each process from there. One launch can check much: the
function does all the work of a test file, and the tests compare what it returned.
"""

import contextlib
import multiprocessing
import os
import runpy
import tempfile
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from torch import distributed

SECONDS = 120.0  # after which a launch has failed


@dataclass
class Ended:
    """What a process left.

    Attributes:
        result: of the function.
        error: the traceback of what it raised; "" if it did not.
        output: what it printed, on either stream.
        code: its exit code.
    """

    result: Any
    error: str
    output: str
    code: int | None


def launch(function, world, *arguments, seconds=SECONDS, apart=False):
    """Call a function of a test file with these arguments in each of `world` processes; returns an `Ended` for each rank.

    `apart` is as if each were on a machine of its own, with one GPU: so that several may share the one that there is.

    The first line that a process has printed is from the function: nothing else prints. Processes that have not ended in time are
    killed, and their code is None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "vaekit", "vaekit.training.fit", "lightning_fabric"])
    with _current_folder(tempfile.gettempdir()):  # else it imports the vaekit that lies here, and not the one that is installed
        forkserver.ensure_running()
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        named = (function.__code__.co_filename, function.__name__)
        processes = [
            context.Process(target=_one, args=(*named, arguments, folder, rank, world, store.port, apart))
            for rank in range(world)
        ]
        deadline = time.monotonic() + seconds
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.01))
        codes = [process.exitcode for process in processes]
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        return [_ended(Path(folder), rank, code) for rank, code in enumerate(codes)]


@contextlib.contextmanager
def _current_folder(folder):
    here = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def results(function, world, *arguments, seconds=SECONDS, apart=False):
    """What each process returned, by rank; an AssertionError with the first traceback if one did not."""
    ended = launch(function, world, *arguments, seconds=seconds, apart=apart)
    failed = {rank: one for rank, one in enumerate(ended) if one.code != 0}
    told = "\n".join(f"--- rank {rank}, code {one.code}\n{one.error}\n{one.output}" for rank, one in failed.items())
    assert not failed, f"{len(failed)} of {world} processes failed or did not end\n{told}"
    return [one.result for one in ended]


@contextlib.contextmanager
def process_group():
    """The default group of all processes, on the CPU."""
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _one(file, name, arguments, folder, rank, world, port, apart):
    folder = Path(folder)
    output = os.open(folder / f"{rank}.output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0" if apart else str(rank),
        "GROUP_RANK": str(rank) if apart else "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": "1" if apart else str(world),
        "GROUP_WORLD_SIZE": str(world) if apart else "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the parent's
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    if apart:  # NCCL takes no GPU twice on one host
        os.environ |= {"NCCL_HOSTID": f"machine-{rank}", "NCCL_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    try:
        result = runpy.run_path(file)[name](*arguments)
        torch.save(result, folder / f"{rank}.result")
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # as a process that is killed: without a word to the others


def _ended(folder, rank, code):
    result, error, output = (folder / f"{rank}.{kind}" for kind in ("result", "error", "output"))
    return Ended(
        torch.load(result, weights_only=False) if result.exists() else None,
        error.read_text() if error.exists() else "",
        output.read_text(errors="replace") if output.exists() else "",
        code,
    )
