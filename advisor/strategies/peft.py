"""Any method that PEFT can build, from its configuration as JSON."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import Optimizer
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import task_traits
from advisor.strategies.adapters import AdapterStrategy, TargetKnobs
from advisor.strategies.lora import lora_learning_rate
from advisor.strategies.peft_rules import PREFIXES, PeftUse, added_tokens, broken_rules

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_LAYERS_APART = (
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "exclude_modules"),
    "layer_replication",
)
"""Fields of PEFT's configurations that treat some layers unlike others."""

_PUBLISHED_AS = {"LORA": "lora", "IA3": "ia3", "HIRA": "hira"}
"""The strategy whose published comparisons speak for a ``peft_type``."""

_WITHOUT_VALUES = ("meta tensor", "tensor subclass", "data is not allocated yet")
"""How torch says that a tensor without values was asked for them."""


def _default_config() -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1}


@dataclass(frozen=True)
class PeftKnobs(TargetKnobs):
    """What PEFT builds.

    Attributes:
        peft_config: PEFT's own configuration as JSON, with its ``peft_type``.
    """

    peft_config: dict[str, Any] = field(default_factory=_default_config)

    @property
    def kind(self) -> str:
        """The configuration's ``peft_type`` in upper case; empty where it names none."""
        return str(self.peft_config.get("peft_type", "")).upper()

    def described(self) -> tuple[str, ...]:
        return (*super().described(), self.kind.lower())


