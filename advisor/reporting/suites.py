"""A suite as tables for the terminal and as a page: published beside measured and predicted figures, and verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from advisor.core.metrics import METRICS
from advisor.core.units import counted, format_bytes, format_duration
from advisor.experiments.suites.definition import Claim, SuiteDefinition
from advisor.experiments.suites.results import CellResults, SeedSpread, SuiteReport
from advisor.experiments.suites.verdicts import (
    ERROR_SHAPE,
    LEVEL,
    MARGIN_POINTS,
    MARGIN_RATIO,
    POWER,
    Verdict,
    in_points,
)
from advisor.reporting.text import make_table, remark, say

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "trainable_parameters": "trainable",
    "allocated_peak_bytes": "peak memory",
    "training_s": "training",
    "samples_per_s": "samples/s",
    "inference_batch_n_samples_per_s": "inference samples/s",
    "model_bytes": "model",
    "step_p50_s": "step p50",
    "step_p95_s": "step p95",
    "sparsity": "sparsity",
}
"""Columns, in this order, after the metrics."""
PREDICTED = ("allocated_peak_bytes", "training_s", "samples_per_s")
"""Columns whose prediction stands in the table of resources."""


def show_quantity(quantity: str, value: float) -> str:
    """A figure in its own unit, chosen by the suffix of its name."""
    if quantity in METRICS:
        metric = METRICS.get(quantity)
        return f"{100 * value:.2f}" if metric.in_points else metric.show(value)
    if quantity in ERROR_SHAPE:
        return f"{100 * value:.0f}"
    if quantity.endswith("_bytes"):
        return format_bytes(round(value))
    if quantity.endswith("_per_s"):
        return f"{value:,.1f}"
    if quantity.endswith("_s"):
        return format_duration(value)
    if quantity.endswith("_parameters"):
        return f"{value / 1e6:,.3f}M" if value < 1e7 else f"{value / 1e6:,.1f}M"
    return f"{value:.3g}"


def _title(quantity: str) -> str:
    if quantity in METRICS:
        metric = METRICS.get(quantity)
        return metric.title + (" %" if metric.in_points else "")
    return TITLES.get(quantity, quantity)


def _spread(quantity: str, found: SeedSpread | None) -> str:
    if found is None:
        return "–"
    shown = show_quantity(quantity, found.mean)
    if found.deviation is None or (quantity not in METRICS and found.deviation <= SAME * abs(found.mean)):
        return shown
    deviation = show_quantity(quantity, found.deviation)
    return f"{shown} ± {deviation}"


def _quantities(rows: Sequence[CellResults]) -> list[str]:
    """The columns of a table: what was published in it, metrics first."""
    named = list(dict.fromkeys(name for row in rows for name in row.published))
    if not named:
        known = {name for row in rows for name in row.measured}
        ranked = [name for name in ("allocated_peak_bytes", "training_s", "samples_per_s") if name in known]
        metrics = [name for name in dict.fromkeys(name for row in rows for name in row.measured) if name in METRICS]
        named = [*metrics[:2], "trainable_parameters", *ranked]
    metrics = [name for name in named if name in METRICS]
    return [*metrics, *(name for name in TITLES if name in named)]


def _tables(report: SuiteReport, definition: SuiteDefinition | None) -> Iterator[tuple[str, str, list[CellResults]]]:
    """Title, remark and rows of every table of cells that were looked at."""
    titles = {table.id: (table.title, table.remark) for table in definition.tables} if definition else {}
    for table in dict.fromkeys(cell.table for cell in report.cells):
        for part in ("published", "corrected"):
            rows = [cell for cell in report.cells if cell.table == table and cell.part == part]
            if rows:
                title, text = titles.get(table, (table, ""))
                suffix = "" if part == "published" else ": one backbone, equal batch, own learning rates"
                yield title + suffix, text if part == "published" else "", rows


def _measured_rows(rows: Sequence[CellResults], quantities: Sequence[str]) -> Iterator[list[str]]:
    for row in rows:
        cells = [row.row, _state(row)]
        for name in quantities:
            ours = _spread(name, row.measured.get(name))
            published = show_quantity(name, row.published[name]) if name in row.published else "–"
            cells += [published, ours] if any(name in other.published for other in rows) else [ours]
        yield cells


def _measured_columns(rows: Sequence[CellResults], quantities: Sequence[str]) -> list[str]:
    columns = ["row", "state"]
    for name in quantities:
        both = any(name in row.published for row in rows)
        columns += [f"{_title(name)}, published", "here"] if both else [_title(name)]
    return columns


def _state(row: CellResults) -> str:
    seeds = next((found.seeds for found in row.measured.values()), 0)
    known = {"complete": counted(seeds, "seed"), "incomplete": f"{counted(seeds, 'seed')} so far"}
    text = known.get(row.state, row.state)
    if row.diverged:
        text += f", {len(row.diverged)} diverged"
    return text


PAGE_WIDTH = 118
SAME = 1e-3
"""Resources that scatter by no more over the seeds are the same."""
SHOWN_VERSIONS = ("torch", "transformers")
RESOURCE_COLUMNS = ("peak memory", "predicted", "training", "predicted", "samples/s", "predicted")


def _resource_rows(rows: Sequence[CellResults]) -> Iterator[list[str]]:
    """Measured beside predicted, of the runs here."""
    for row in rows:
        if not row.measured:
            continue
        cells = [row.row]
        for name in PREDICTED:
            cells.append(_spread(name, row.measured.get(name)))
            cells.append(show_quantity(name, row.predicted[name]) if name in row.predicted else "–")
        yield cells


def _error_rows(rows: Sequence[CellResults]) -> list[list[str]]:
    """Where the errors of each cell lie, of tables whose data have a class in the middle."""
    return [
        [row.row, *(_spread(name, row.measured.get(name)) for name in ERROR_SHAPE)]
        for row in rows
        if any(name in row.measured for name in ERROR_SHAPE)
    ]


def _backbone_rows(rows: Sequence[CellResults], title: str) -> Iterator[list[str]]:
    """Predicted for the published backbone, beside the published figure."""
    for row in rows:
        if not row.published_predicted:
            continue
        cells = [title.split(":")[0].split(",")[0], row.row]
        for name in ("allocated_peak_bytes", "training_s", "samples_per_s", "trainable_parameters"):
            cells.append(show_quantity(name, row.published[name]) if name in row.published else "–")
            known = row.published_predicted
            cells.append(show_quantity(name, known[name]) if known.get(name) else "–")
        yield cells


BACKBONE_COLUMNS = (
    "table",
    "row", "peak memory, published", "predicted", "training, published", "predicted", "samples/s, published",
    "predicted", "trainable, published", "predicted",
)  # fmt: skip


def _claims(definition: SuiteDefinition | None) -> dict[str, Claim]:
    return {claim.id: claim for claim in definition.claims} if definition is not None else {}


def _size(verdict: Verdict, claim: Claim | None) -> str:
    """The measured difference with its interval."""
    if verdict.measured is None:
        return "–"
    points = claim is not None and in_points(claim.quantity)
    show = (lambda value: f"{value:+.2f}") if points else (lambda value: f"{value:.3g}x")
    text = show(verdict.measured) + (" points" if points else "")
    if verdict.low is not None and verdict.high is not None and verdict.seeds > 1:
        low, high = show(verdict.low), show(verdict.high)
        text += f" ({low} – {high})" if low != high else ""
    return text


def _published_size(claim: Claim | None) -> str:
    if claim is None or claim.size is None:
        return "–"
    return f"{claim.size:+.2f} points" if in_points(claim.quantity) else f"{claim.size:.3g}x"


def _outcome(verdict: Verdict, claim: Claim | None) -> str:
    if verdict.smallest_shown is None:
        return verdict.outcome
    points = claim is not None and in_points(claim.quantity)
    shown = f"{verdict.smallest_shown:.1f} points" if points else f"{verdict.smallest_shown:.0%}".replace("%", " %")
    return f"{verdict.outcome}: would have shown {shown}"


def print_suite(console: Console, report: SuiteReport, definition: SuiteDefinition | None) -> None:
    """Print the tables, then the verdicts."""
    title = " ".join(filter(None, (f"[bold]{report.title}[/bold]", report.authors)))
    say(console, f"{title}; scale {report.scale}, {counted(report.seeds, 'seed')}")
    for name, label in report.inputs.items():
        say(console, f"  {name}: {label}")
    for title, text, rows in _tables(report, definition):
        shown = [row for row in rows if row.measured]
        if not shown:
            continue
        quantities = _quantities(rows)
        console.print(_filled(title, _measured_columns(rows, quantities), _measured_rows(shown, quantities)))
        if text:
            remark(console, f"  {text}")
        console.print(_filled("measured and predicted", ["row", *RESOURCE_COLUMNS], _resource_rows(shown)))
        if errors := _error_rows(shown):
            console.print(_filled("errors", ["row", *ERROR_SHAPE.values()], errors))
    backbones = [cells for title, _, rows in _tables(report, definition) for cells in _backbone_rows(rows, title)]
    if backbones:
        console.print(
            _filled(f"published backbones, predicted on {report.published_device}", BACKBONE_COLUMNS, backbones)
        )
    claims = _claims(definition)
    if report.verdicts:
        table = make_table("claim", "says", ">published", ">here", "verdict", "basis", title="claims")
        for found in report.verdicts:
            claim = claims.get(found.claim)
            says = claim.sentence if claim is not None else ""
            table.add_row(
                found.claim, says, _published_size(claim), _size(found, claim), _outcome(found, claim),
                f"{found.basis}{'; ' if found.reason else ''}{found.reason}",
            )  # fmt: skip
        console.print(table)
    for text in report.notes:
        remark(console, f"  {text}")
    say(console, f"  {_length(report)}; records and report in {report.folder}")


def _length(report: SuiteReport) -> str:
    if not any(cell.measured for cell in report.cells):
        return "nothing was trained"
    text = f"predicted {format_duration(report.predicted_s)}, took {format_duration(report.measured_s)}"
    if report.remaining:
        text += f"; {report.remaining} trainings are left, the same command continues with them"
    return text


def _filled(title: str, columns: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Table:
    table = make_table(columns[0], *(f">{column}" for column in columns[1:]), title=title)
    for row in rows:
        table.add_row(*row)
    return table


# --- the page ---------------------------------------------------------------------------------------------------------


def suite_markdown(report: SuiteReport, definition: SuiteDefinition | None) -> str:
    """The same as a page of Markdown."""
    authors = f"{report.authors}. " if report.authors else ""
    lines = [
        f"# {report.title}",
        "",
        f"{authors}Suite `{report.suite}`, scale `{report.scale}` of `advisor bench`",
        "",
    ]
    versions = ", ".join(f"{name} {report.versions[name]}" for name in SHOWN_VERSIONS if name in report.versions)
    lines += [f"{counted(report.seeds, 'seed')} on {report.device} ({versions}); {_length(report)}.", ""]
    lines += [*(f"* {name}: {label}" for name, label in report.inputs.items()), ""]
    for title, text, rows in _tables(report, definition):
        shown = [row for row in rows if row.measured]
        if not shown:
            continue
        quantities = _quantities(rows)
        lines += [f"## {title}", "", *([text, ""] if text else [])]
        lines += _markdown(_measured_columns(rows, quantities), _measured_rows(shown, quantities))
        lines += ["Measured and predicted here:", ""]
        lines += _markdown(["row", *RESOURCE_COLUMNS], _resource_rows(shown))
        if errors := _error_rows(shown):
            lines += ["Where the errors lie:", ""]
            lines += _markdown(["row", *ERROR_SHAPE.values()], errors)
        lines += ["Settings here:", "", *(f"* {row.row}: {row.trained}" for row in shown), ""]
    backbones = [cells for title, _, rows in _tables(report, definition) for cells in _backbone_rows(rows, title)]
    if backbones:
        lines += ["## Published backbones, predicted", ""]
        lines += [f"From their configurations alone, at the published batch, on {report.published_device}.", ""]
        lines += _markdown(BACKBONE_COLUMNS, backbones)
    lines += _claims_markdown(report, _claims(definition))
    if report.notes:
        lines += ["## Notes", "", *(f"* {text}" for text in report.notes)]
    return "\n".join(_wrapped(lines)).rstrip() + "\n"


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Long lines of prose folded; tables and headings stay whole."""
    for line in lines:
        if len(line) <= PAGE_WIDTH or line.startswith(("|", "#")):
            yield line
        else:
            indent = "  " if line.startswith("* ") else ""
            yield from textwrap.wrap(line, PAGE_WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _claims_markdown(report: SuiteReport, claims: Mapping[str, Claim]) -> list[str]:
    if not report.verdicts:
        return []
    rows = []
    for found in report.verdicts:
        claim = claims.get(found.claim)
        basis = f"{found.basis}{'; ' if found.reason else ''}{found.reason}"
        says = claim.sentence if claim is not None else ""
        rows.append(
            [found.claim, says, _published_size(claim), _size(found, claim), f"**{_outcome(found, claim)}**", basis]
        )
    text = (
        f"Tie: the {LEVEL:.0%} interval lies inside {MARGIN_POINTS:g} point or {MARGIN_RATIO:.0%}. Underpowered: these "
        f"runs would have shown the stated difference with a power of {POWER:.0%} (paired t-test over seeds). Memory, "
        "time and counts are judged by their size; in brackets stand the lowest and highest ratio of the seeds."
    ).replace("%", " %")
    return ["## Claims", "", text, "", *_markdown(["claim", "says", "published", "here", "verdict", "basis"], rows)]


def _markdown(columns: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return [*head, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows), ""]
