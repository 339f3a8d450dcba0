"""Surgical fine-tuning: one block of consecutive layers trains (Lee et al. 2023, arXiv:2210.11466)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.strategies import Dimension, IntDimension, Strategy

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BlockKnobs(Knobs):
    """Which layers train.

    Attributes:
        first_layer: Counted from 0.
        num_layers: How many from there on.
    """

    first_layer: int = 0
    num_layers: int = 1

    def __post_init__(self) -> None:
        if self.first_layer < 0:
            raise ValueError(f"first_layer >= 0 must hold, but got {self.first_layer}")
        if self.num_layers < 1:
            raise ValueError(f"num_layers >= 1 must hold, but got {self.num_layers}")

    def described(self) -> tuple[str, ...]:
        return (f"layers {self.first_layer} to {self.first_layer + self.num_layers - 1}",)


class LayerBlock(Strategy):
    """Trains ``num_layers`` layers from ``first_layer`` on, and the head; everything else stays frozen."""

    name = "layer_block"
    title = "layer-block fine-tuning"
    defaults_source = "first layers: Lee et al. 2023 for corrupted inputs; learning rate as full fine-tuning"
    knobs = BlockKnobs

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=5e-5, knobs=BlockKnobs())

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {"num_layers": IntDimension(1, model.num_hidden_layers), **super().search_space(model)}

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        knobs = BlockKnobs.of(config)
        last = knobs.first_layer + knobs.num_layers
        if last <= model.num_hidden_layers:
            return []
        return [f"first_layer + num_layers <= {model.num_hidden_layers} must hold, but got {last}"]

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        trained = self.declared_trainable(model, config)
        if not trained:
            raise InputError(f"{type(model).__name__} has no layer {BlockKnobs.of(config).first_layer}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        from advisor.strategies.targets import backbone_layers, head_modules

        knobs = BlockKnobs.of(config)
        layers_name, _ = backbone_layers(model)
        layers = range(knobs.first_layer, knobs.first_layer + knobs.num_layers)
        owners = (*(f"{layers_name}.{index}" for index in layers), *head_modules(model))
        return {name for name, _ in model.named_parameters() if name.startswith(tuple(f"{owner}." for owner in owners))}
