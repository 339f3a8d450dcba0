"""Surgical fine-tuning: one block of consecutive layers trains (Lee et al. 2023, arXiv:2210.11466)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import StrategyConfig
from advisor.strategies import Strategy

if TYPE_CHECKING:
    from torch import nn


class LayerBlock(Strategy):
    """Trains the first layer and the head; everything else stays frozen."""

    name = "layer_block"
    title = "layer-block fine-tuning"
    defaults_source = "first block: Lee et al. 2023 for corrupted inputs; learning rate as full fine-tuning"

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=5e-5)

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        trained = self.declared_trainable(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        from advisor.strategies.targets import backbone_layers, head_modules

        layers_name, _ = backbone_layers(model)
        owners = (f"{layers_name}.0", *head_modules(model))
        return {name for name, _ in model.named_parameters() if name.startswith(tuple(f"{owner}." for owner in owners))}
