"""Live bytes over a step as one HTML file: stacked by kind, phase borders, the peak, nothing loaded from outside.

Layout, colours (which follow the reader's dark or light setting) and the script that shows the values under the pointer
are in ``timeline.html``; the picture is inline SVG.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from advisor import __version__
from advisor.core.store import write_text_atomically
from advisor.core.units import GIB, KIB, MIB, format_bytes
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, Timeline
from advisor.reporting.explain import effect_row, sentence_of, shares_of
from advisor.reporting.text import format_share
from advisor.search.sensitivity import ChangeComparison

PAGE = Path(__file__).with_name("timeline.html")
WIDTH, HEIGHT = 1000, 360
TICKS = 5
_KIND_CLASSES = {
    "weights": "k-weights",
    "optimizer states": "k-states",
    "gradients": "k-gradients",
    "activations": "k-activations",
    "temporaries": "k-temporaries",
}
_STACKED = tuple(_KIND_CLASSES)
"""From the bottom: constant parts first, so that changing parts start from a straight line."""
_PHASES = {"first_forward": "forward 1", "first_backward": "backward 1", "weights": "", "states": ""}


def write_timeline(path: Path, title: str, explanation: PeakExplanation, comparison: ChangeComparison | None) -> None:
    """Write the page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text_atomically(path, timeline_page(title, explanation, comparison))


def timeline_page(title: str, explanation: PeakExplanation, comparison: ChangeComparison | None) -> str:
    """The page as text; every name from outside is escaped.

    Args:
        title: What was predicted, in words.
        explanation: The peak and its timeline.
        comparison: Alternatives that change one thing; left out when ``None``.
    """
    timeline = explanation.timeline
    where = " of ".join(part for part in (explanation.operator, explanation.module) if part) or "the step"
    summary = (
        f"Peak of live tensors: {format_bytes(explanation.live_bytes)} in the {explanation.phase} pass, "
        f"reached by {where}."
    )
    parts = {
        "title": html.escape(title),
        "summary": html.escape(summary),
        "sentence": html.escape(sentence_of(comparison)) if comparison is not None else "",
        "legend": _legend(timeline),
        "picture": _picture(timeline),
        "data": _embedded(timeline),
        "tables": "".join(
            _bars(name.capitalize(), shares, explanation.live_bytes) for name, shares in shares_of(explanation).items()
        ),
        "tensors": _tensors(explanation),
        "choices": _choices(comparison) if comparison is not None and comparison.effects else "",
        "version": html.escape(__version__),
    }
    return Template(PAGE.read_text(encoding="utf-8")).substitute(parts)


def _embedded(timeline: Timeline) -> str:
    """The values under the pointer as JSON that cannot end its script element."""
    values = {
        "kinds": list(timeline.kinds),
        "live": [list(row) for row in timeline.live_bytes],
        "places": list(timeline.places),
        "phases": [_phase_at(timeline, index) for index in range(len(timeline.events))],
    }
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _phase_at(timeline: Timeline, index: int) -> str:
    names = [name for name, start in timeline.phases if start <= index]
    return names[-1] if names else ""


def _picture(timeline: Timeline) -> str:
    top = _ceiling(max(sum(row) for row in timeline.live_bytes))
    marks = [_grid(top), *_areas(timeline, top), *_borders(timeline), _peak(timeline, top)]
    marks.append(f'<line id="cursor" class="cursor" x1="-9" x2="-9" y1="0" y2="{HEIGHT}"/>')
    return (
        f'<svg id="picture" viewBox="-78 -24 {WIDTH + 96} {HEIGHT + 50}" role="img" '
        f'aria-label="live bytes over the step by kind">{"".join(marks)}</svg>'
    )


def _x(timeline: Timeline, index: int) -> float:
    return WIDTH * index / max(1, len(timeline.events) - 1)


def _areas(timeline: Timeline, top: int) -> list[str]:
    """One step-free polygon per kind, each on top of the ones before."""
    floor = [0] * len(timeline.events)
    areas = []
    for kind in (name for name in _STACKED if name in timeline.kinds):
        column = timeline.kinds.index(kind)
        ceiling = [low + row[column] for low, row in zip(floor, timeline.live_bytes, strict=True)]
        if ceiling != floor:
            upper = [_point(timeline, index, value, top) for index, value in enumerate(ceiling)]
            lower = [_point(timeline, index, value, top) for index, value in enumerate(floor)]
            areas.append(f'<polygon class="{_KIND_CLASSES[kind]}" points="{" ".join(upper + lower[::-1])}"/>')
        floor = ceiling
    return areas


