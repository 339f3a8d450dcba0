"""Partial fine-tuning: the last layers and the head train, the first ones stay frozen and need no backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.strategies.base import Dimension, IntDimension, Strategy, is_large

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PartialKnobs(Knobs):
    """What trains.

    Attributes:
        unfrozen_layers: How many last layers.
    """

    unfrozen_layers: int = 2

    def __post_init__(self) -> None:
        if self.unfrozen_layers < 1:
            raise ValueError(f"unfrozen_layers >= 1 must hold, but got {self.unfrozen_layers}")

    def described(self) -> tuple[str, ...]:
        return (f"last {self.unfrozen_layers} layers",)


class PartialFineTuning(Strategy):
    """Trains the last ``unfrozen_layers`` layers, the norm behind them, and the classification head.

    A language model's output projection stays frozen: it is usually the embedding matrix.
    """

    name = "partial"
    title = "partial fine-tuning"
    defaults_source = (
        "last 2 layers + classifier: the partial fine-tuning compared with LoRA on SNLI by Malipiero and Stärk; "
        "learning rate as full fine-tuning (Devlin et al. 2019; Alpaca from one billion parameters on)"
    )
    knobs = PartialKnobs
    alternatives = ("lora", "qlora")
    backpropagates_to_inputs = False

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(
            method=self.name,
            learning_rate=2e-5 if is_large(model) else 5e-5,
            knobs=PartialKnobs(min(PartialKnobs.unfrozen_layers, model.num_hidden_layers)),
        )

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {"unfrozen_layers": IntDimension(1, model.num_hidden_layers), **super().search_space(model)}

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        from advisor.strategies.skeleton import build_skeleton

        try:
            self.declared_trainable(build_skeleton(model), config)
        except InputError as failure:
            return [failure.message]
        return []

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return PartialKnobs.of(config).unfrozen_layers

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        trained = self.declared_trainable(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        from advisor.strategies.targets import backbone_layers, final_norms, head_modules

        layers_name, layers = backbone_layers(model)
        count = PartialKnobs.of(config).unfrozen_layers
        if count > len(layers):
            raise InputError(
                f"unfrozen_layers must be at most the model's {len(layers)} layers, but got {count}",
                fix=f"use 1 to {len(layers)}, or full fine-tuning",
            )
        owners = [f"{layers_name}.{index}" for index in range(len(layers) - count, len(layers))]
        owners += final_norms(model)
        if not _is_language_model(model):
            owners += head_modules(model)
        return {name for name, _ in model.named_parameters() if any(name.startswith(f"{owner}.") for owner in owners)}


def _is_language_model(model: nn.Module) -> bool:
    getter = getattr(model, "get_output_embeddings", None)
    return getter is not None and getter() is not None
