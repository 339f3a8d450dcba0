"""The quality part of the benchmark core: every metric of a task, with an interval, of predictions by item."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.benchmark import ClassFigures, MeasuredFigure, QualityReport, ReliabilityBin
from advisor.core.metrics import LABEL, PREDICTED, PROBABILITY, Metric
from advisor.training.quality import BINS, LEVEL, bootstrap_intervals, confidence_bins

FEW_ITEMS = 100
"""Figures of fewer items say so."""
WIDE_SHARE = 0.2
"""An interval is wide when it is this large a share of the figure (of a figure in points: 0.1)."""
WIDE_POINTS = 0.1
MOST_CLASSES = 50
"""A table of confusions of more classes is left out."""


def quality_report(
    metrics: Sequence[Metric], columns: Mapping[str, NDArray[Any]], label_names: Sequence[str] = ()
) -> QualityReport:
    """Figures of predictions.

    Args:
        metrics: Of the task.
        columns: As ``Task.predictions`` makes them.
        label_names: By class index.
    """
    known = tuple(metric for metric in metrics if metric.is_in(columns))
    items = len(next(iter(columns.values()))) if columns else 0
    intervals = bootstrap_intervals(known, columns)
    figures: dict[str, MeasuredFigure] = {}
    notes = []
    for metric in known:
        try:
            value = metric.compute(columns)
        except ValueError as failure:
            notes.append(f"{metric.title} is not defined for these items: {str(failure).splitlines()[0]}")
            continue
        if not math.isfinite(value):
            notes.append(f"{metric.title} is not a finite number")
            continue
        found = intervals.get(metric.name)
        low, high = (found.low, found.high) if found is not None else (None, None)
        how = f"{metric.function} of {items} items"
        if found is not None:
            how += f"; {LEVEL:.0%} interval of {found.samples} bootstrap samples of items"
        figures[metric.name] = MeasuredFigure(
            value, how, low, high, items, _instability(metric, value, low, high, items)
        )
    return QualityReport(
        items,
        figures,
        tuple(_classes(columns, label_names)),
        _confusion(columns, len(label_names)),
        tuple(_reliability(columns)),
        tuple(notes),
    )


def _instability(metric: Metric, value: float, low: float | None, high: float | None, items: int) -> str:
    if items < FEW_ITEMS:
        return f"only {items} items"
    if low is None or high is None:
        return ""
    wide = high - low > (WIDE_POINTS if metric.in_points else WIDE_SHARE * abs(value))
    return "its interval is wide" if wide else ""


def _classes(columns: Mapping[str, NDArray[Any]], label_names: Sequence[str]) -> Iterator[ClassFigures]:
    if not _is_classified(columns, label_names):
        return
    from sklearn.metrics import precision_recall_fscore_support

    found = precision_recall_fscore_support(
        columns[LABEL], columns[PREDICTED], labels=range(len(label_names)), zero_division=0
    )
    for name, precision, recall, f1, items in zip(label_names, *found, strict=True):
        yield ClassFigures(name, int(items), float(precision), float(recall), float(f1))


def _confusion(columns: Mapping[str, NDArray[Any]], classes: int) -> tuple[tuple[int, ...], ...]:
    if not _is_classified(columns, range(classes)) or columns[LABEL].ndim > 1 or classes > MOST_CLASSES:
        return ()
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(columns[LABEL], columns[PREDICTED], labels=range(classes))
    return tuple(tuple(int(cell) for cell in row) for row in matrix)


def _is_classified(columns: Mapping[str, NDArray[Any]], label_names: Sequence[Any]) -> bool:
    there = LABEL in columns and PREDICTED in columns and len(label_names) > 0
    return there and columns[LABEL].dtype.kind in "iub" and columns[PREDICTED].dtype.kind in "iub"


def _reliability(columns: Mapping[str, NDArray[Any]]) -> Iterator[ReliabilityBin]:
    if not {LABEL, PROBABILITY} <= columns.keys() or columns[LABEL].ndim > 1:
        return
    bins, confidence, right = confidence_bins(columns[LABEL], columns[PROBABILITY])
    for index in np.unique(bins):
        inside = bins == index
        yield ReliabilityBin(
            *(float(index / BINS), float((index + 1) / BINS), int(inside.sum())),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
