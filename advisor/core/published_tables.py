"""What quality is predicted from, as it is stored: published comparisons of methods, and the model of recorded runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from advisor.core.metrics import get_metric
from advisor.core.serialization import from_dict, read_json
from advisor.core.store import resource_dir
from advisor.core.tasks import Comparisons

QUALITY_MODEL_FILE = "quality-model.json"
NLL, SCORE = "nll", "score"
"""Metrics of tables that no run here reports."""


@dataclass(frozen=True)
class TableRow:
    """One published figure.

    Attributes:
        method: Registry name of the strategy.
        value: In the table's metric.
        detail: Rank, learning rate, or why the row is left out.
        used: Whether the prior is computed from it; rows that compare unlike with unlike are kept but left out.
    """

    method: str
    value: float
    detail: str
    used: bool


@dataclass(frozen=True)
class PublishedTable:
    """Methods beside each other on one model and one task.

    Attributes:
        id: Name in this collection.
        source, where, licence: Where the figures can be checked.
        study: Tables of one study share its habits (learning rates, who measured), hence one common error.
        task, task_type: What was learned.
        num_labels, majority_share: Of a classification task, else ``None``.
        model, total_parameters: The backbone.
        metric: ``"nll"`` in nats per token (lower is better), ``"score"`` in points (0-100), or a registered metric,
            also in points.
        eval_items, train_rows: Sizes, where known.
        caveat: What is wrong with the comparison, when something is.
        rows: One per method.
    """

    id: str
    source: str
    where: str
    licence: str
    study: str
    task: str
    task_type: Comparisons
    num_labels: int | None
    majority_share: float | None
    model: str
    total_parameters: int
    metric: str
    eval_items: int | None
    train_rows: int | None
    caveat: str | None
    rows: tuple[TableRow, ...]

    @property
    def is_share(self) -> bool:
        """Whether its figures are shares of right items."""
        return self.metric not in (NLL, SCORE) and get_metric(self.metric).is_share


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation between runs that differ only in their seed, in points."""

    sd_points: float
    source: str


@dataclass(frozen=True)
class PublishedTables:
    """The whole collection."""

    schema_version: int
    description: str
    seed_noise: SeedNoise
    notes: tuple[str, ...]
    tables: tuple[PublishedTable, ...]


@lru_cache(maxsize=1)
def load_tables() -> PublishedTables:
    """The collection that ships with the advisor (``calibration/quality-prior.json``).

    Raises:
        InputError: the installed file is damaged.
    """
    path = resource_dir("calibration") / "quality-prior.json"
    return from_dict(PublishedTables, read_json(path, what="the quality prior"), what=str(path))


def recorded_quality_model() -> Any:
    """The model that was fitted to the recorded runs, as JSON; ``None`` where none ships."""
    path = resource_dir("calibration") / "corpus" / QUALITY_MODEL_FILE
    return read_json(path, what="the model of set-ups") if path.exists() else None
