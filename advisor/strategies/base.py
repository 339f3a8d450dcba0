"""What every fine-tuning method implements, and the dimensions of its search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import Optimizer
from advisor.core.serialization import from_dict, to_dict
from advisor.core.strategy import SHARED_KNOBS, Knobs, Quantization, StrategyConfig

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

Pooling = Literal["mean", "own"]
"""How a row's features are made of its tokens. ``"mean"``: over the last hidden states that are not padding (Reimers
and Gurevych 2019). ``"own"``: what the linear layer that gives the model's own scores reads, at the place where the
model reads them."""

LR_REL = FloatDimension(0.25, 4.0, log=True)
"""Every method's learning rate is searched as a multiple of its own default: two octaves to either side."""


class Strategy(ABC):
    """A fine-tuning method.

    Call order of a run: ``problems`` -> ``quantization`` (before the weights are loaded) -> ``apply`` (once, on the
    loaded model) -> ``callbacks`` -> training -> ``save``. The cost model calls ``apply`` on fake parameters, so it
    must not read their values. Instances hold no state.

    Nobody outside this package asks for a strategy's name to decide anything: what others need to know is said by the
    attributes and methods below, so that a strategy of another distribution is planned, priced and run as a built-in.

    Attributes:
        name: Registry name and ``StrategyConfig.method``.
        title: How it is called in prose.
        defaults_source: Where the default hyper-parameters come from.
        knobs: Class of the strategy's own knobs.
        trains_base_weights: Whether weights of the model itself train, its head included, in the data type that they
            are stored in. Then they need float32 master weights or lose updates; adapters beside frozen weights are
            float32 anyway.
        trains_all_weights: Whether every weight trains: gradients and optimizer states are as large as the model.
        stateful: Whether most weights have gradients and optimizer states.
        stores_4bit_weights: Whether ``quantization`` stores frozen weights in 4 bits, which needs bitsandbytes.
        own_optimizers: Optimizers that only work with this kind of adapters (``"lorafa"``); optimizers of plain
            parameters work with every strategy.
        alternatives: Registry names of the strategies that people weigh against this one.
        backpropagates_to_inputs: Whether trainable parameters sit as deep as the first layer. Gradient checkpointing
            then lets the embeddings' output require gradients, as transformers does; methods that leave the first
            layers alone must not pay for a backward pass through them.
        user_knob: The knob without which the method means nothing, because only the user can say it; such a method is
            never recommended unasked.
        user_knob_title: What that is, in words.
        builds_as: Another method whose model and step have the same operators at the same rank, so that its trace
            serves. Not inherited: a subclass may build something else.
        may_share_across_layers: Whether layers may share parameters, in groups or by amounts that depend on how many
            layers there are. What ``uneven_layers`` says is then checked against the parameter counts at full depth.
        fits_frozen_features: Whether nothing is trained by gradients: rows pass through the frozen model once, and a
            classifier is fitted to what comes out. Epochs, learning rate and optimizer then mean nothing, a step is a
            forward pass, and ``declared_trainable`` names the weights that the classifier stands for. Pretrained
            weights are what it lives on, so that it is not considered unasked where there are none.
        packable: Whether several configurations can be trained in one forward pass over one frozen base: all that
            trains are LoRA layers of PEFT and copies of whole modules (``modules_to_save``).
        saves_whole_model: Whether ``save`` writes all weights, so that loading needs none of the base model's.
        merges_into: Registry name of the method whose trained model has the operators that this one's has once its
            adapters are merged into the weights (PEFT's ``merge_and_unload``); ``None`` where nothing is merged.
    """

    name: str
    title: str
    defaults_source: str
    knobs: type[Knobs] = Knobs
    trains_base_weights: bool = True
    trains_all_weights: bool = False
    stateful: bool = True
    stores_4bit_weights: bool = False
    own_optimizers: frozenset[Optimizer] = frozenset()
    alternatives: tuple[str, ...] = ("lora", "partial")
    backpropagates_to_inputs: bool = True
    user_knob: str | None = None
    user_knob_title: str = "a configuration"
    builds_as: str | None = None
    may_share_across_layers: bool = False
    fits_frozen_features: bool = False
    packable: bool = False
    saves_whole_model: bool = True
    merges_into: str | None = None

    @abstractmethod
    def default_config(self, model: ModelSpec) -> StrategyConfig:
        """The method's published defaults for a model of this kind and size."""

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        """Knobs worth searching, by name, shared or the strategy's own; ``lr_rel`` is the learning rate's."""
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

    def quantization(self, config: StrategyConfig) -> Quantization | None:
        """How frozen weights are stored; ``None`` keeps them as loaded.

        On a card they are computed with in the plan's data type, whatever ``compute_dtype`` says.
        """
        return None

    def applies_to(self, model: ModelSpec) -> str | None:
        """Why the method cannot be used on ``model`` at all; ``None`` when it can."""
        return None

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        """What is wrong with ``config`` for ``model``, one sentence each; empty when nothing is."""
        return []

    def trace_key(self, config: StrategyConfig) -> dict[str, Any]:
        """The knobs that decide which operators a step runs and what it allocates, as JSON values.

        Configurations with equal keys share a trace, so a knob may be left out only if it changes neither. The rank is
        left out: sizes are formulas of it.
        """
        return {name: value for name, value in to_dict(config.knobs).items() if name != "rank"}

    def checkpointing_refusal(self, config: StrategyConfig) -> tuple[str, str] | None:
        """Why gradient checkpointing does not work with ``config``, and the way out; ``None`` when it does."""
        return None

    def changed_base(self, config: StrategyConfig) -> str:
        """What changes the base weights before training, so that the model without its adapter is not the one that was
        loaded; empty where nothing does.
        """
        return ""

    def added_tokens(self, config: StrategyConfig) -> int:
        """By how many tokens every row is lengthened (learned prompts)."""
        return 0

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        """How many of the last layers ``apply`` treats unlike the others (0: none); ``None`` singles out others.

        With a number, a deep model is traced with few layers. With ``None``, which is always right, it is traced whole:
        that takes minutes for a deep model, so a method that treats layers alike should say so.
        """
        return None

    def frozen_first_layers(self, model: nn.Module, config: StrategyConfig) -> int:
        """How many of the first layers of a model compute the same in every epoch but for dropout: neither they nor
        anything before them trains.
        """
        return 0

    def remarks(self, config: StrategyConfig) -> list[str]:
        """What is worth saying about a configuration that is used."""
        return []

    def quality_family(self, config: StrategyConfig) -> str:
        """Under which method published comparisons list this one."""
        return self.name

    def pooling(self, config: StrategyConfig) -> Pooling:
        """How a method that fits frozen features pools them."""
        return "mean"

    def callbacks(self, config: StrategyConfig) -> list[TrainerCallback]:
        """Callbacks that the method needs during training."""
        return []

    def achieved_sparsity(self, model: nn.Module) -> float | None:
        """Share of zeros among the trained weights of a method that prunes; ``None`` of any other."""
        return None

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write what was trained in the format of transformers (whole model, safetensors)."""
        model.save_pretrained(directory)

    def configured(self, model: ModelSpec, **knobs: Any) -> StrategyConfig:
        """The default configuration with some knobs replaced, shared ones or the strategy's own.

        ``lr_rel`` multiplies the default learning rate.

        Raises:
            InputError: an unknown knob or an invalid value.
        """
        default = self.default_config(model)
        if "lr_rel" in knobs and "learning_rate" not in knobs:
            knobs["learning_rate"] = default.learning_rate * knobs["lr_rel"]
        own = self.own_knobs({name: value for name, value in knobs.items() if name not in SHARED_KNOBS})
        try:
            return default.replaced(**(knobs | own))
        except (ValueError, TypeError) as failure:
            raise InputError(f"{self.name}: {failure}") from None

    def own_knobs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the strategy's own knobs, as JSON or text, in the knobs' own types.

        Raises:
            InputError: an unknown knob or an invalid value.
        """
        known = [knob.name for knob in fields(self.knobs)]
        if unknown := sorted(set(values) - set(known)):
            own = f"its own are {', '.join(known)}" if known else "it has none of its own"
            raise InputError(
                f"the method {self.name} has no knob {', '.join(unknown)}",
                fix=f"leave it out; {own}, and every method has {', '.join(sorted(SHARED_KNOBS))}",
            )
        if not values:
            return {}
        try:
            typed = from_dict(self.knobs, to_dict(dict(values)), what=self.name)
        except InputError as failure:
            problems = [problem.removeprefix("(top level): ") for problem in failure.problems]
            raise InputError(f"{self.name}: {'; '.join(problems)}") from None
        return {name: getattr(typed, name) for name in values}


def is_large(model: ModelSpec) -> bool:
    """Whether the defaults published for large language models apply."""
    return model.total_parameters >= LARGE_PARAMETERS


def for_task(model: ModelSpec, learning_rate: float) -> float:
    """A learning rate that was published for supervised training, as the task of ``model`` wants it."""
    return learning_rate * model.traits.learning_rate_factor
