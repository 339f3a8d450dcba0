"""Any method that PEFT can build, from its configuration as JSON."""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.memo import kept_on_disk
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import Optimizer
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import TaskTraits, task_traits
from advisor.strategies.adapters import PRESETS, AdapterStrategy, TargetKnobs, names_layers
from advisor.strategies.ia3 import feedforward_targets, rescaled_modules
from advisor.strategies.lora import lora_learning_rate
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import (
    backbone,
    head_modules,
    is_conv1d,
    matches,
    resolve_targets,
    shortest_suffixes,
)

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_LAYERS_APART = ("layers_to_transform", "exclude_modules", "layer_replication", "adapter_layers", "target_svd_config")
"""Fields of PEFT's configurations that treat some layers unlike others, beside all whose name ends in ``_pattern``."""

_NAMES = ("target_modules", "feedforward_modules", "modules_to_save", "target_parameters")
"""Fields that name modules; a name may hold the number of a layer."""

_PUBLISHED_AS = {"LORA": "lora", "IA3": "ia3", "HIRA": "hira"}
"""The strategy whose published comparisons speak for a ``peft_type``."""

NEEDS_TASK_IDS = frozenset({"MULTITASK_PROMPT_TUNING", "POLY"})
"""Their forward pass raises without ``task_ids`` (multitask_prompt_tuning/model.py, poly/router.py)."""

PREFIXES = frozenset({"CARTRIDGE", "PREFIX_TUNING"})
"""They hand trained keys and values to every layer as ``past_key_values``."""

LENGTHENS = frozenset({"P_TUNING", "PROMPT_TUNING"})
"""They put ``num_virtual_tokens`` learned embeddings before every row; CPT puts its ``cpt_token_ids`` there."""

PLACED_BY_PEFT = frozenset({"ADAPTION_PROMPT", "SHADOW", "TRAINABLE_TOKENS"})
"""These do not wrap linear layers but attention blocks, decoder layers and the embeddings; PEFT finds them itself."""

DATA_DRIVEN = {
    "eva": "peft.initialize_lora_eva_weights",
    "corda": "peft.tuners.lora.corda.preprocess_corda",
    "lora_ga": "peft.tuners.lora.loraga.preprocess_loraga",
}
"""Values of ``init_lora_weights`` that need batches of the data before training, and what prepares them."""


