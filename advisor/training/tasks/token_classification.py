"""One tag per word: entities, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.core.data import DataSpec
from advisor.core.metrics import ENTITY_F1, TAGGING, Metric
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import RowKind
from advisor.training.data.tables import Table
from advisor.training.tasks.base import FirstLook, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import EvalPrediction


class TokenClassification(Task):
    """A new head on every token; the first token of a word carries its tag. Ranked on F1 of whole entities.

    Args:
        label_names: Tags by index, which say what an entity is.
    """

    traits = TaskTraits(
        name="token-classification",
        title="classifying tokens",
        metric=ENTITY_F1,
        auto_class="AutoModelForTokenClassification",
        loss="cross-entropy of the tag of every word",
        peft_task_type="TOKEN_CLS",
        new_head=True,
        projects_to_vocabulary=False,
        weighs_classes=True,
    )

    def __init__(self, label_names: Sequence[str] = ()) -> None:
        self._label_names = tuple(label_names)

    def for_labels(self, names: Sequence[str]) -> TokenClassification:
        return TokenClassification(names)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return TAGGING

    def suits(self, look: FirstLook) -> bool:
        return look.data == "tagged"

    row_kinds: tuple[RowKind, ...] = ("tagged",)

    def with_columns(self, spec: DataSpec, table: Table | None) -> DataSpec:
        """Text files are read as CoNLL files here."""
        if table is None:
            from advisor.training.data.records import open_table

            spec = replace(spec, kind="conll")
            table = open_table(spec)
        return super().with_columns(spec, table)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        from advisor.training.tasks.reduction import without_padding

        return without_padding(torch.randint(0, spec.num_labels, tokens.shape, generator=generator), mask)

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        from advisor.training.tasks.reduction import reduce_tags

        return reduce_tags(logits, labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.tasks.reduction import tag_figures

        return tag_figures(prediction, self._label_names)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        from advisor.training.tasks.reduction import tag_columns

        return tag_columns(prediction, self._label_names)
