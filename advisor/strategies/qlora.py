"""QLoRA: LoRA on weights stored in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from advisor.core.strategy import Quantization, StrategyConfig
from advisor.strategies.lora import Lora


class QLora(Lora):
    """LoRA on NF4 weights with double quantisation.

    The head, the embeddings and the norms stay as they are. ``peft.prepare_model_for_kbit_training`` is not applied: it
    up-casts everything that is not quantised to float32, which for a 7B decoder costs more than the adapters and their
    optimizer together and is not needed under mixed precision.
    """

    name = "qlora"
    title = "QLoRA"
    defaults_source = (
        "NF4 and double quantisation: Dettmers et al. 2023, section 3; rank, alpha, dropout, query and value, and "
        "learning rate as LoRA, so that the two differ in storage only (their 2e-4 for 7B and 13B is LoRA's there too)"
    )

    stores_4bit_weights = True
    alternatives = ("lora", "partial")

    def quantization(self, config: StrategyConfig) -> Quantization | None:
        return Quantization()