MOVES_WEIGHTS = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Beginnings of the values that take a part of the base weights out of them and into the adapter (PiSSA, OLoRA, LoftQ,
CorDA, LoRA-GA; ``peft/tuners/lora/layer.py``)."""


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
    may_share_across_layers = True

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return StrategyConfig(method=self.name, learning_rate=lora_learning_rate(model), knobs=PeftKnobs())

    @kept_on_disk
    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        try:
            self.apply(copy.deepcopy(build_skeleton(model)), config, model.task)
        except InputError as failure:
            fix = f"; {failure.fix}" if failure.fix else ""
            return [f"{failure.message}{fix}", *failure.problems]
        except Exception:
            # ``apply`` lets only this through: the method looks at weights (AdaMSS clusters them); a skeleton has none.
            return []
        return []

    def remarks(self, config: StrategyConfig) -> list[str]:
        knobs = PeftKnobs.of(config)
        config_class = _config_class(knobs)
        unknown = sorted(set(knobs.peft_config) - {field.name for field in fields(config_class)} - {"peft_type"})
        if not unknown:
            return []
        return [
            f"keys without a value that {config_class.__name__} does not know are dropped, as PEFT does: "
            + ", ".join(map(repr, unknown))
        ]

    def checkpointing_refusal(self, config: StrategyConfig) -> tuple[str, str] | None:
        kind = PeftKnobs.of(config).kind
        if kind not in PREFIXES:
            return None
        return (
            f"PEFT's {kind} does not work with gradient checkpointing: a recomputed layer gets no past_key_values",
            "switch gradient_checkpointing off, or use P_TUNING",
        )

    def changed_base(self, config: StrategyConfig) -> str:
        init = str(PeftKnobs.of(config).peft_config.get("init_lora_weights")).lower()
        return f"init_lora_weights {init!r}" if init.startswith(MOVES_WEIGHTS) else ""

    def added_tokens(self, config: StrategyConfig) -> int:
        knobs = PeftKnobs.of(config)
        if knobs.kind == "CPT":
            return len(knobs.peft_config.get("cpt_token_ids") or [0])
        return int(knobs.peft_config.get("num_virtual_tokens") or 0) if knobs.kind in LENGTHENS else 0

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        values = PeftKnobs.of(config).peft_config
        apart = any(value and (key in _LAYERS_APART or key.endswith("_pattern")) for key, value in values.items())
        named = any(names_layers(values.get(key)) for key in _NAMES)
        return None if apart or named else super().uneven_layers(config)

    def quality_family(self, config: StrategyConfig) -> str:
        return _PUBLISHED_AS.get(PeftKnobs.of(config).kind, self.name)

    def target_names(self, model: nn.Module, config: StrategyConfig) -> tuple[str, ...]:
        return _default_targets(model, PeftKnobs.of(config).kind)

    def peft_name(self, config: StrategyConfig) -> str:
        return PeftKnobs.of(config).kind

    def _shared(self, model: nn.Module, config: StrategyConfig, task: Task) -> dict[str, Any]:
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
        model_type, prompts = str(model.config.model_type), _learns_prompts(config_class)
        if broken := _broken_rules(kind, values, shared["task"], model_type, prompts):
            (message, fix), *others = broken
            raise InputError(message, fix=fix, problems=[problem for problem, _ in others])
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
    """Unknown keys without a value do nothing: another version of PEFT saved them, and PEFT itself drops them."""
    problems = []
    for key in sorted(key for key in set(values) - known if values[key]):
        near = difflib.get_close_matches(key, sorted(known), n=1)
        problems.append(f"{key!r} is no field of it" + (f"; did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise InputError(
            f"the configuration must fit {class_name}", problems=problems, fix="correct or remove these keys"
        )


def _broken_rules(
    kind: str, values: dict[str, Any], task: TaskTraits, model_type: str, prompts: bool
) -> list[tuple[str, str]]:
    """What PEFT would fail on in its own words, as rules with values and the way out of each."""
    broken: list[tuple[str, str]] = []
    if values.get("inference_mode"):
        broken.append(("inference_mode must be false for training, but got true", "remove inference_mode"))
    if (init := str(values.get("init_lora_weights")).lower()) in DATA_DRIVEN:
        rule = (
            f"init_lora_weights {init!r} must be computed from batches of the data ({DATA_DRIVEN[init]}), which is not "
            "done here: training would start from other weights"
        )
        broken.append((rule, 'use "init_lora_weights": true, or "pissa" or "olora", which look at the weights alone'))
    if kind in NEEDS_TASK_IDS:
        rule = (
            f"{kind} trains on several tasks at once: PEFT's forward pass needs task_ids beside every batch, "
            "which one data set with one task does not have"
        )
        broken.append((rule, f"use {'PROMPT_TUNING' if kind.endswith('PROMPT_TUNING') else 'LORA'}"))
    length = values.get("num_virtual_tokens")
    if prompts and kind != "CPT" and not (isinstance(length, int) and length >= 1):
        rule = f"num_virtual_tokens >= 1 must hold for {kind}, but got {length}"
        broken.append((rule, 'add "num_virtual_tokens": 20'))
    if kind == "CPT" and not task.predicts_next_token:
        rule = f"CPT supports causal-lm only (PEFT's CPTConfig), but the task is {task.name}"
        broken.append((rule, "use PROMPT_TUNING"))
    elif prompts and task.peft_task_type is None:
        rule = (
            f"{kind} needs one of PEFT's task types, but PEFT has none for {task.name}: "
            "its plain PeftModel would ignore the prompt"
        )
        broken.append((rule, "use LORA, or another task"))
    if kind == "ADAPTION_PROMPT":
        broken += _adaption_prompt_problems(values, model_type)
    adapters = values.get("adapters") or {}
    if kind == "XLORA" and (not adapters or list(adapters) != [str(number) for number in range(len(adapters))]):
        found = f"got the names {', '.join(map(str, adapters))}" if adapters else "got none"
        rule = f"XLORA mixes LoRA adapters that exist already, named 0, 1, ... (PEFT numbers them), but {found}"
        broken.append((rule, 'add "adapters": {"0": "first/adapter", "1": "second/adapter"}'))
    return broken


def _adaption_prompt_problems(values: dict[str, Any], model_type: str) -> list[tuple[str, str]]:
    from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

    broken = []
    if model_type not in TRANSFORMERS_MODEL_CONFIG:
        supported = ", ".join(TRANSFORMERS_MODEL_CONFIG)
        broken.append((f"ADAPTION_PROMPT supports {supported} only, but got {model_type}", "use LORA"))
    for name, example in (("adapter_len", 10), ("adapter_layers", 2)):
        value = values.get(name)
        if not isinstance(value, int) or value < 1:
            broken.append((f"{name} >= 1 must hold for ADAPTION_PROMPT, but got {value}", f'add "{name}": {example}'))
    return broken


def _fill_in(model: nn.Module, kind: str, values: dict[str, Any], preset: Any) -> None:
    """Add, in place, what PEFT would want to be told about this model: targets, storage order, IA3's feed-forward."""
    if not values.get("target_parameters"):
        given = values.get("target_modules") or preset
        values["target_modules"] = _target_modules(model, kind, given, values.get("layers_to_transform"))
    targets = values.get("target_modules")
    values.setdefault("fan_in_fan_out", _stored_transposed(model, targets))
    values.setdefault("hidden_size", getattr(model.config, "hidden_size", None))
    if kind == "IA3" and "feedforward_modules" not in values and isinstance(targets, list):
        values["feedforward_modules"] = feedforward_targets(model, targets)


