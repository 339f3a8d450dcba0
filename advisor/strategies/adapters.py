"""What the methods that PEFT implements have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import AdvisorError, InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.serialization import to_dict
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.core.tasks import task_traits
from advisor.strategies.base import CategoricalDimension, Dimension, IntDimension, Strategy
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import (
    backbone_linears,
    head_modules,
    is_conv1d,
    linear_shape,
    resolve_targets,
    shortest_suffixes,
)

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


_WITHOUT_VALUES = ("meta tensor", "tensor subclass", "data is not allocated yet")
"""How torch says that a tensor without values was asked for them."""


@dataclass(frozen=True)
class TargetKnobs(Knobs):
    """Where adapters sit.

    Attributes:
        target_modules: ``"attention"`` (query and value projections), ``"all-linear"``, or module name suffixes;
            ``None`` leaves it to the method.
    """

    target_modules: str | tuple[str, ...] | None = None

    def described(self) -> tuple[str, ...]:
        targets = self.target_modules
        return (targets if isinstance(targets, str) else "+".join(targets),) if targets else ()


@dataclass(frozen=True)
class RankKnobs(TargetKnobs):
    """Adapters with a rank.

    Attributes:
        rank: As in PEFT.
        lora_dropout: Share of the adapters' inputs that is dropped.
    """

    target_modules: str | tuple[str, ...] = "attention"
    rank: int = 8
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank >= 1 must hold, but got {self.rank}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"0 <= lora_dropout < 1 must hold, but got {self.lora_dropout}")

    def described(self) -> tuple[str, ...]:
        return (f"r={self.rank}", *super().described())


PRESETS = ("attention", "all-linear")
"""Names for groups of modules, in place of the modules' own."""


def names_layers(given: Any) -> bool:
    """Whether module names may tell layers apart: a regular expression, or a name that holds a number."""
    if isinstance(given, str):
        return given not in PRESETS
    return any(part.isdigit() for name in given or () for part in str(name).split("."))


class AdapterStrategy(Strategy):
    """Wraps the model with ``peft.get_peft_model``.

    For classification the whole head trains beside the adapters (``modules_to_save``, with the BERT pooler, which PEFT
    alone would leave as it is); language models keep their head.
    """

    knobs: type[Knobs] = TargetKnobs
    trains_base_weights = False
    stateful = False
    saves_whole_model = False

    def target_names(self, model: nn.Module, config: StrategyConfig) -> tuple[str, ...]:
        """Full names of the layers that get an adapter."""
        return resolve_targets(model, TargetKnobs.of(config).target_modules)

    @abstractmethod
    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        """The method's PEFT configuration.

        Args:
            model: Freshly built, before wrapping.
            config: The strategy's knobs.
            shared: ``task_type``, ``target_modules``, ``modules_to_save`` and ``fan_in_fan_out`` for this model.
        """

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return None if names_layers(TargetKnobs.of(config).target_modules) else 0

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        import peft
        import torch

        try:
            wanted = self.peft_config(model, config, self._shared(model, config, task))
            return peft.get_peft_model(model, wanted)
        except AdvisorError:
            raise
        except Exception as failure:
            if _misses_values(failure, model) or isinstance(failure, MemoryError | torch.OutOfMemoryError):
                raise
            reason = " ".join(str(failure).split())
            if not isinstance(failure, ValueError | TypeError | NotImplementedError):
                reason = f"{type(failure).__name__}: {reason}"
            raise InputError(f"PEFT refuses {self.peft_name(config)} on {type(model).__name__}: {reason}") from failure

    def peft_name(self, config: StrategyConfig) -> str:
        """What messages call the method."""
        return self.name

    def _shared(self, model: nn.Module, config: StrategyConfig, task: Task) -> dict[str, Any]:
        names, traits = self.target_names(model, config), task_traits(task)
        return {
            "task_type": traits.peft_task_type,
            "target_modules": shortest_suffixes(model, names),
            "modules_to_save": list(head_modules(model)) if traits.new_head else None,
            "fan_in_fan_out": all(is_conv1d(model.get_submodule(name)) for name in names),
        }

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

        kind = model.active_peft_config.peft_type
        marks = (PEFT_TYPE_TO_PREFIX_MAPPING[kind], ".modules_to_save.default.")
        return {name for name, _ in model.named_parameters() if any(mark in name for mark in marks)}

    def save(self, model: nn.Module, directory: Path) -> None:
        """The adapter in PEFT's format. No embeddings are resized here, which PEFT would ask a hub about."""
        model.save_pretrained(directory, save_embedding_layers=False)


class RankedStrategy(AdapterStrategy):
    """An adapter with a rank, checked against the layers it is put on."""

    knobs: type[Knobs] = RankKnobs
    lowest_rank, highest_rank = 1, 64
    """Ranks worth searching, both included."""

    def trace_key(self, config: StrategyConfig) -> dict[str, Any]:
        """Any dropout is the same operator, and scales are factors of one."""
        knobs = RankKnobs.of(config)
        return {"target_modules": to_dict(knobs.target_modules), "dropout": knobs.lora_dropout > 0}

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        highest = self.largest_rank(model)
        return {
            "rank": IntDimension(min(self.lowest_rank, highest), highest, log=True),
            "target_modules": CategoricalDimension(PRESETS),
            **super().search_space(model),
        }

    @kept_on_disk
    def largest_rank(self, model: ModelSpec) -> int:
        """Largest rank of the search: ``highest_rank``, or the narrowest linear layer where that is less."""
        skeleton = build_skeleton(model)
        return min([self.highest_rank, *_widths(skeleton, backbone_linears(skeleton)).values()])

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        skeleton = build_skeleton(model)
        try:
            widths = _widths(skeleton, self.target_names(skeleton, config))
        except InputError as failure:
            return [str(failure)]
        narrowest = min(widths, key=lambda name: widths[name])
        rank = RankKnobs.of(config).rank
        if rank > widths[narrowest]:
            return [f"rank <= {widths[narrowest]} (the smaller side of {narrowest}) must hold, but got {rank}"]
        return []


def _widths(model: nn.Module, names: tuple[str, ...]) -> dict[str, int]:
    """The smaller side of each linear layer: a larger rank would have more parameters than the layer itself."""
    return {name: min(linear_shape(model.get_submodule(name))) for name in names}


def _misses_values(failure: Exception, model: nn.Module) -> bool:
    """Whether a method failed only because it looked at values that a fake or meta tensor does not have."""
    from torch._subclasses import fake_tensor

    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if on_meta and isinstance(failure, RuntimeError):
        # PEFT, too, raises NotImplementedError for values that it does not know; torch's names the meta device.
        return not isinstance(failure, NotImplementedError) or "meta" in str(failure).lower()
    unsupported = tuple(value for value in vars(fake_tensor).values() if _is_exception(value))
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, unsupported) or any(mark in str(cause).lower() for mark in _WITHOUT_VALUES):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("torch._subclasses")
