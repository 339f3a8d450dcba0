"""QLoRA: LoRA on weights stored in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from advisor.core.strategy import Quantization, QuantizationType, StrategyConfig
from advisor.strategies.lora import Lora, LoraKnobs


@dataclass(frozen=True)
class QLoraKnobs(LoraKnobs):
    """As in ``peft.LoraConfig`` and, for the storage, ``transformers.BitsAndBytesConfig``.

    Attributes:
        quant_type: Code book of the 4-bit values.
        double_quant: Quantise the scales of the blocks too: 0.127 instead of 0.5 bits per weight (Dettmers et al. 2023,
            section 3).
    """

    quant_type: QuantizationType = "nf4"
    double_quant: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quant_type not in get_args(QuantizationType):
            raise ValueError(f"quant_type must be nf4 or fp4, but got {self.quant_type}")

    def described(self) -> tuple[str, ...]:
        code_book = (self.quant_type,) if self.quant_type != "nf4" else ()
        return (*super().described(), *code_book, *(() if self.double_quant else ("no double quantisation",)))


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

    knobs: type[QLoraKnobs] = QLoraKnobs
    stores_4bit_weights = True
    merges_into = None  # merging into 4-bit weights rounds them anew, and is not predicted
    alternatives = ("lora", "partial")

    def quantization(self, config: StrategyConfig) -> Quantization | None:
        knobs = QLoraKnobs.of(config)
        return Quantization(knobs.quant_type, knobs.double_quant)

    def trace_key(self, config: StrategyConfig) -> dict[str, Any]:
        knobs = QLoraKnobs.of(config)
        storage = {"quant_type": knobs.quant_type, "double_quant": knobs.double_quant}
        return {**super().trace_key(config), **storage}
