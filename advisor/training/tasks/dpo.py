"""Learning which of two answers is preferred, by direct preference optimisation (DPO) with TRL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from advisor.core.data import DataSpec
from advisor.core.metrics import PREFERENCES, REWARD_ACCURACY, Metric
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import RowKind
from advisor.training.tasks.base import FirstLook
from advisor.training.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn
    from transformers import EvalPrediction, Trainer


class DPO(CausalLM):
    """A decoder's own head, kept. The loss is ``-log sigmoid(beta (r_chosen - r_rejected))`` of the log-ratios ``r`` of
    an answer's probability to that before training. Ranked on the share of held-out pairs whose chosen answer has the
    higher one.
    """

    traits = TaskTraits(
        name="dpo",
        title="learning from preferences",
        metric=REWARD_ACCURACY,
        auto_class="AutoModelForCausalLM",
        loss="DPO's, of the log-probabilities of two answers before training and now",
        peft_task_type="CAUSAL_LM",
        keeps_token_logits=False,
        learns_preferences=True,
        serves_as=CausalLM.traits.name,
        learning_rate_factor=0.05,  # TRL's defaults are 1e-6 for DPO and 2e-5 for supervised training
        trainer_package="trl>=1.16,<2",
        extra="dpo",
    )
    row_kinds: tuple[RowKind, ...] = ("answer-pair",)

    def row_kind(self, spec: DataSpec) -> RowKind:
        return self.row_kinds[0]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return PREFERENCES

    def suits(self, look: FirstLook) -> bool:
        return look.data == "preferences" and look.causal is not False and not look.sequence_to_sequence

    def collator(self, pad_token_id: int, max_seq_length: int) -> Any:
        from advisor.training.data.collators import PairCollator

        return PairCollator(pad_token_id, max_seq_length)

    def batch_shapes(self, spec: ModelSpec, rows: int, seq_length: int, *, padded: bool) -> dict[str, tuple[int, ...]]:
        """Two rows for every pair, always with a mask; the labels follow from where the answers are."""
        return dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), (2 * rows, seq_length))

    def trainer_class(self, reference: nn.Module | None = None) -> Callable[..., Trainer] | None:
        self.require_trainer()
        from advisor.training.preference_trainer import PreferenceTrainer

        return partial(PreferenceTrainer, reference=reference)

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """The Trainer's own evaluation keeps four log-probabilities a pair; there is nothing left to reduce."""
        from advisor.training.tasks.reduction import first_output

        return first_output(logits)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        from advisor.training.preferences import BETA
        from advisor.training.tasks.reduction import preference_figures

        return preference_figures(prediction, BETA)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        from advisor.training.preferences import BETA
        from advisor.training.tasks.reduction import preference_columns

        return preference_columns(prediction, BETA)
