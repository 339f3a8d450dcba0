"""Statistical knobs: what is learned, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

QuantizationType = Literal["nf4", "fp4"]


@dataclass(frozen=True)
class Quantization:
    """How frozen weights are stored (bitsandbytes 4-bit).

    Attributes:
        quant_type: Code book.
        double_quant: Block statistics are quantised too (QLoRA, Dettmers et al. 2023).
        compute_dtype: Data type that weights are de-quantised to.
    """

    quant_type: QuantizationType = "nf4"
    double_quant: bool = True
    compute_dtype: str = "float32"


@dataclass(frozen=True)
class StrategyConfig:
    """One strategy with all its knobs set. Only evidence can rank two of these.

    Attributes:
        method: Name in the strategy registry.
        learning_rate: Peak learning rate of the optimizer (already multiplied by ``lr_rel``).
        lr_rel: What the method's default learning rate was multiplied by; kept so that studies share it over methods.
        num_train_epochs: Passes over the training rows.
        rank, lora_alpha, lora_dropout: As in PEFT; ``None`` where the method has no rank.
        target_modules: ``"attention"`` (query and value projections), ``"all-linear"``, or module name suffixes.
        unfrozen_layers: For ``partial``: how many last layers train.
        sparsity, l1_lambda: For ``sparse_lora``: final share of zeroed adapter weights, and the L1 coefficient.
        peft_config: For ``peft``: the PEFT configuration as JSON, with its ``peft_type``.
        weight_decay, warmup_ratio, lr_scheduler_type, max_grad_norm: As in ``transformers.TrainingArguments``.
    """

    method: str
    learning_rate: float
    lr_rel: float = 1.0
    num_train_epochs: float = 3.0
    rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    target_modules: str | tuple[str, ...] | None = None
    unfrozen_layers: int | None = None
    sparsity: float | None = None
    l1_lambda: float | None = None
    peft_config: dict[str, Any] | None = None
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    lr_scheduler_type: str = "linear"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        for name in ("learning_rate", "num_train_epochs"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                problems.append(f"{name} > 0 must hold, and be finite, but got {value}")
        if self.rank is not None and self.rank < 1:
            problems.append(f"rank >= 1 must hold, but got {self.rank}")
        if self.unfrozen_layers is not None and self.unfrozen_layers < 1:
            problems.append(f"unfrozen_layers >= 1 must hold, but got {self.unfrozen_layers}")
        for name in ("sparsity", "lora_dropout", "warmup_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                problems.append(f"0 <= {name} < 1 must hold, but got {value}")
        if not self.max_grad_norm >= 0:
            problems.append(f"max_grad_norm >= 0 must hold, but got {self.max_grad_norm}")
        if problems:
            raise ValueError("; ".join(problems))
