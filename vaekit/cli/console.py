"""What reaches the terminal: text and tables in which nothing from a file can act on it, and one line for a mistake."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

_NARROWEST = 20  # of a column that is broken into lines


def printable(text: str, keep: str = "") -> str:
    """The text with backslash escapes for what is not printed but obeyed: control characters, a change of direction, half a pair.

    Args:
        keep: characters that stay, line breaks for example.

    Example:
        >>> printable("a name\\x1b[2J\\n")
        'a name\\\\x1b[2J\\\\n'
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def say(text: object, error: bool = False) -> None:
    """Print a text of one or more lines to stdout, or else to stderr; nothing where there is no such stream, or no more."""
    stream: TextIO | None = sys.stderr if error else sys.stdout
    if stream is None:  # under pythonw and some services
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(str(text), keep="\n\t")
    try:
        stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal has gone away; what the command does is still worth doing
            raise


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line on stderr."""
    with suppress(OSError):  # whoever has closed stderr still gets the code
        say(f"vaekit: {' '.join(message.split())}", error=True)
    sys.exit(code)


def terminal_width() -> int | None:
    """How many columns the terminal has that stdout is; None where it is a pipe or a file, whose lines are not broken."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def table(rows: Sequence[Sequence[Any]], indent: str = "", width: int | None = None) -> str:
    """Columns aligned to their widest entry; the last one is not padded.

    Args:
        rows: of cells, the same number in each.
        indent: before each line.
        width: of a line; the last column is broken into several where it is longer, unless less than 20 are left for it.

    Example:
        >>> print(table([("term", "value"), ("loss", "1.50"), ("kl", "12.25")]))
        term  value
        loss   1.50
        kl    12.25
    """
    if not rows:
        return ""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1].isdigit() or cell[:1] in ("-", "") for cell in column[1:]) for column in columns]
    aligned = [
        [c.rjust(w) if n and i else c.ljust(w) for i, (c, w, n) in enumerate(zip(row, widths, numeric, strict=True))]
        for row in cells
    ]
    before = indent + " " * sum(column + 2 for column in widths[:-1])
    room = sys.maxsize if width is None or width - len(before) < _NARROWEST else width - len(before)
    words = textwrap.TextWrapper(room, break_on_hyphens=False, break_long_words=False)  # which can be copied still
    lines = []
    for *cells_before, last in aligned:
        first, *rest = (words.wrap(last) or [""]) if len(last.rstrip()) > room else [last]
        lines += [indent + "  ".join([*cells_before, first]), *(before + part for part in rest)]
    return "\n".join(line.rstrip() for line in lines)


def one_line_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """In place of `warnings.formatwarning`, whose text names the line of code that warns."""
    return printable(f"vaekit: warning: {' '.join(str(message).split())}") + "\n"


def drop_output() -> None:
    """Let what is still to be written to stdout go nowhere: its reader has gone."""
    with suppress(OSError, ValueError, AttributeError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
