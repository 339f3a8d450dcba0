"""One label per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advisor.core.metrics import ACCURACY, CLASSIFICATION, Metric
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import RowKind
from advisor.training.tasks.base import FirstLook, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import EvalPrediction


class SequenceClassification(Task):
    """A new head on the pooled text; ranked on accuracy, because that is what published comparisons report."""

    traits = TaskTraits(
        name="sequence-classification",
        title="classifying texts",
        metric=ACCURACY,
        auto_class="AutoModelForSequenceClassification",
        peft_task_type="SEQ_CLS",
        comparisons="classification",
        new_head=True,
        config_values={"problem_type": "single_label_classification"},
        needs_pad_token=True,  # decoders that classify read the last token that is not padding
        keeps_token_logits=False,
        projects_to_vocabulary=False,
        one_class_per_row=True,
        weighs_classes=True,
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return CLASSIFICATION

    def suits(self, look: FirstLook) -> bool:
        """Labels mean classification, and so does any other table. Without data an encoder is classified with."""
        if look.data is None:
            return look.causal is False and not look.sequence_to_sequence
        return look.data == "labelled" or (look.data == "table" and not look.sequence_to_sequence)

    row_kinds: tuple[RowKind, ...] = ("labelled",)

    def label_shape(self, spec: ModelSpec, rows: int, seq_length: int) -> tuple[int, ...]:
        return (rows,)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        return torch.randint(0, spec.num_labels, (tokens.shape[0],), generator=generator)

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        from advisor.training.tasks.reduction import reduce_classes

        return reduce_classes(logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.tasks.reduction import class_figures

        return class_figures(prediction)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        from advisor.training.tasks.reduction import class_columns

        return class_columns(prediction)
