"""A task's held-out metrics, as a run computes and logs them.

While a run is measured, figures are sums over the few numbers per row that the task keeps. Metrics that scikit-learn
computes come afterwards (``HeldOut.final_metrics``): importing it takes a second or two and 40 MB, which belong to no
training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import EvalPrediction

from advisor.core.metrics import LOSS, METRICS
from advisor.training.tasks import Task
from advisor.training.tasks.reduction import NLL


class HeldOut:
    """A task's metrics for one Trainer, which remember the last evaluation.

    Args:
        task: Reduces and computes.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._last: EvalPrediction | None = None

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """For ``Trainer(preprocess_logits_for_metrics=...)``."""
        return self._task.reduce_logits(logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """For ``Trainer(compute_metrics=...)``."""
        self._last = prediction
        return self._task.compute_metrics(prediction)

    @property
    def evaluated(self) -> bool:
        """Whether there was an evaluation."""
        return self._last is not None

    def final_metrics(self) -> dict[str, float]:
        """Further figures of the last evaluation; none before the first."""
        return dict(self._task.final_metrics(self._last)) if self._last is not None else {}


def held_out_metrics(logged: Mapping[str, float]) -> dict[str, float]:
    """The Trainer's ``eval_*`` figures under our names: its timings are dropped, ours replace its batch-mean loss."""
    bare = {name.removeprefix("eval_"): float(value) for name, value in logged.items()}
    kept = {name: value for name, value in bare.items() if name in METRICS}
    return kept | {LOSS.name: bare.get(NLL, float(logged.get(LOSS.name, math.nan)))}
