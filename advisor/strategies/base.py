"""What every fine-tuning method implements, and the dimensions of its search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Quantization, StrategyConfig

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

LARGE_PARAMETERS = 1_000_000_000
"""From here on the published defaults for large language models apply (the smallest models they were stated for)."""


@dataclass(frozen=True)
class IntDimension:
    """Integers from ``low`` to ``high``, both included; powers of two when ``log``."""

    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True)
class FloatDimension:
    """Numbers from ``low`` to ``high``."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class CategoricalDimension:
    """One of ``choices``."""

    choices: tuple[str, ...]


Dimension = IntDimension | FloatDimension | CategoricalDimension

LR_REL = FloatDimension(0.25, 4.0, log=True)
"""Every method's learning rate is searched as a multiple of its own default: two octaves to either side."""


class Strategy(ABC):
    """A fine-tuning method.

    Call order of a run: ``problems`` -> ``quantization`` (before the weights are loaded) -> ``apply`` (once, on the
    loaded model) -> ``callbacks`` -> training -> ``save``. The cost model calls ``apply`` on fake parameters, so it
    must not read their values. Instances hold no state.

    Attributes:
        name: Registry name and ``StrategyConfig.method``.
        title: How it is called in prose.
        defaults_source: Where the default hyper-parameters come from.
        backpropagates_to_inputs: Whether trainable parameters sit as deep as the first layer. Gradient checkpointing
            then lets the embeddings' output require gradients, as transformers does; methods that leave the first
            layers alone must not pay for a backward pass through them.
        needs_user_config: Whether the method means nothing without the user's own configuration; such a method is never
            recommended unasked.
        builds_as: Another method whose model and step have the same operators at the same rank, so that its trace
            serves.
        saves_whole_model: Whether ``save`` writes all weights, so that ``load`` needs none of the base model's.
    """

    name: str
    title: str
    defaults_source: str
    backpropagates_to_inputs: bool = True
    needs_user_config: bool = False
    builds_as: str | None = None
    saves_whole_model: bool = True

    @abstractmethod
    def default_config(self, model: ModelSpec) -> StrategyConfig:
        """The method's published defaults for a model of this kind and size."""

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        """Statistical knobs worth searching, by ``StrategyConfig`` field; ``lr_rel`` is the learning rate's."""
        return {"lr_rel": LR_REL}

    @abstractmethod
    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        """Freeze and wrap; returns the model to train (the same object where nothing is wrapped).

        Args:
            model: Freshly built, real, meta or fake.
            config: This method's knobs.
            task: Which head the model has.
            quantized: Whether frozen linear layers are stored in 4 bits.

        Raises:
            InputError: the knobs do not fit the model.
        """

    @abstractmethod
    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        """Names of the parameters of the applied ``model`` that this method says it trains."""

    def quantization(self, config: StrategyConfig, *, device_type: str) -> Quantization | None:
        """How frozen weights are stored; ``None`` keeps them as loaded."""
        return None

    def applies_to(self, model: ModelSpec) -> str | None:
        """Why the method cannot be used on ``model`` at all; ``None`` when it can."""
        return None

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        """What is wrong with ``config`` for ``model``, one sentence each; empty when nothing is."""
        return []

    def callbacks(self, config: StrategyConfig) -> list[TrainerCallback]:
        """Callbacks that the method needs during training."""
        return []

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write what was trained in the format of transformers (whole model, safetensors)."""
        model.save_pretrained(directory)

    def load(self, base: nn.Module, directory: Path, config: StrategyConfig, task: Task) -> nn.Module:
        """The trained model again.

        Args:
            base: The model before ``apply``, freshly built; without weights where ``saves_whole_model``.
            directory: Where ``save`` wrote.
            config: The knobs it was trained with.
            task: Which head the model has.
        """
        from advisor.strategies.checkpoint import load_whole_model

        return load_whole_model(base, directory)

    def configured(self, model: ModelSpec, **knobs: Any) -> StrategyConfig:
        """The default configuration with some knobs replaced.

        ``lr_rel`` multiplies the default learning rate; alpha keeps its default ratio to the rank unless it is given.

        Raises:
            InputError: an unknown knob or an invalid value.
        """
        from dataclasses import fields, replace

        default = self.default_config(model)
        known = {field.name for field in fields(StrategyConfig)}
        if unknown := sorted(set(knobs) - known):
            raise InputError(
                f"a strategy has no knob {', '.join(unknown)}", fix=f"use some of {', '.join(sorted(known))}"
            )
        if "lr_rel" in knobs and "learning_rate" not in knobs:
            knobs["learning_rate"] = default.learning_rate * knobs["lr_rel"]
        if default.rank and default.lora_alpha and knobs.get("rank") and "lora_alpha" not in knobs:
            knobs["lora_alpha"] = max(1, round(default.lora_alpha * knobs["rank"] / default.rank))
        try:
            return replace(default, **knobs)
        except ValueError as failure:
            raise InputError(f"{self.name}: {failure}") from None


def is_large(model: ModelSpec) -> bool:
    """Whether the defaults published for large language models apply."""
    return model.total_parameters >= LARGE_PARAMETERS
