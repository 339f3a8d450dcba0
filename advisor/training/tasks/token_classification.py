"""One label per token. Costs are predicted; there is no reader of labelled tokens yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.metrics import ACCURACY
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.tasks.base import Task

if TYPE_CHECKING:
    import torch
    from transformers import EvalPrediction


class TokenClassification(Task):
    """A new head on every token. Published comparisons of methods on such tasks are not collected here."""

    traits = TaskTraits(
        name="token-classification",
        title="classifying tokens",
        metric=ACCURACY,
        auto_class="AutoModelForTokenClassification",
        loss="cross-entropy of every labelled token",
        peft_task_type="TOKEN_CLS",
        new_head=True,
        projects_to_vocabulary=False,
        predicted_only="labels of tokens cannot be read yet",
    )

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        from advisor.training.tasks.reduction import without_padding

        return without_padding(torch.randint(0, spec.num_labels, tokens.shape, generator=generator), mask)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.tasks.reduction import labelled_token_figures

        return labelled_token_figures(prediction)
