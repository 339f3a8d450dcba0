"""Any number of labels per text, or per pair of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from advisor.core.metrics import F1_MICRO, LABEL_SETS, Metric
from advisor.core.model import ModelSpec
from advisor.training.data.rows import RowKind
from advisor.training.tasks.base import FirstLook
from advisor.training.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import EvalPrediction


class MultiLabelClassification(SequenceClassification):
    """A new head on the pooled text, every output a yes or no of its own (binary cross-entropy).

    A label is predicted where its probability is at least one half. Ranked on micro F1, as published results on such
    data are (for example in GoEmotions, Demszky et al. 2020, and EUR-Lex, Chalkidis et al. 2019).
    """

    traits = dataclasses.replace(
        SequenceClassification.traits,
        name="multi-label-classification",
        title="giving texts any number of labels",
        metric=F1_MICRO,
        loss="binary cross-entropy of every label",
        comparisons=None,
        float_labels=True,
        config_values={"problem_type": "multi_label_classification"},
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return LABEL_SETS

    def suits(self, look: FirstLook) -> bool:
        return look.data == "multi-labelled"

    row_kinds: tuple[RowKind, ...] = ("multi-labelled",)

    def label_shape(self, spec: ModelSpec, rows: int, seq_length: int) -> tuple[int, ...]:
        return (rows, spec.num_labels)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        return torch.randint(0, 2, (tokens.shape[0], spec.num_labels), generator=generator).float()

    def weighted_loss_func(self, labels: NDArray[Any], num_labels: int) -> Callable[..., torch.Tensor]:
        """Every label weighs having it and not having it."""
        from advisor.training.class_weights import balanced_label_weights, weighted_binary_cross_entropy

        return weighted_binary_cross_entropy(balanced_label_weights(labels))

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        from advisor.training.tasks.reduction import reduce_label_sets

        return reduce_label_sets(logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.tasks.reduction import label_set_figures

        return label_set_figures(prediction)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        from advisor.training.tasks.reduction import label_set_columns

        return label_set_columns(prediction)
