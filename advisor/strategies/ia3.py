"""IA3: learned vectors that rescale keys, values and feed-forward activations (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.adapters import AdapterStrategy, TargetKnobs
from advisor.strategies.base import for_task, is_large
from advisor.strategies.targets import attention_linears, feedforward_outputs, matches, resolve_targets

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class IA3(AdapterStrategy):
    """One vector per key and value projection (on its output) and per feed-forward block (its last layer's input)."""

    name = "ia3"
    title = "IA3"
    defaults_source = (
        "keys, values and feed-forward: Liu et al. 2022; learning rate 3e-3 from one billion parameters on: their "
        "T-Few recipe (T0-3B, 11B); 8e-3 below: the IA3 guide of the PEFT documentation"
    )

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        learning_rate = 3e-3 if is_large(model) else 8e-3
        return StrategyConfig(method=self.name, learning_rate=for_task(model, learning_rate), knobs=TargetKnobs())

    def target_names(self, model: nn.Module, config: StrategyConfig) -> tuple[str, ...]:
        targets = TargetKnobs.of(config).target_modules
        return rescaled_modules(model) if targets is None else resolve_targets(model, targets)

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        import peft

        return peft.IA3Config(feedforward_modules=feedforward_targets(model, shared["target_modules"]), **shared)


def rescaled_modules(model: nn.Module) -> tuple[str, ...]:
    """Full names of the key and value projections and the feed-forward outputs."""
    return tuple(dict.fromkeys([*attention_linears(model, ("key", "value")), *feedforward_outputs(model)]))


def feedforward_targets(model: nn.Module, targets: list[str]) -> list[str]:
    """Those of ``targets`` that are feed-forward outputs, in the same spelling (PEFT wants a subset)."""
    outputs = feedforward_outputs(model)
    return [target for target in targets if any(matches(name, target) for name in outputs)]
