"""A number per text, or per pair of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advisor.core.metrics import NUMBERS, RMSE, Metric
from advisor.core.model import ModelSpec
from advisor.training.data.rows import RowKind
from advisor.training.tasks.base import FirstLook
from advisor.training.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import EvalPrediction


class TextRegression(SequenceClassification):
    """A new head with one output on the pooled text; its loss is the mean squared error.

    Ranked on its root, which says the same as the loss in the unit of the data.
    """

    traits = dataclasses.replace(
        SequenceClassification.traits,
        name="text-regression",
        title="predicting a number of texts",
        metric=RMSE,
        loss="mean squared error",
        comparisons=None,
        num_outputs=1,
        float_labels=True,
        weighs_classes=False,
        config_values={"problem_type": "regression"},
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return NUMBERS

    def suits(self, look: FirstLook) -> bool:
        return look.data == "scored"

    row_kinds: tuple[RowKind, ...] = ("scored",)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        return torch.rand(tokens.shape[0], generator=generator)

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        from advisor.training.tasks.reduction import reduce_numbers

        return reduce_numbers(logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.tasks.reduction import number_figures

        return number_figures(prediction)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        from advisor.training.tasks.reduction import number_columns

        return number_columns(prediction)
