"""The benchmark core: what is said of every finished run, each figure with how it was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from advisor.core.data import DataSpec

INFERENCE_SHARE = 0.1
"""Inference is timed for at most this share of the run's own time ..."""
LEAST_INFERENCE_S, MOST_INFERENCE_S = 1.0, 30.0
"""... but for no less and no longer than this, in seconds."""

FEW_EVALUATIONS = 5
"""Fewer evaluations along a run do not tell where it was best."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured beside the training itself.

    Attributes:
        inference: Time the trained model's forward passes.
        general_text: Text for the perplexity before and after training; ``None`` does not measure forgetting.
    """

    inference: bool = True
    general_text: str | None = None

    def inference_limit_s(self, run_s: float) -> float:
        """How long inference may be timed after a run of so many seconds."""
        return min(max(INFERENCE_SHARE * run_s, LEAST_INFERENCE_S), MOST_INFERENCE_S)


@dataclass(frozen=True)
class MeasuredFigure:
    """One figure.

    Attributes:
        value: In base units.
        how: How it was measured, in words.
        low, high: Interval; of a quality over items (bootstrap), of a time its quartiles over repeats.
        samples: How many values stand behind it.
        unstable: Why it may come out otherwise next time; empty where nothing speaks for it.
    """

    value: float
    how: str = ""
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    unstable: str = ""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        name: Of the class.
        items: Held-out items that have it.
        precision, recall, f1: 0 where nothing is divided by nothing.
    """

    name: str
    items: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Items whose predicted class has a probability in ``(low, high]``.

    Attributes:
        low, high: Of the bin.
        items: How many.
        confidence: Their mean probability of the predicted class.
        accuracy: Share of them that is right.
    """

    low: float
    high: float
    items: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class QualityReport:
    """Figures of held-out items.

    Attributes:
        items: How many.
        figures: By name of the metric.
        classes: One entry per class of a classifier.
        confusion: Items by true class (rows) and predicted class (columns).
        reliability: Bins of confidence that hold items.
        notes: Metrics without a figure, with the reason.
    """

    items: int
    figures: dict[str, MeasuredFigure] = field(default_factory=dict)
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """The core of one run.

    Attributes:
        quality: Of the final model on the held-out items; ``None`` where there was no evaluation in this process.
        efficiency: By name, units in the names: time, speed, memory, sizes, inference, energy.
        drift: Changes along the run: of step time, of memory that the allocator keeps, of clocks and temperature.
        forgetting: Perplexity on general text before and after training; empty where it was not asked for.
        predictions: File of the predictions by item, in the run's folder; empty where there is none.
        warnings: What the user should know of this run.
        notes: What could not be measured, with the reason.
        measuring_s: What all of this took after the run.
    """

    quality: QualityReport | None = None
    efficiency: dict[str, MeasuredFigure] = field(default_factory=dict)
    drift: dict[str, MeasuredFigure] = field(default_factory=dict)
    forgetting: dict[str, MeasuredFigure] = field(default_factory=dict)
    predictions: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    measuring_s: float = 0.0


@dataclass(frozen=True)
class ModelEvaluation:
    """``evaluation.json``: what a finished run's model is worth on other data.

    Attributes:
        run: Folder of the run.
        method: That it was trained with.
        data: What was evaluated on, as its ``eval_source``.
        metrics: By name, with the held-out loss.
        quality: The same with intervals and classes.
        evaluation_s: Wall clock of the evaluation.
        samples_per_s: Items over that time, metrics included.
        output_dir: Folder of this file and of the predictions.
        notes: What is worth knowing of the data.
        schema_version: Of the file's format.
    """

    run: str
    method: str
    data: DataSpec
    metrics: dict[str, float]
    quality: QualityReport
    evaluation_s: float
    samples_per_s: float
    output_dir: str
    notes: tuple[str, ...] = ()
    schema_version: int = 1


def predictions_file(run: Path) -> Path:
    """Where a run's predictions lie."""
    return run / "predictions.parquet"
