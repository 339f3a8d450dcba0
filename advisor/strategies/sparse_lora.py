"""LoRA whose adapter weights are pruned by magnitude while they train (Yadav et al. 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.base import Dimension, FloatDimension
from advisor.strategies.lora import Lora

if TYPE_CHECKING:
    from transformers import TrainerCallback

DEFAULT_SPARSITY = 0.5
DEFAULT_L1_LAMBDA = 1e-5


class SparseLora(Lora):
    """LoRA with a cubic schedule of magnitude masks and an L1 penalty; the mask is fixed for the last quarter."""

    name = "sparse_lora"
    title = "sparse LoRA"
    builds_as = "lora"
    defaults_source = (
        "final sparsity 0.5, cubic schedule, L1 1e-5: Yadav et al. 2025 (Benchmarking Parameter-Efficient "
        "Fine-Tuning); everything else as LoRA"
    )

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        from dataclasses import replace

        return replace(super().default_config(model), sparsity=DEFAULT_SPARSITY, l1_lambda=DEFAULT_L1_LAMBDA)

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return super().search_space(model) | {"sparsity": FloatDimension(0.1, 0.9)}

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        found = super().problems(config, model)
        if config.l1_lambda is not None and config.l1_lambda < 0:
            found.append(f"l1_lambda >= 0 must hold, but got {config.l1_lambda}")
        return found

    def callbacks(self, config: StrategyConfig) -> list[TrainerCallback]:
        from advisor.strategies.sparsity import SparsityCallback

        sparsity = DEFAULT_SPARSITY if config.sparsity is None else config.sparsity
        l1_lambda = DEFAULT_L1_LAMBDA if config.l1_lambda is None else config.l1_lambda
        return [SparsityCallback(sparsity, l1_lambda)]