class AnyPeft(AdapterStrategy):
    """Any configuration of PEFT; task, targets and heads are filled in where they are missing."""

    name = "peft"
    title = "PEFT configuration"
    defaults_source = "the user's PEFT configuration; missing fields: PEFT's own defaults; learning rate as LoRA"
    user_knob = "peft_config"
    user_knob_title = "a PEFT configuration"
    knobs = PeftKnobs
    own_optimizers: frozenset[Optimizer] = frozenset({"lorafa"})

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=lora_learning_rate(model), knobs=PeftKnobs())

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        import copy

        from advisor.strategies.skeleton import build_skeleton

        try:
            self.apply(copy.deepcopy(build_skeleton(model)), config, model.task)
        except InputError as failure:
            fix = f"; {failure.fix}" if failure.fix else ""
            return [f"{failure.message}{fix}", *failure.problems]
        except Exception:
            # ``apply`` lets only this through: the method looks at weights (AdaMSS clusters them); a skeleton has none.
            return []
        return []

    def checkpointing_refusal(self, config: StrategyConfig) -> tuple[str, str] | None:
        kind = PeftKnobs.of(config).kind
        if kind not in PREFIXES:
            return None
        return (
            f"PEFT's {kind} does not work with gradient checkpointing: a recomputed layer gets no past_key_values",
            "switch gradient_checkpointing off, or use P_TUNING",
        )

    def added_tokens(self, config: StrategyConfig) -> int:
        knobs = PeftKnobs.of(config)
        return added_tokens(knobs.kind, knobs.peft_config)

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        apart = any(PeftKnobs.of(config).peft_config.get(key) for key in _LAYERS_APART)
        return None if apart else super().uneven_layers(config)

    def quality_family(self, config: StrategyConfig) -> str:
        return _PUBLISHED_AS.get(PeftKnobs.of(config).kind, self.name)

    def target_names(self, model: nn.Module, config: StrategyConfig) -> tuple[str, ...]:
        from advisor.strategies.peft_targets import default_targets

        return default_targets(model, PeftKnobs.of(config).kind)

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        import peft
        import torch

        wanted = self.peft_config(model, config, self._shared(model, config, task))
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        try:
            return peft.get_peft_model(model, wanted)
        except Exception as failure:
            if _misses_values(failure, on_meta) or isinstance(failure, MemoryError | torch.OutOfMemoryError):
                raise
            reason = " ".join(str(failure).split())
            if not isinstance(failure, ValueError | TypeError | NotImplementedError):
                reason = f"{type(failure).__name__}: {reason}"
            raise InputError(f"PEFT refuses {wanted.peft_type.value} on {type(model).__name__}: {reason}") from failure

    def _shared(self, model: nn.Module, config: StrategyConfig, task: Task) -> dict[str, Any]:
        from advisor.strategies.targets import head_modules

        traits = task_traits(task)
        return {
            "task": traits,
            "task_type": traits.peft_task_type,
            "modules_to_save": list(head_modules(model)) if traits.new_head else [],
        }

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        knobs = PeftKnobs.of(config)
        kind, values, config_class = knobs.kind, dict(knobs.peft_config), _config_class(knobs)
        values.pop("peft_type", None)
        known = {field.name for field in fields(config_class)}
        _refuse_unknown_keys(values, known, config_class.__name__)
        _refuse_broken_rules(PeftUse(kind, values, shared["task"], _model_type(model), _learns_prompts(config_class)))
        if shared["modules_to_save"]:
            values["modules_to_save"] = sorted({*(values.get("modules_to_save") or ()), *shared["modules_to_save"]})
        values |= {"task_type": shared["task_type"]}
        _fill_in(model, kind, values, knobs.target_modules)
        try:
            return config_class(**{key: value for key, value in values.items() if key in known})
        except Exception as failure:
            raise InputError(f"{config_class.__name__} refuses its values: {failure}") from failure

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        """What PEFT marked: a configuration may also train biases, norms or prompt embeddings."""
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _config_class(knobs: PeftKnobs) -> Any:
    """The PEFT class that the ``peft_type`` names."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {str(kind.value).upper(): config_class for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if knobs.kind not in classes:
        near = difflib.get_close_matches(knobs.kind, list(classes), n=3, cutoff=0.5) or sorted(classes)
        raise InputError(
            f"a PEFT configuration must name a peft_type that PEFT has, but got {knobs.peft_config.get('peft_type')!r}",
            fix=f"use {', '.join(near)}",
        )
    return classes[knobs.kind]


def _refuse_unknown_keys(values: dict[str, Any], known: set[str], class_name: str) -> None:
    problems = []
    for key in sorted(set(values) - known):
        near = difflib.get_close_matches(key, sorted(known), n=1)
        problems.append(f"{key!r} is no field of it" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise InputError(
            f"the configuration must fit {class_name}", problems=problems, fix="correct or remove these keys"
        )


def _refuse_broken_rules(use: PeftUse) -> None:
    broken = broken_rules(use)
    if broken:
        (message, fix), *others = broken
        raise InputError(message, fix=fix, problems=[problem for problem, _ in others])


def _fill_in(model: nn.Module, kind: str, values: dict[str, Any], preset: Any) -> None:
    """Add, in place, what PEFT would want to be told about this model: targets, storage order, IA3's feed-forward."""
    from advisor.strategies.peft_targets import stored_transposed, target_modules

    if not values.get("target_parameters"):
        given = values.get("target_modules") or preset
        values["target_modules"] = target_modules(model, kind, given, values.get("layers_to_transform"))
    targets = values.get("target_modules")
    values.setdefault("fan_in_fan_out", stored_transposed(model, targets))
    values.setdefault("hidden_size", getattr(model.config, "hidden_size", None))
    if kind == "IA3" and "feedforward_modules" not in values and isinstance(targets, list):
        from advisor.strategies.ia3 import feedforward_targets

        values["feedforward_modules"] = feedforward_targets(model, targets)


def _model_type(model: nn.Module) -> str:
    return str(getattr(model.config, "model_type", type(model).__name__))


def _learns_prompts(config_class: Any) -> bool:
    from peft import PromptLearningConfig

    return isinstance(config_class, type) and issubclass(config_class, PromptLearningConfig)


def _misses_values(failure: Exception, on_meta: bool) -> bool:
    """Whether a method failed only because it looked at values that a fake or meta tensor does not have."""
    from torch._subclasses import fake_tensor

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
