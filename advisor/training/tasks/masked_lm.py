"""Predicting masked tokens, as encoders are pre-trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.core.metrics import PERPLEXITY, TOKEN_ACCURACY, Metric
from advisor.core.model import ModelSpec
from advisor.core.tasks import TaskTraits
from advisor.training.data.rules import Edges
from advisor.training.data.tables import Table
from advisor.training.tasks.base import FirstLook, Task

if TYPE_CHECKING:
    import torch

MLM_PROBABILITY = 0.15
"""Share of tokens that are predicted (Devlin et al., BERT, arXiv:1810.04805, section 3.1)."""


class MaskedLM(Task):
    """An encoder's own head, kept. Texts are packed into blocks, each between the tokenizer's special tokens."""

    traits = TaskTraits(
        name="masked-lm",
        title="masked language modelling",
        metric=PERPLEXITY,
        auto_class="AutoModelForMaskedLM",
        loss="cross-entropy of masked tokens",
        comparisons="language-modelling",
        masks_anew=True,
        packs_text=True,
    )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (PERPLEXITY, TOKEN_ACCURACY)

    def suits(self, look: FirstLook) -> bool:
        """Text is modelled as the architecture was pre-trained."""
        return look.data == "text" and look.causal is False and not look.sequence_to_sequence

    def with_columns(self, spec: DataSpec, table: Table | None) -> DataSpec:
        if table is not None and spec.text_pair_column is not None:
            raise DataError(
                f"{self.name} learns one text a row, but a pair column {spec.text_pair_column!r} was named",
                fix="leave it out",
            )
        return super().with_columns(spec, table)

    def block_edges(self, tokenizer: Any) -> Edges:
        from advisor.training.data.encoding import special_prefix, special_suffix

        return special_prefix(tokenizer), special_suffix(tokenizer)

    def masking(self, tokenizer: Any) -> Any:
        from transformers import DataCollatorForLanguageModeling

        if tokenizer.mask_token_id is None:
            raise DataError(
                f"{self.name} needs a tokenizer with a mask token, but this model's has none",
                fix="train it with --task causal-lm",
            )
        return DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=MLM_PROBABILITY)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Every row has at least one label."""
        import torch

        from advisor.training.data.encoding import IGNORED_LABEL
        from advisor.training.tasks.reduction import without_padding

        predicted = torch.rand(tokens.shape, generator=generator) < MLM_PROBABILITY
        predicted[:, 0] = True
        return without_padding(tokens, mask).masked_fill(~predicted, IGNORED_LABEL)
