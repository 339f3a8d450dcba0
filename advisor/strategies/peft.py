"""Any method that PEFT can build, from its configuration as JSON."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies.adapters import AdapterStrategy
from advisor.strategies.base import LR_REL, Dimension
from advisor.strategies.lora import lora_learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

DEFAULT_PEFT_CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1}


class AnyPeft(AdapterStrategy):
    """``StrategyConfig.peft_config`` as PEFT reads it; task, targets and heads are filled in where they are missing."""

    name = "peft"
    title = "PEFT configuration"
    defaults_source = "the user's PEFT configuration; missing fields: PEFT's own defaults; learning rate as LoRA"
    needs_user_config = True

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(
            method=self.name, learning_rate=lora_learning_rate(model), peft_config=dict(DEFAULT_PEFT_CONFIG)
        )

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {"lr_rel": LR_REL}

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        import copy

        from advisor.strategies.skeleton import build_skeleton

        try:
            self.apply(copy.deepcopy(build_skeleton(model)), config, model.task)
        except InputError as failure:
            return [failure.message, *failure.problems]
        return []

    def target_names(self, model: nn.Module, config: StrategyConfig) -> tuple[str, ...]:
        from advisor.strategies.ia3 import IA3
        from advisor.strategies.targets import resolve_targets

        wanted = (config.peft_config or {}).get("target_modules", config.target_modules)
        if wanted is None and str((config.peft_config or {}).get("peft_type", "")).upper() == "IA3":
            return IA3().target_names(model, config)
        return resolve_targets(model, tuple(wanted) if isinstance(wanted, list) else wanted)

    def peft_config(self, model: nn.Module, config: StrategyConfig, shared: dict[str, Any]) -> PeftConfig:
        values, config_class = _parsed(config.peft_config)
        known = {field.name for field in fields(config_class)}
        _refuse_unknown_keys(values, known, config_class.__name__)
        if shared["modules_to_save"]:
            values["modules_to_save"] = sorted({*(values.get("modules_to_save") or ()), *shared["modules_to_save"]})
        values |= {"task_type": shared["task_type"]}
        if not values.get("target_parameters"):
            values["target_modules"] = shared["target_modules"]
        values.setdefault("fan_in_fan_out", shared["fan_in_fan_out"])
        if "feedforward_modules" in known and "feedforward_modules" not in values:
            from advisor.strategies.ia3 import IA3

            values["feedforward_modules"] = IA3().feedforward_targets(model, config, shared["target_modules"])
        try:
            return config_class(**{key: value for key, value in values.items() if key in known})
        except (TypeError, ValueError) as failure:
            raise InputError(f"{config_class.__name__} refuses its values: {failure}") from failure

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        """What PEFT marked: a configuration may also train biases, norms or prompt embeddings."""
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _parsed(given: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
    """The configuration without its ``peft_type``, and the PEFT class that this names."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    values = dict(given or {})
    classes = {str(kind.value).upper(): config_class for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = str(values.pop("peft_type", "")).upper()
    if kind not in classes:
        near = difflib.get_close_matches(kind, list(classes), n=3, cutoff=0.5) or sorted(classes)
        raise InputError(
            f"a PEFT configuration must name a peft_type that PEFT has, but got {(given or {}).get('peft_type')!r}",
            fix=f"use {', '.join(near)}",
        )
    return values, classes[kind]


def _refuse_unknown_keys(values: dict[str, Any], known: set[str], class_name: str) -> None:
    problems = []
    for key in sorted(set(values) - known):
        near = difflib.get_close_matches(key, sorted(known), n=1)
        problems.append(f"{key!r} is no field of it" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise InputError(
            f"the configuration must fit {class_name}", problems=problems, fix="correct or remove these keys"
        )
