"""A linear classifier on frozen features: one forward pass over the rows, and a fit instead of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.strategies.base import Dimension, Pooling, Strategy
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import head_linears, is_conv1d, linear_shape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LinearProbeKnobs(Knobs):
    """Where features come from.

    Attributes:
        pooling: ``"mean"`` over the tokens, or the model's ``"own"``. The result of the latter is an ordinary model of
            transformers; of the former it is the encoder with a classifier beside it.
    """

    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "own"):
            raise ValueError(f"pooling must be mean or own, but got {self.pooling!r}")


class LinearProbe(Strategy):
    """Logistic regression on features of the frozen model, its strength chosen by cross-validation.

    The weights of the model's output layer stand for the classifier: they are what is counted as trainable, and with
    the model's own pooling they are where it is written. Learning rate, weight decay and epochs mean nothing here.
    """

    name = "linear_probe"
    title = "linear probe"
    defaults_source = (
        "logistic regression on mean-pooled features: Alain and Bengio 2017 (linear probes), Reimers and Gurevych 2019 "
        "(mean pooling); no learning rate and no epochs: the strength is chosen by cross-validation"
    )
    knobs = LinearProbeKnobs
    trains_base_weights = False
    stateful = False
    alternatives = ("lora", "head")
    backpropagates_to_inputs = False
    fits_frozen_features = True

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(
            method=self.name, learning_rate=1.0, num_train_epochs=1.0, knobs=LinearProbeKnobs(), weight_decay=0.0
        )

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {}

    def applies_to(self, model: ModelSpec) -> str | None:
        if model.traits.one_class_per_row:
            return None
        return f"it classifies whole rows, each with one class, but the task is {model.traits.title}"

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        try:
            output_layer_name(build_skeleton(model))
        except InputError as failure:
            return [failure.message]
        return []

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        fitted = self.declared_trainable(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in fitted)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        layer = output_layer_name(model)
        return {f"{layer}.{name}" for name, _ in model.get_submodule(layer).named_parameters()}

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return 0

    def pooling(self, config: StrategyConfig) -> Pooling:
        return LinearProbeKnobs.of(config).pooling

    def quality_family(self, config: StrategyConfig) -> str:
        return "head"


def output_layer_name(model: nn.Module) -> str:
    """Name of the linear layer at the end of the head that gives one score a class.

    Raises:
        InputError: there is none.
    """
    classes = int(getattr(model.config, "num_labels", 0))
    for name in reversed(head_linears(model)):
        module = model.get_submodule(name)
        if not is_conv1d(module) and linear_shape(module)[1] == classes:
            return name
    raise InputError(
        f"a linear probe needs a head that ends in a linear layer with one output a class, but {type(model).__name__}"
        " has none",
        fix="use another method",
    )
