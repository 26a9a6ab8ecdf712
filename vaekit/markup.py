"""Tables for notebooks, which show an object by its `_repr_html_`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_LEFT = "style='text-align:left'"  # notebooks align to the right


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table; the first cell of a row is its name, and one that starts with two spaces belongs to the row above.

    Example:
        >>> html_table(["part"], [["a < b"]])
        "<table><thead><tr><th style='text-align:left'>part</th></tr></thead><tbody><tr><th scope='row' \
style='text-align:left'>a &lt; b</th></tr></tbody></table>"
    """
    lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
    lines.append("<thead><tr>" + "".join(f"<th {_LEFT}>{escape(cell)}</th>" for cell in head) + "</tr></thead><tbody>")
    for name, *cells in rows:
        inset = _LEFT if not name.startswith("  ") else "style='text-align:left;padding-left:2em;font-weight:normal'"
        values = "".join(f"<td {_LEFT}>{escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th scope='row' {inset}>{escape(name.strip())}</th>{values}</tr>")
    return f"<table>{''.join(lines)}</tbody></table>"
