"""Keeps the current folder out of `sys.path` under `python -m vaekit`, as Python's option -P would.

With -m Python puts the folder it is started in first on `sys.path`. A folder may come from anywhere, a downloaded model for
example, and a numpy.py or the metadata of a plugin in it would run. Importing this module removes that entry, so that the package
does so before it imports anything else; what Python itself has imported by then, and where it found vaekit, is out of reach here.
Whatever else imports vaekit keeps its path: a script's folder and PYTHONPATH are chosen.

This file imports only what every Python has loaded at its start, and so not even `__future__`.
"""

import os
import sys


def starts_as_module() -> bool:
    """Whether this process is `python -m vaekit`, and still looking for that module."""
    if sys.argv[:1] != ["-m"]:  # what Python has there until it has found the module
        return False
    module = sys.orig_argv[-len(sys.argv)]  # the last of Python's own arguments, "vaekit" or "-mvaekit"; ours come after it
    if module.startswith("-"):
        module = module.partition("m")[2]
    return module.partition(".")[0] == "vaekit"


def _without_current_folder(path: list[str]) -> list[str]:
    """`path` without the entry that -m has put first; with -P or -I there is none."""
    try:
        current = os.getcwd()
    except OSError:  # the folder has been removed
        return path
    return path[1:] if path[:1] == [current] else path


if starts_as_module():
    sys.path[:] = _without_current_folder(sys.path)
