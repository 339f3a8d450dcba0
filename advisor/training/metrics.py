"""A task's held-out metrics, as a run computes and logs them.

While a run is measured, figures are sums over the few numbers per row that the task keeps. Metrics that scikit-learn
computes come afterwards (``HeldOut.final_metrics``): importing it takes a second or two and 40 MB, which belong to no
training.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EvalPrediction

from advisor.core.metrics import LOSS, METRICS, Metric
from advisor.training.tasks import Task
from advisor.training.tasks.reduction import NLL, first_output, reduce_scored_tokens


class HeldOut:
    """A task's metrics for one Trainer, which remember the last evaluation.

    Args:
        task: Reduces and computes.

    Attributes:
        order: Which item of the data set each evaluated row is; ``None`` where they come in its order.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._last: EvalPrediction | None = None
        self.order: Sequence[int] | None = None

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """For ``Trainer(preprocess_logits_for_metrics=...)``."""
        return self._task.reduce_logits(logits, labels)

    def reduce_scores(self, scores: Any, labels: torch.Tensor) -> torch.Tensor:
        """The same for a model that scores its labels itself (``training.loss.fused_evaluation``)."""
        return reduce_scored_tokens(first_output(scores), labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """For ``Trainer(compute_metrics=...)``."""
        self._last = prediction
        return self._task.compute_metrics(prediction)

    def name_labels(self, names: Sequence[str]) -> None:
        """Say what the classes are called, by index."""
        self._task = self._task.for_labels(names)

    @property
    def evaluated(self) -> bool:
        """Whether there was an evaluation."""
        return self._last is not None

    def predictions(self, tokenizer: Any = None) -> dict[str, NDArray[Any]]:
        """The last evaluation by item, as columns in the order of the data set; none before the first.

        Args:
            tokenizer: The model's own, for columns that need texts.
        """
        if self._last is None:
            return {}
        columns = self._task.predictions(self._last, tokenizer)
        if self.order is None:
            return dict(columns)
        places = np.argsort(np.asarray(self.order), kind="stable")
        return {name: column[places] for name, column in columns.items()}

    def final_metrics(self, tokenizer: Any = None) -> dict[str, float]:
        """Every metric of the last evaluation that its predictions allow."""
        return computed_metrics(self._task.metrics, self.predictions(tokenizer))


def computed_metrics(metrics: Sequence[Metric], columns: Mapping[str, Any]) -> dict[str, float]:
    """Figures of predictions by metric; those that are not defined for these items are left out."""
    found = {}
    for metric in metrics:
        if not metric.is_in(columns):
            continue
        with contextlib.suppress(ValueError):
            found[metric.name] = metric.compute(columns)
    return finite(found)


def held_out_metrics(logged: Mapping[str, float]) -> dict[str, float]:
    """The Trainer's ``eval_*`` figures under our names: its timings are dropped, ours replace its batch-mean loss.

    Those that are no finite numbers are left out: a run without a held-out loss has diverged.
    """
    bare = {name.removeprefix("eval_"): float(value) for name, value in logged.items()}
    kept = {name: value for name, value in bare.items() if name in METRICS}
    return finite(kept | {LOSS.name: bare.get(NLL, float(logged.get(LOSS.name, math.nan)))})


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the figures that are finite numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
