"""HiRA: Hadamard high-rank adaptation (Huang et al. 2025, ICLR, openreview TwJrTz9cRS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.adapters import RankedStrategy, RankKnobs

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


@dataclass(frozen=True)
class HiraKnobs(RankKnobs):
    """As in ``peft.HiraConfig``; the dropout has LoRA's name."""

    rank: int = 32


class Hira(RankedStrategy):
    """``(W + W * (B A)) x`` with an elementwise product: the update has a rank far above r. There is no alpha."""

    name = "hira"
    title = "HiRA"
    defaults_source = (
        "rank 32 and learning rate 1e-3: the authors' published training command (Llama-3-8B, commonsense 170k); the "
        "rank is also the default of peft.HiraConfig; query and value as LoRA here; dropout 0.1 as LoRA"
    )

    knobs = HiraKnobs
    highest_rank = 128

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(
            method=self.name,
            learning_rate=1e-3,
            knobs=HiraKnobs(rank=min(HiraKnobs.rank, self.largest_rank(model)), lora_dropout=0.1),
        )

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        import peft

        knobs = HiraKnobs.of(config)
        return peft.HiraConfig(r=knobs.rank, hira_dropout=knobs.lora_dropout, **shared)