def _point(timeline: Timeline, index: int, value_bytes: int, top: int) -> str:
    return f"{_x(timeline, index):.1f},{HEIGHT * (1 - value_bytes / top):.1f}"


def _grid(top: int) -> str:
    lines = []
    for tick in range(TICKS + 1):
        y = HEIGHT * (1 - tick / TICKS)
        lines.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = format_bytes(top * tick / TICKS) if tick else "0"
        lines.append(f'<text class="tick" x="-8" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(lines)


def _borders(timeline: Timeline) -> list[str]:
    marks = []
    ends = [start for _, start in timeline.phases[1:]] + [len(timeline.events)]
    for (name, start), end in zip(timeline.phases, ends, strict=True):
        label = _PHASES.get(name, name)
        x = _x(timeline, start)
        if label:
            marks.append(f'<line class="border" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>')
        if label and end - start > len(timeline.events) // 25:
            middle, text = (x + _x(timeline, end - 1)) / 2, html.escape(label)
            marks.append(f'<text class="phase" x="{middle:.1f}" y="{HEIGHT + 18}" text-anchor="middle">{text}</text>')
    return marks


def _peak(timeline: Timeline, top: int) -> str:
    total = sum(timeline.live_bytes[timeline.peak_index])
    x, y = _x(timeline, timeline.peak_index), HEIGHT * (1 - total / top)
    anchor = "end" if x > 0.7 * WIDTH else "start"
    shift = -9 if anchor == "end" else 9
    return (
        f'<circle class="peak" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="peak-label" x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">'
        f"peak {format_bytes(total)}</text>"
    )


def _ceiling(value_bytes: int) -> int:
    """A round number above the peak, so that the ticks are round: 1, 2 or 5 times a power of two's unit."""
    unit = next((size for size in (GIB, MIB, KIB) if value_bytes >= size), 1)
    step = unit
    while step * TICKS < 1.05 * value_bytes:
        step *= 2
    for finer in (step // 2 + step // 4, step // 2 + step // 8, step // 2 + step // 16):
        if finer and finer * TICKS >= 1.05 * value_bytes:
            step = min(step, finer)
    return max(TICKS, step * TICKS)


def _legend(timeline: Timeline) -> str:
    used = [kind for kind in _STACKED if kind in timeline.kinds]
    return "".join(f'<span><i class="{_KIND_CLASSES[kind]}"></i>{html.escape(kind)}</span>' for kind in used)


def _bars(title: str, shares: Sequence[PeakShare], total_bytes: int) -> str:
    longest = max((share.live_bytes for share in shares), default=1) or 1
    rows = "".join(
        f"<tr><td>{html.escape(share.name)}</td><td class=n>{format_bytes(share.live_bytes)}</td>"
        f"<td class=n>{format_share(share.live_bytes / total_bytes) if total_bytes else ''}</td>"
        f'<td class=bar><i style="width:{100 * share.live_bytes / longest:.1f}%"></i></td></tr>'
        for share in shares
    )
    return f"<section><h2>{html.escape(title)}</h2><table>{rows}</table></section>"


def _tensors(explanation: PeakExplanation) -> str:
    rows = (
        (
            format_bytes(group.live_bytes),
            str(group.count),
            f"{group.dtype} {'×'.join(str(length) for length in group.shape)}",
            group.role,
            group.operator or "before the step",
            group.module + (" (recomputed)" if group.recomputed else ""),
        )
        for group in explanation.tensors
    )
    return _table("Largest tensors at the peak", (">size", ">count", "shape", "purpose", "operator", "module"), rows)


def _choices(comparison: ChangeComparison) -> str:
    columns = ("change", ">device peak", ">saving", ">step time", "options")
    return _table(
        "Single-change alternatives", columns, (effect_row(found, comparison) for found in comparison.effects)
    )


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A wide table; columns that begin with ``>`` hold numbers, the last one may break anywhere."""
    kinds = [" class=n" if column[:1] == ">" else "" for column in columns[:-1]] + [" class=path"]
    head = "".join(f"<th>{column.removeprefix('>')}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{html.escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<section class=wide><h2>{title}</h2><table><tr>{head}</tr>{body}</table></section>"
