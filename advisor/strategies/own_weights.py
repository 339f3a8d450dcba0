"""Methods that train weights of the model itself: all of them, the last layers, or the head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.strategies.base import Dimension, IntDimension, Strategy, for_task, is_large
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import backbone_layers, final_norms, head_modules

if TYPE_CHECKING:
    import torch
    from torch import nn


class OwnWeights(Strategy):
    """Trains what ``declared_trainable`` names and freezes the rest; all layers are alike."""

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return 0

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        trained = self.declared_trainable(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model


class FullFineTuning(OwnWeights):
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
        return StrategyConfig(method=self.name, learning_rate=for_task(model, 2e-5 if is_large(model) else 5e-5))

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        return {name for name, _ in model.named_parameters()}


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


class PartialFineTuning(OwnWeights):
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
            learning_rate=for_task(model, 2e-5 if is_large(model) else 5e-5),
            knobs=PartialKnobs(min(PartialKnobs.unfrozen_layers, model.num_hidden_layers)),
        )

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {"unfrozen_layers": IntDimension(1, model.num_hidden_layers), **super().search_space(model)}

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        try:
            self.declared_trainable(build_skeleton(model), config)
        except InputError as failure:
            return [failure.message]
        return []

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return PartialKnobs.of(config).unfrozen_layers

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
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

    def frozen_first_layers(self, model: nn.Module, config: StrategyConfig) -> int:
        _, layers = backbone_layers(model)
        return max(0, len(layers) - PartialKnobs.of(config).unfrozen_layers)


def _is_language_model(model: nn.Module) -> bool:
    getter = getattr(model, "get_output_embeddings", None)
    return getter is not None and getter() is not None


class HeadOnly(OwnWeights):
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
        return StrategyConfig(method=self.name, learning_rate=for_task(model, 1e-3))

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        untie_output_embeddings(model)
        return super().apply(model, config, task, quantized=quantized)

    def save(self, model: nn.Module, directory: Path) -> None:
        model.save_pretrained(directory, state_dict=unshared_state(model))

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        heads = head_modules(model)
        return {name for name, _ in model.named_parameters() if any(name.startswith(f"{head}.") for head in heads)}

    def frozen_first_layers(self, model: nn.Module, config: StrategyConfig) -> int:
        return len(backbone_layers(model)[1])


def untie_output_embeddings(model: nn.Module) -> bool:
    """Give the output projection its own copy of a weight that it shares with the embeddings.

    The configuration is told, so that saving keeps both and loading does not tie them again.

    Returns:
        Whether anything was shared.
    """
    from torch import nn

    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    inputs = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if output is None or inputs is None or output.weight is not inputs.weight:
        return False
    output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=output.weight.requires_grad)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    return True


def unshared_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state with a copy of its own for every name.

    Masked-LM heads share their bias under two names. transformers stores a shared tensor once and ties it again on
    loading, which it no longer does for a model whose embeddings are untied.
    """
    seen: set[int] = set()
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return state
