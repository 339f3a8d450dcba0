"""Predicting the next token: of documents, of completions, or of what an assistant says in a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advisor.core.data import DataSpec
from advisor.core.errors import ModelError
from advisor.core.metrics import BITS_PER_BYTE, BYTES, PERPLEXITY, TOKEN_ACCURACY, Metric
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import CONVERSATION_COLUMN, RowKind
from advisor.training.data.rules import Edges
from advisor.training.tasks.base import FirstLook, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn
    from transformers import EvalPrediction


class CausalLM(Task):
    """A decoder's own head, kept. Documents are packed into blocks; completions and conversations are rows."""

    traits = TaskTraits(
        name="causal-lm",
        title="causal language modelling",
        metric=PERPLEXITY,
        auto_class="AutoModelForCausalLM",
        loss="cross-entropy of the next token (of answers, where there are any)",
        peft_task_type="CAUSAL_LM",
        comparisons="language-modelling",
        predicts_next_token=True,
        accepts_loss_kwargs=True,
        packs_text=True,
    )

    def suits(self, look: FirstLook) -> bool:
        """Conversations mean it; text, and no data at all, mean it for decoders."""
        if look.sequence_to_sequence:
            return False
        if look.data is None:
            return look.causal is True
        return look.data == "conversations" or (look.data == "text" and look.causal is True)

    def check_model(self, spec: ModelSpec, skeleton: nn.Module) -> None:
        """BERT and its kin get a causal head from transformers, but see the very words they would have to predict."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        is_decoder = getattr(skeleton.config, "is_decoder", False)
        if spec.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder:
            raise ModelError(
                f"{self.name} needs a decoder, but {spec.source} is an encoder ({spec.model_type})",
                fix="pass --task masked-lm, or name a decoder",
            )

    row_kinds: tuple[RowKind, ...] = ("text", "completion", "conversation")

    def row_kind(self, spec: DataSpec) -> RowKind:
        """In older plans without a format, the columns say it."""
        if spec.format is None and spec.text_pair_column:
            return "completion"
        if spec.format is None and spec.text_column == CONVERSATION_COLUMN:
            return "conversation"
        return super().row_kind(spec)

    def document_edges(self, tokenizer: Any) -> Edges:
        """A document begins as the tokenizer begins a text, and ends with the end-of-sequence token."""
        from advisor.training.data.encoding import special_prefix

        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return special_prefix(tokenizer), end

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        from advisor.training.tasks.reduction import first_output, reduce_tokens

        return reduce_tokens(first_output(logits)[:, :-1], labels[:, 1:])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (PERPLEXITY, BITS_PER_BYTE, TOKEN_ACCURACY)

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        """With the bytes of the predicted text where there is a tokenizer."""
        from advisor.training.tasks.reduction import label_bytes, token_columns

        columns = token_columns(prediction)
        if tokenizer is not None:
            columns[BYTES] = label_bytes(prediction.label_ids[:, 1:], tokenizer)
        return columns
