"""LoRA with a rank so high that capacity is no longer the limit."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.strategies.lora import Lora, LoraKnobs


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
