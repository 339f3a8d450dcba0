"""Writing one text from another: summaries, answers to questions about a text, translations."""

from __future__ import annotations

from advisor.core.metrics import PERPLEXITY, TOKEN_ACCURACY, Metric
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import RowKind
from advisor.training.tasks.base import FirstLook, Task


class Seq2SeqLM(Task):
    """An encoder and a decoder with its own head, kept; the model makes ``decoder_input_ids`` from the labels.

    Sources and targets of a batch are padded to one length, which is what predictions assume. Ranked on the perplexity
    of the targets (every token after the right ones before it).
    """

    traits = TaskTraits(
        name="seq2seq-lm",
        title="writing one text from another",
        metric=PERPLEXITY,
        auto_class="AutoModelForSeq2SeqLM",
        loss="cross-entropy of the target's tokens",
        peft_task_type="SEQ_2_SEQ_LM",
        comparisons="language-modelling",
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (PERPLEXITY, TOKEN_ACCURACY)

    row_kinds: tuple[RowKind, ...] = ("source-target",)

    def suits(self, look: FirstLook) -> bool:
        """Texts that are no labels mean it where the architecture was pre-trained for it."""
        return look.sequence_to_sequence and look.data in (None, "conversations", "text", "table")
