"""The CUDA library that runs on the CPU (tests/csrc/cuda_library.cpp): its operators, and the orders its threads can have."""

import ctypes

import torch

import vaekit

NATURAL, REVERSED, SHUFFLED = range(3)
# On a processor with fused multiply-adds the CPU kernel computes what CUDA does; without it rounds more often.
CPU_FUSES = "-v" in vaekit.build_info()["cpu kernel"].partition(";")[0]


def load(file):
    """The library, its operators registered as torch.ops.vaekit_cuda_on_cpu.<name>."""
    loaded = ctypes.CDLL(str(file))
    loaded.vaekit_cuda_operators.restype = ctypes.c_char_p
    operators = torch.library.Library("vaekit_cuda_on_cpu", "DEF")
    for name in loaded.vaekit_cuda_operators().decode().split():
        for operator in (getattr(torch.ops.vaekit, name), getattr(torch.ops.vaekit, f"{name}_backward")):
            operators.define(str(operator.default._schema).removeprefix("vaekit::"))
    torch.ops.load_library(file)
    loaded.set_launches.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    loaded.operators = operators  # which live as long as this
    return loaded
