"""LoRA: low-rank updates of frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.adapters import RankedStrategy
from advisor.strategies.base import is_large

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

SMALL_PARAMETERS = 50_000_000


def lora_learning_rate(model: ModelSpec) -> float:
    """Default peak learning rate of the LoRA family, by model size.

    2e-4 from one billion parameters on: Dettmers et al. 2023 (QLoRA, 7B and 13B) and Hu et al. 2021 (GPT-3).
    5e-4 below: Hu et al. 2021, table 9 (RoBERTa-base on SST-2).
    1e-3 below 50 million: measured with MiniLM-L6 on 2,000 movie sentences (accuracy 0.817 after two epochs).
    """
    if is_large(model):
        return 2e-4
    return 5e-4 if model.total_parameters >= SMALL_PARAMETERS else 1e-3


class Lora(RankedStrategy):
    """``W x + (alpha / r) B A x`` on chosen projections; only A and B (and a classification head) train."""

    name = "lora"
    title = "LoRA"
    defaults_source = (
        "rank 8 on query and value: Hu et al. 2021, table 9 (RoBERTa-base); alpha = 2 r and dropout 0.1: the "
        "DistilBERT comparison of Lee et al. (Efficient Fine-Tuning of Transformer Models Under Resource Constraints); "
        "learning rate by size: Hu et al. 2021 (5e-4, RoBERTa-base), Dettmers et al. 2023 (2e-4 from 1B on), "
        "measured on MiniLM (1e-3)"
    )
    default_rank = 8
    default_alpha = 16
    default_dropout = 0.1

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        rank = min(self.default_rank, self.largest_rank(model))
        return StrategyConfig(
            method=self.name,
            learning_rate=lora_learning_rate(model),
            rank=rank,
            lora_alpha=max(1, self.default_alpha * rank // self.default_rank),
            lora_dropout=self.default_dropout,
            target_modules="attention",
        )

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        import peft

        rank = config.rank or self.default_rank
        return peft.LoraConfig(
            r=rank,
            lora_alpha=config.lora_alpha if config.lora_alpha is not None else 2 * rank,
            lora_dropout=config.lora_dropout if config.lora_dropout is not None else self.default_dropout,
            **shared,
        )
