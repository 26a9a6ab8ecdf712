"""What the environment variables ask for, and why a library was not built."""

import os

AGAIN = "install vaekit again (pip's --force-reinstall --no-deps --no-cache-dir --no-binary vaekit)"


class Obstacle(Exception):
    """Why a library was not built and what to do about it, in the words that `vaekit doctor` shows."""


class Skipped(Obstacle):
    """A library that was not attempted because nothing here uses it; an error only for those who ask for it by name."""


def is_set(variable: str) -> bool:
    """Whether an environment variable has a value other than one that means no."""
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def cuda_setting() -> str:
    """VAEKIT_CUDA: "" (build the CUDA library where it is of use), "0" (never) or "1" (always)."""
    return os.environ.get("VAEKIT_CUDA", "").strip()


def contradiction() -> str | None:
    """What is wrong with the variables as a whole, or None."""
    if is_set("VAEKIT_NO_NATIVE") and is_set("VAEKIT_REQUIRE_NATIVE"):
        return "VAEKIT_NO_NATIVE and VAEKIT_REQUIRE_NATIVE are both set; unset one of them"
    if cuda_setting() not in ("", "0", "1"):
        return f"VAEKIT_CUDA has to be 0 (no CUDA library) or 1 (one in any case), or unset; got {cuda_setting()!r}"
    if is_set("VAEKIT_NO_NATIVE") and cuda_setting() == "1":
        return "VAEKIT_NO_NATIVE and VAEKIT_CUDA=1 are both set; unset one of them"
    return None


def unwanted(device: str) -> str | None:
    """The setting that leaves out the library for "cpu" or "cuda", or None."""
    if is_set("VAEKIT_NO_NATIVE"):
        return "VAEKIT_NO_NATIVE"
    if device == "cuda" and cuda_setting() == "0":
        return "VAEKIT_CUDA=0"
    return None


def required(device: str) -> str | None:
    """The setting that makes a missing library for "cpu" or "cuda" an error, or None."""
    if device == "cuda" and cuda_setting() == "1":
        return "VAEKIT_CUDA=1"
    return "VAEKIT_REQUIRE_NATIVE" if is_set("VAEKIT_REQUIRE_NATIVE") else None
