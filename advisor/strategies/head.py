"""Head only: the backbone is a fixed feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import StrategyConfig
from advisor.strategies.base import Strategy

if TYPE_CHECKING:
    from torch import nn


class HeadOnly(Strategy):
    """Trains the classification head (with the pooler), or the output projection of a language model.

    A language model's output projection is often the embedding matrix itself. Training that one weight would also train
    the embeddings and drag the backward pass through all layers, which is no head-only method any more. The output
    projection is therefore untied: it starts as a copy and trains alone (the model grows by vocabulary x width).
    """

    name = "head"
    title = "head only"
    defaults_source = (
        "learning rate 1e-3: the default of torch.optim.Adam; a head on frozen features is a convex problem"
    )
    stateful = False
    backpropagates_to_inputs = False

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=1e-3)

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return 0

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        from advisor.strategies.untie import untie_output_embeddings

        untie_output_embeddings(model)
        trained = self.declared_trainable(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def save(self, model: nn.Module, directory: Path) -> None:
        from advisor.strategies.untie import unshared_state

        model.save_pretrained(directory, state_dict=unshared_state(model))

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        from advisor.strategies.targets import head_modules

        heads = head_modules(model)
        return {name for name, _ in model.named_parameters() if any(name.startswith(f"{head}.") for head in heads)}
