"""Writing one text from another: summaries, answers to questions about a text, translations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advisor.core.data import DataSpec
from advisor.core.metrics import PERPLEXITY, TOKEN_ACCURACY, WRITING, Metric
from advisor.core.tasks import TaskTraits
from advisor.training.data.rows import Row, RowKind, SourceAndTarget
from advisor.training.tasks.base import FirstLook, Task


class Seq2SeqLM(Task):
    """An encoder and a decoder with its own head, kept; the model makes ``decoder_input_ids`` from the labels.

    Sources and targets of a batch are padded to one length, which is what predictions assume. Ranked on the perplexity
    of the targets (every token after the right ones before it); texts that it writes by itself are measured at the end.
    """

    traits = TaskTraits(
        name="seq2seq-lm",
        title="writing one text from another",
        metric=PERPLEXITY,
        auto_class="AutoModelForSeq2SeqLM",
        loss="cross-entropy of the target's tokens",
        peft_task_type="SEQ_2_SEQ_LM",
        comparisons="language-modelling",
        writes_texts=True,
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (PERPLEXITY, TOKEN_ACCURACY, *WRITING)

    def written_columns(self, spec: DataSpec, written: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Any]:
        """Answers to questions are right or wrong; other texts are compared by ROUGE."""
        from advisor.training.data.formats import FORMATS
        from advisor.training.written_texts import answer_columns, rouge_columns

        references = [row.references for row in rows if isinstance(row, SourceAndTarget)]
        short = spec.format is not None and FORMATS.get(spec.format).short_answers
        return (answer_columns if short else rouge_columns)(written, references)

    row_kinds: tuple[RowKind, ...] = ("source-target",)

    def suits(self, look: FirstLook) -> bool:
        """Texts that are no labels mean it where the architecture was pre-trained for it."""
        return look.sequence_to_sequence and look.data in (None, "conversations", "text", "table")
