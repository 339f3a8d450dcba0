"""Measured memory of public fine-tuning runs, and how each is predicted and compared."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advisor.core.cost import MemoryEstimate
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.training.models import inspect_model

MIB, GIB, GB = 2**20, 2**30, 10**9
EXPLAIN_FROM = 0.10
"""A row further off than this needs an explanation."""
MULTIPLE = 8
"""The cost model's batches are padded to multiples of this; sources that pad to the longest row are interpolated."""


@dataclass(frozen=True)
class Figure:
    """One published number and the configuration it was measured on.

    Attributes:
        label: Names the row inside its source.
        measured_bytes: The published figure.
        model: A ``config.json`` as a dictionary.
        method, knobs: Strategy and the knobs that differ from its defaults.
        batch, length: Micro-batch and exact tokens per row.
        execution: Further fields of ``ExecutionPlan``.
        quantity: What was measured, as a field of ``MemoryEstimate``.
        added_bytes: What the source states besides (its CUDA context), added to the prediction.
        explanation: Why the run differs from the configuration that was traced.
        explained_bytes: Size of that difference, computed from the mechanism; 0 where it is not quantified.
        slow: Left to the exhaustive test.
    """

    label: str
    measured_bytes: float
    model: dict[str, Any]
    method: str
    batch: int
    length: int
    knobs: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    device: str = "a100-sxm4-80gb"
    task: Task = "causal-lm"
    quantity: Literal["allocated_bytes", "reserved_bytes", "device_bytes"] = "allocated_bytes"
    added_bytes: int = 0
    explanation: str = ""
    explained_bytes: float = 0.0
    slow: bool = True


@dataclass(frozen=True)
class Row:
    """A figure with its prediction."""

    figure: Figure
    predicted_bytes: float

    @property
    def error(self) -> float:
        return self.predicted_bytes / self.figure.measured_bytes - 1

    @property
    def residual(self) -> float:
        """What is left of the error once the explained difference is added."""
        return (self.predicted_bytes + self.figure.explained_bytes) / self.figure.measured_bytes - 1


class Predictor:
    """Asks the cost model through its public door; traces are shared over rows in ``cache_dir``."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self._models: dict[str, CostModel] = {}
        self._specs: dict[str, ModelSpec] = {}

    def row(self, figure: Figure) -> Row:
        """Predict one figure; a length between two multiples of 8 is interpolated."""
        low = figure.length // MULTIPLE * MULTIPLE
        share = (figure.length - low) / MULTIPLE
        predicted = float(getattr(self._memory(figure, low or MULTIPLE), figure.quantity))
        if share:
            high = float(getattr(self._memory(figure, low + MULTIPLE), figure.quantity))
            predicted += share * (high - predicted)
        return Row(figure, predicted + figure.added_bytes)

    def _memory(self, figure: Figure, length: int) -> MemoryEstimate:
        spec = self._spec(figure)
        cost_model = self._models.setdefault(
            figure.device, CostModel(load_profile(figure.device), cache_dir=self.cache_dir)
        )
        execution = ExecutionPlan(
            micro_batch_size=figure.batch, max_seq_length=length, **{"eval_batch_size": 1, **figure.execution}
        )
        strategy = get_strategy(figure.method).configured(spec, **figure.knobs)
        return cost_model.estimate(spec, strategy, execution, None, with_quality=False).memory

    def _spec(self, figure: Figure) -> ModelSpec:
        key = json.dumps([figure.model, figure.task], sort_keys=True)
        if key not in self._specs:
            folder = self.cache_dir / f"config-{len(self._specs)}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "config.json"
            path.write_text(json.dumps(figure.model), encoding="utf-8")
            self._specs[key] = inspect_model(str(path), figure.task)
        return self._specs[key]


@dataclass(frozen=True)
class Summary:
    """Absolute errors of a source."""

    median: float
    p90: float
    worst: float


def summary(rows: Sequence[Row]) -> Summary:
    """Median, 90th percentile (the smallest value that 90 % of the rows do not exceed) and worst error."""
    errors = sorted(abs(row.error) for row in rows)
    return Summary(statistics.median(errors), errors[math.ceil(0.9 * len(errors)) - 1], errors[-1])


def unexplained(rows: Iterable[Row]) -> list[str]:
    """Labels of rows beyond the limit that nothing explains."""
    return [row.figure.label for row in rows if abs(row.error) > EXPLAIN_FROM and not row.figure.explanation]


def table(rows: Sequence[Row]) -> str:
    """Markdown: measured, predicted and error of every row, and what explains it."""
    lines = ["| run | measured GB | predicted GB | error | explanation |", "|---|---|---|---|---|"]
    for row in rows:
        figure = row.figure
        rest = f" (with it {row.residual:+.1%})" if figure.explained_bytes else ""
        lines.append(
            f"| {figure.label} | {figure.measured_bytes / GB:.2f} | {row.predicted_bytes / GB:.2f} | {row.error:+.1%} "
            f"| {figure.explanation}{rest} |"
        )
    total = summary(rows)
    lines.append(f"\n{len(rows)} rows: median {total.median:.1%}, p90 {total.p90:.1%}, worst {total.worst:.1%}")
    return "\n".join(lines)
