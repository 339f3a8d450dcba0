"""Writing one text from another. Costs are predicted; there is no reader of pairs of texts for it yet."""

from __future__ import annotations

from advisor.core.metrics import PERPLEXITY
from advisor.core.tasks import TaskTraits
from advisor.training.tasks.base import FirstLook, Task


class Seq2SeqLM(Task):
    """An encoder and a decoder with its own head, kept; the model makes ``decoder_input_ids`` from the labels."""

    traits = TaskTraits(
        name="seq2seq-lm",
        title="writing one text from another",
        metric=PERPLEXITY,
        auto_class="AutoModelForSeq2SeqLM",
        loss="cross-entropy of the target's tokens",
        peft_task_type="SEQ_2_SEQ_LM",
        comparisons="language-modelling",
        predicted_only="pairs of source and target texts cannot be read yet",
    )

    def suits(self, look: FirstLook) -> bool:
        return look.data is None and look.sequence_to_sequence