def _learns_prompts(config_class: Any) -> bool:
    from peft import PromptLearningConfig

    return isinstance(config_class, type) and issubclass(config_class, PromptLearningConfig)


def _target_modules(model: nn.Module, kind: str, given: Any, layers: Any = None) -> list[str] | str | None:
    """The ``target_modules`` for what the user gave: nothing, a preset, name suffixes, or a regular expression of PEFT.

    PEFT ignores ``layers``, the configuration's ``layers_to_transform``, for modules that are named in full.
    """
    if kind in PLACED_BY_PEFT:
        return given
    if given is None or (isinstance(given, str) and given in PRESETS):
        names = _default_targets(model, kind) if given is None else resolve_targets(model, given)
        suffixes = shortest_suffixes(model, names)
        return suffixes if layers is None or set(suffixes) != set(names) else _in_layers(names, layers)
    names = tuple(name for name, _ in model.named_modules())
    if isinstance(given, str):
        return given if _fits(given, names) else list(resolve_targets(model, given))
    suffixes = [str(suffix) for suffix in given]
    known = all(any(matches(name, suffix) for name in names) for suffix in suffixes)
    return suffixes if suffixes and known else list(resolve_targets(model, tuple(suffixes)))


def _default_targets(model: nn.Module, kind: str) -> tuple[str, ...]:
    """Full names of the modules a method is put on unasked: norms, IA3's own choice, or query and value projections."""
    if kind == "LN_TUNING":
        return _norm_modules(model)
    if kind == "IA3":
        return rescaled_modules(model)
    return resolve_targets(model, None)


def _norm_modules(model: nn.Module) -> tuple[str, ...]:
    """Full names of the backbone's normalisation layers (those with weights)."""
    heads = head_modules(model)
    inside = {id(module) for module in backbone(model).modules()}
    return tuple(
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and id(module) in inside
        and next(module.parameters(recurse=False), None) is not None
        and not any(name.startswith(f"{head}.") for head in heads)
    )


def _stored_transposed(model: nn.Module, targets: list[str] | str | None) -> bool:
    """Whether all targeted modules store their weight as (in, out), which PEFT calls ``fan_in_fan_out``."""

    def targeted(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(matches(name, target) for target in targets or ())

    modules = [module for name, module in model.named_modules() if targets and targeted(name)]
    return bool(modules) and all(is_conv1d(module) for module in modules)


def _in_layers(names: tuple[str, ...], layers: Any) -> list[str]:
    """The names inside these layers; the first number in a name is its layer."""
    wanted = {int(layers)} if isinstance(layers, int) else {int(layer) for layer in layers}
    numbered = [(name, re.search(r"\.(\d+)\.", name)) for name in names]
    return [name for name, found in numbered if found is None or int(found[1]) in wanted]


def _fits(expression: str, names: tuple[str, ...]) -> bool:
    try:
        return any(re.fullmatch(expression, name) for name in names)
    except re.error:
        return False
