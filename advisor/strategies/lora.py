"""LoRA and its relatives: low-rank updates of frozen weights.

LoRA: Hu et al. 2021, arXiv:2106.09685. HiRA: Huang et al. 2025, ICLR, openreview TwJrTz9cRS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from advisor.core.model import ModelSpec
from advisor.core.plan import Optimizer
from advisor.core.strategy import StrategyConfig
from advisor.strategies.adapters import RankedStrategy, RankKnobs
from advisor.strategies.base import for_task, is_large

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

SMALL_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class LoraKnobs(RankKnobs):
    """As in ``peft.LoraConfig``.

    Attributes:
        lora_alpha: The update is scaled by ``lora_alpha / rank``; ``None`` is twice the rank.
    """

    lora_dropout: float = 0.1
    lora_alpha: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_alpha is not None and self.lora_alpha < 1:
            raise ValueError(f"lora_alpha >= 1 must hold, or the adapters change nothing, but got {self.lora_alpha}")

    def replaced(self, **values: Any) -> Self:
        """Alpha keeps its ratio to the rank unless it is given: the scale of the update, and with it the learning
        rate, is then comparable over ranks.
        """
        if values.get("rank") and self.lora_alpha is not None and "lora_alpha" not in values:
            values["lora_alpha"] = max(1, round(self.lora_alpha * values["rank"] / self.rank))
        return super().replaced(**values)

    def described(self) -> tuple[str, ...]:
        rank, *others = super().described()
        return (rank, *([f"alpha={self.lora_alpha}"] if self.lora_alpha is not None else []), *others)


def lora_learning_rate(model: ModelSpec) -> float:
    """Default peak learning rate of the LoRA family, by model size.

    2e-4 from one billion parameters on: Dettmers et al. 2023 (QLoRA, 7B and 13B) and Hu et al. 2021 (GPT-3).
    5e-4 below: Hu et al. 2021, table 9 (RoBERTa-base on SST-2).
    1e-3 below 50 million: measured with MiniLM-L6 on 2,000 movie sentences (accuracy 0.817 after two epochs).
    """
    if is_large(model):
        return for_task(model, 2e-4)
    return for_task(model, 5e-4 if model.total_parameters >= SMALL_PARAMETERS else 1e-3)


class Lora(RankedStrategy):
    """``W x + (alpha / r) B A x`` on chosen projections; only A and B (and a classification head) train."""

    name = "lora"
    title = "LoRA"
    knobs: type[LoraKnobs] = LoraKnobs
    defaults_source = (
        "rank 8 on query and value: Hu et al. 2021, table 9 (RoBERTa-base); alpha = 2 r and dropout 0.1: the "
        "DistilBERT comparison of Lee et al. (Efficient Fine-Tuning of Transformer Models Under Resource Constraints); "
        "learning rate by size: Hu et al. 2021 (5e-4, RoBERTa-base), Dettmers et al. 2023 (2e-4 from 1B on), "
        "measured on MiniLM (1e-3)"
    )
    own_optimizers: frozenset[Optimizer] = frozenset({"lorafa"})
    alternatives = ("qlora", "partial")
    merges_into: str | None = "full"
    packable = True
    default_rank = 8
    default_alpha = 16

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        rank = min(self.default_rank, self.largest_rank(model))
        return StrategyConfig(
            method=self.name,
            learning_rate=lora_learning_rate(model),
            knobs=self.knobs(rank=rank, lora_alpha=max(1, self.default_alpha * rank // self.default_rank)),
        )

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        import peft

        knobs = LoraKnobs.of(config)
        alpha = knobs.lora_alpha if knobs.lora_alpha is not None else 2 * knobs.rank
        return peft.LoraConfig(r=knobs.rank, lora_alpha=alpha, lora_dropout=knobs.lora_dropout, **shared)


@dataclass(frozen=True)
class HighRankKnobs(LoraKnobs):
    """LoRA's, with a higher rank."""

    rank: int = 32


class HighRankLora(Lora):
    """LoRA at rank 32, scaled as at rank 8. Published as a stand-in for HiRA, which is a method of its own here."""

    name = "high_rank_lora"
    title = "high-rank LoRA"
    knobs = HighRankKnobs
    builds_as = "lora"
    defaults_source = (
        'rank 32, alpha 64, dropout 0.1, query and value: the "High-Rank LoRA" of Yadav et al. 2025 (Benchmarking '
        "Parameter-Efficient Fine-Tuning); learning rate as LoRA, because alpha / r is the same"
    )
    default_rank = 32
    default_alpha = 64
    lowest_rank = 16
    highest_rank = 128


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
    merges_into = "full"
    highest_rank = 128

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(
            method=self.name,
            learning_rate=for_task(model, 1e-3),
            knobs=HiraKnobs(rank=min(HiraKnobs.rank, self.largest_rank(model)), lora_dropout=0.1),
        )

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        import peft

        knobs = HiraKnobs.of(config)
        return peft.HiraConfig(r=knobs.rank, hira_dropout=knobs.lora_dropout, **shared)
