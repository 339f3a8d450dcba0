"""Full fine-tuning: every parameter trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import StrategyConfig
from advisor.strategies.base import Strategy, is_large

if TYPE_CHECKING:
    from torch import nn


class FullFineTuning(Strategy):
    """All weights of the model are trained."""

    name = "full"
    title = "full fine-tuning"
    defaults_source = (
        "learning rate 5e-5: upper end of the grid of Devlin et al. 2019 (BERT, appendix A.3), the default of "
        "transformers.TrainingArguments; 2e-5 from one billion parameters on: Stanford Alpaca's 7B; 3 epochs: both"
    )

    trains_all_weights = True
    alternatives = ("lora", "qlora")

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=2e-5 if is_large(model) else 5e-5)

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return 0

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        model.requires_grad_(True)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        return {name for name, _ in model.named_parameters()}
