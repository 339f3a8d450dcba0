"""LoRA and QLoRA whose adapter weights are pruned by magnitude while they train (Yadav et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.base import Dimension, FloatDimension
from advisor.strategies.lora import Lora, LoraKnobs
from advisor.strategies.qlora import QLora, QLoraKnobs

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback


@dataclass(frozen=True)
class _SparseKnobs(LoraKnobs):
    """How sparse adapters become.

    Attributes:
        sparsity: Final share of zeroed adapter weights.
        l1_lambda: Coefficient of the L1 penalty.
    """

    sparsity: float = 0.5
    l1_lambda: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"0 <= sparsity < 1 must hold, but got {self.sparsity}")
        if self.l1_lambda < 0:
            raise ValueError(f"l1_lambda >= 0 must hold, but got {self.l1_lambda}")

    def described(self) -> tuple[str, ...]:
        return (*super().described(), f"sparsity {self.sparsity:g}")


@dataclass(frozen=True)
class SparseLoraKnobs(_SparseKnobs):
    """LoRA's, and how sparse its adapters become."""


@dataclass(frozen=True)
class SparseQLoraKnobs(_SparseKnobs, QLoraKnobs):
    """QLoRA's, and how sparse its adapters become."""


class _Sparse(Lora):
    """What pruning adds to a method that trains LoRA factors."""

    own_optimizers = frozenset()  # masks and penalty want both factors to train

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return super().search_space(model) | {"sparsity": FloatDimension(0.1, 0.9)}

    def callbacks(self, config: StrategyConfig) -> list[TrainerCallback]:
        from advisor.strategies.sparsity import SparsityCallback

        knobs = _SparseKnobs.of(config)
        return [SparsityCallback(knobs.sparsity, knobs.l1_lambda)]

    def achieved_sparsity(self, model: nn.Module) -> float | None:
        from advisor.strategies.sparsity import achieved_sparsity

        return achieved_sparsity(model)


class SparseLora(_Sparse):
    """LoRA with a cubic schedule of magnitude masks and an L1 penalty; the mask is fixed for the last quarter."""

    name = "sparse_lora"
    title = "sparse LoRA"
    knobs = SparseLoraKnobs
    builds_as = "lora"
    defaults_source = (
        "final sparsity 0.5, cubic schedule, L1 1e-5: Yadav et al. 2025 (Benchmarking Parameter-Efficient "
        "Fine-Tuning); everything else as LoRA"
    )


class SparseQLora(_Sparse, QLora):
    """QLoRA whose adapters are pruned as those of sparse LoRA are: the weights below them stay in 4 bits."""

    name = "sparse_qlora"
    title = "sparse QLoRA"
    knobs = SparseQLoraKnobs
    builds_as = "qlora"
    defaults_source = "storage as QLoRA, sparsity as sparse LoRA; no study has combined them"
