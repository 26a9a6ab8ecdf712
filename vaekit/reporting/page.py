"""Findings as one page of HTML, without script or anything from elsewhere: for any width, print, dark mode, screen readers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape

from vaekit.reporting.findings import Findings
from vaekit.training import History

_STYLE = """
:root {
  color-scheme: light dark; --line: #8886; --soft: #8881;
  --accent: light-dark(#1a5fb4, #8ab4f8); --warn: light-dark(#fff3cd, #4a3b00);
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 2.5rem; }
h3 { margin-top: 2rem; }
table { border-collapse: collapse; }
tr { border-bottom: 1px solid var(--soft); }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; }
th[scope=row] { font-weight: 500; min-width: 8rem; }
td { font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.warning { background: var(--warn); border-left: .3rem solid #b58900; padding: .6rem .9rem; margin: .6rem 0; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; overflow-wrap: normal; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; }
figcaption { font-size: .9rem; }
svg { width: 100%; max-width: 46rem; height: auto; }
a { color: var(--accent); }
summary { cursor: pointer; }
@media print {
  body { max-width: none; font-size: 11pt; }
  figure, tr, .warning { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure img { max-height: 11cm; }
  section + section { break-before: page; }
}
"""
_COLOURS = ("#1a5fb4", "#c64600", "#26865a", "#8f3fa8", "#a51d2d", "#63452c")
_LONGEST = 400  # letters of a cell
_WIDTH, _HEIGHT, _MARGIN = 640, 260, 46

Rows = Sequence[tuple[str, ...]]


def page(runs: Sequence[Findings]) -> str:
    """The whole page; of several runs with their figures side by side."""
    names = names_of(runs)
    title = f"vaekit: {', '.join(names)}"
    body = [f"<h1>Report of {'a run' if len(runs) == 1 else f'{len(runs)} runs'}</h1>"]
    if len(runs) > 1:
        body += ["<nav><ul>", *(f'<li><a href="#run-{i}">{escape(name)}</a></li>' for i, name in enumerate(names)), "</ul></nav>"]
        body += ["<h2>Side by side</h2>", *_side_by_side(runs, names)]
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        body += _run(run, name, number)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>",
            "<body><main>",
            *body,
            "</main></body></html>",
            "",
        ]
    )


def names_of(runs: Sequence[Findings]) -> list[str]:
    """What the runs are called: their folders' names, or their paths where those are alike."""
    names = [run.folder.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _run(run: Findings, name: str, number: int) -> Iterator[str]:
    yield f'<section id="run-{number}" aria-label="{escape(name)}">'
    yield f"<h2>{escape(name)}</h2>"
    for warning in run.warnings:
        yield f'<p class="warning" role="note"><strong>Look twice:</strong> {escape(warning)}</p>'
    yield from _section("Figures", _table(run.figures))
    if run.history is not None and run.history.epochs:
        yield from _section("Losses", _epochs(run.history))
    if run.pictures:
        yield "<h3>Pictures</h3>"
        for picture, png in run.pictures:
            yield from _picture(picture, png)
    yield from _section("Data", _table(run.data))
    if run.schema:
        yield f'<pre tabindex="0">{escape(run.schema)}</pre>'
    yield from _section("Model", _table(run.model))
    yield f'<pre tabindex="0">{escape(run.layers)}</pre>'
    yield from _section("Environment", _table(_environment(run)))
    yield f"<details><summary>run.json</summary><pre>{escape(json.dumps(dict(run.settings), indent=2))}</pre></details>"
    yield "</section>"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"<h3>{title}</h3>"
    yield from lines


def _table(rows: Rows, head: Sequence[str] = ()) -> Iterator[str]:
    yield '<div class="wide" tabindex="0"><table>'
    if head:
        yield "<thead><tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr></thead>"
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(_short(cell))}</td>" for cell in rest)
        yield f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    yield "</table></div>"


def _short(text: str) -> str:
    """What fits a cell: run.json, below, has a table's schema in full."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _side_by_side(runs: Sequence[Findings], names: Sequence[str]) -> Iterator[str]:
    found = [dict(run.figures) for run in runs]
    rows = list(dict.fromkeys(row for figures in found for row in figures))
    yield from _table([(row, *(figures.get(row, "") for figures in found)) for row in rows], ["", *names])
    yield from _curves([(name, run.history) for name, run in zip(names, runs, strict=True) if run.history is not None])
    asked = list(dict.fromkeys(key for run in runs for key in run.settings))
    differing = [key for key in asked if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
    if differing:
        yield "<h3>Settings that differ</h3>"
        yield from _table(
            [(key, *("" if key not in run.settings else json.dumps(run.settings[key]) for run in runs)) for key in differing],
            ["", *names],
        )


def _environment(run: Findings) -> Rows:
    rows: list[tuple[str, str]] = []
    for number, found in enumerate(run.environments):
        start = "" if len(run.environments) == 1 else f", start {number + 1}"
        rows.append((f"command{start}", " ".join(found.get("command", []))))
        for key in ("started", "git", "device", "precision", "threads"):
            rows.append((f"{key}{start}", str(found.get(key))))
        rows += [(f"{name}{start}", str(version)) for name, version in found.get("versions", {}).items()]
        rows.append((f"system{start}", str(found.get("host", {}).get("system"))))
    if run.history is not None:
        rows.append(("seconds of training", f"{sum(run.history.seconds):.1f}"))
    return rows


def _picture(name: str, png: bytes) -> Iterator[str]:
    encoded, caption = base64.b64encode(png).decode("ascii"), escape(name.replace("_", " "))
    yield f'<figure><img alt="{caption} of this run" src="data:image/png;base64,{encoded}">'
    yield f"<figcaption>{caption}</figcaption></figure>"


def _epochs(history: History) -> Iterator[str]:
    """The curves as numbers, for those who cannot see them."""
    rows = [(str(epoch + 1), *(f"{history[term][epoch]:.4g}" for term in history)) for epoch in range(history.epochs)]
    yield "<details><summary>All epochs, in nats</summary>"
    yield from _table(rows, ["epoch", *history])
    yield "</details>"


def _curves(histories: Sequence[tuple[str, History]]) -> Iterator[str]:
    """The losses of all epochs as a drawing: training dashed, held out whole, a colour for each run."""
    lines = [
        (name, term, list(history[term]), _COLOURS[number % len(_COLOURS)])
        for number, (name, history) in enumerate(histories)
        for term in ("loss", "val_loss")
        if term in history and history.epochs
    ]
    values = [value for _, _, line, _ in lines for value in line if abs(value) < float("inf")]
    if not values:
        return
    low, high = min(values), max(values)
    span, most = (high - low) or 1.0, max(len(line) for _, _, line, _ in lines)
    words = "; ".join(f"{name}, {_term(term)}, from {line[0]:.4g} to {line[-1]:.4g}" for name, term, line, _ in lines)
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Loss in nats by epoch: {escape(words)}">'
    for share in (0.0, 0.5, 1.0):
        value, y = f"{low + share * span:.4g}", _y(low + share * span, low, span)
        yield f'<line x1="{_MARGIN}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".2"/>'
        yield _text(_MARGIN - 6, y + 4, value)
    for name, term, line, colour in lines:
        points = " ".join(f"{_x(i, most):.1f},{_y(v, low, span):.1f}" for i, v in enumerate(line) if abs(v) < float("inf"))
        for point in points.split() if len(line) == 1 else ():
            across, _, down = point.partition(",")
            yield f'<circle cx="{across}" cy="{down}" r="4" fill="{colour}"/>'
        dashes = "" if term == "val_loss" else ' stroke-dasharray="5 4"'
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}>'
        yield f"<title>{escape(f'{name}, {_term(term)}')}</title></polyline>"
    yield _text(_WIDTH - 8, _HEIGHT - 4, f"epoch {most}") + "</svg>"
    legend = ", ".join(
        f'<span style="color:{_COLOURS[i % len(_COLOURS)]}">{escape(name)}</span>' for i, (name, _) in enumerate(histories)
    )
    yield f"<p>Loss in nats: held out (whole line) and training (dashed){': ' + legend if len(histories) > 1 else ''}.</p>"


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y:.1f}" text-anchor="end" font-size="11" fill="currentColor">{text}</text>'


def _term(term: str) -> str:
    return "held out" if term == "val_loss" else "training"


def _x(epoch: int, most: int) -> float:
    return _MARGIN + (_WIDTH - _MARGIN - 8) * (epoch / max(most - 1, 1))


def _y(value: float, low: float, span: float) -> float:
    return 10 + (_HEIGHT - 34) * (1 - (value - low) / span)
