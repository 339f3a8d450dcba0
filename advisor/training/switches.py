"""Execution switches: which of them go together, where they run, and what they do to a built model."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from advisor.core.errors import DeviceError, InputError, PlanError
from advisor.core.model import ModelSpec
from advisor.core.plan import ADAPTER_OPTIMIZERS, BITSANDBYTES_OPTIMIZERS, ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import Backend, backend_of, backend_of_id, backend_on
from advisor.hardware.backends.base import Refusal
from advisor.hardware.profiles import load_profile, profile_names
from advisor.strategies import get_strategy, strategies
from advisor.strategies.base import Strategy
from advisor.training.sources import stored_quantization

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What operators of a forward pass under automatic mixed precision compute in."""


def autocast(execution: ExecutionPlan, device_type: str) -> contextlib.AbstractContextManager[Any]:
    """The plan's mixed precision of a forward pass; nothing where it has none."""
    dtype = AMP_DTYPES.get(execution.amp)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)


def check_execution(
    spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, device_type: str, traced: bool
) -> None:
    """Refuse combinations that cannot run, before anything is loaded.

    Args:
        spec: Its task decides which losses there are.
        strategy: The method.
        execution: The switches.
        device_type: What torch calls the device.
        traced: Nothing will be executed, so that libraries may be missing.

    Raises:
        InputError: the rules that do not hold, with value and way out.
    """
    backend, quantized = backend_on(device_type), get_strategy(strategy.method).stores_4bit_weights
    refusals = [*_own_refusals(spec, strategy, execution, traced), *backend.refusals(execution, here=not traced)]
    if execution.torch_compile and quantized:
        # Each such layer is a call that inductor cannot look into; on a CPU bitsandbytes' own kernels break the graph.
        rule = "torch.compile gains nothing on 4-bit weights, whose products it cannot look into"
        refusals.append((rule, "leave torch_compile off"))
    elif execution.torch_compile and not traced and (refusal := backend.runtime.compile_refusal()):
        refusals.append(refusal)
    _raise(refusals, InputError)


def backend_of_plan(plan: Plan) -> Backend:
    """Where the plan trains.

    Raises:
        DeviceError: there is no such device here, or its back end cannot train yet.
        PlanError: the plan's switches do not exist on that kind of device.
    """
    known = plan.device in profile_names()
    backend = backend_of(load_profile(plan.device)) if known else backend_of_id(plan.device)
    _raise(backend.refusals(plan.execution, here=False), PlanError)
    if not backend.runtime.count():
        raise DeviceError(
            f"the plan was made for {plan.device}, but there is no {backend.name.upper()} device here",
            fix="run it on that machine, or recommend a plan for this one",
        )
    return backend


def _raise(refusals: list[Refusal], error: type[InputError]) -> None:
    if refusals:
        (rule, fix), *others = refusals
        raise error(rule, fix=fix, problems=[f"{also}; {way_out}" for also, way_out in others])


def _own_refusals(
    spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, traced: bool
) -> Iterator[Refusal]:
    """What does not go together on any device."""
    method, optim = get_strategy(strategy.method), execution.optim
    if optim in ADAPTER_OPTIMIZERS and optim not in method.own_optimizers:
        others = ", ".join(sorted(s.name for s in strategies() if optim in s.own_optimizers))
        rule = f"the optimizer {optim} trains LoRA adapters, but the method is {strategy.method}"
        yield rule, f"use a method of {others}, or another optimizer"
    if optim in BITSANDBYTES_OPTIMIZERS and not traced and importlib.util.find_spec("bitsandbytes") is None:
        rule = f"the optimizer {optim} needs the package bitsandbytes, which is not installed"
        yield rule, "pip install bitsandbytes, or use adamw_torch_fused"
    if execution.loss == "fused-linear" and not spec.traits.predicts_next_token:
        rule = f"the loss fused-linear predicts every next token (task causal-lm), but the task is {spec.task}"
        yield rule, "use the standard loss"
    if spec.traits.learns_preferences:
        yield from _refused_beside_a_reference(spec, strategy, execution)
    if method.stores_4bit_weights and (stored := stored_quantization(spec.config)) is not None:
        rule = (
            f"{strategy.method} quantises 16-bit weights itself, but those of {spec.source} are stored in {stored} and "
            "become 16-bit ones only while they are loaded"
        )
        yield rule, f"use {' or '.join(method.alternatives) or 'another method'}, or a copy of the model in bfloat16"
    if execution.kbit_upcast and not method.stores_4bit_weights:
        others = ", ".join(s.name for s in strategies() if s.stores_4bit_weights)
        rule = f"kbit_upcast prepares a model with 4-bit weights, but {strategy.method} keeps them as they are"
        yield rule, f"use the method {others}, or leave kbit_upcast off"
    if execution.reentrant_checkpointing and not execution.gradient_checkpointing:
        rule = "reentrant_checkpointing is a variant of gradient checkpointing, but that is off"
        yield rule, "switch gradient_checkpointing on, or leave both off"
    if execution.gradient_checkpointing and (refusal := method.checkpointing_refusal(strategy)) is not None:
        yield refusal


def _refused_beside_a_reference(
    spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan
) -> Iterator[Refusal]:
    """What TRL's loop does not have, or what an adapter that is switched off and on again does not keep."""
    if moved := get_strategy(strategy.method).changed_base(strategy):
        rule = (
            f"the task {spec.task} compares with the model without its adapter, but {moved} moves a part of its weights"
            " into the adapter"
        )
        yield rule, 'use "init_lora_weights": true'
    if execution.hold_outputs or not execution.zero_grad_set_to_none:
        rule = (
            f"the task {spec.task} is trained by TRL's loop, but hold_outputs and zero_grad_set_to_none are another's"
        )
        yield rule, "leave them as they are by default"
    if execution.optim in ADAPTER_OPTIMIZERS:
        rule = (
            f"the task {spec.task} switches the adapter off and on, after which all of it trains, but the optimizer"
            f" {execution.optim} freezes a part"
        )
        yield rule, "use another optimizer"


def upcast_unquantized(base: nn.Module) -> None:
    """PEFT's ``prepare_model_for_kbit_training``: freezes everything and stores what is not 4-bit in float32.

    Its own gradient checkpointing is left to ``enable_checkpointing``, which follows the plan.
    """
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def enable_checkpointing(base: Any, method: Strategy, *, reentrant: bool) -> None:
    """Gradient checkpointing of every layer.

    transformers makes the embeddings' output require gradients with it, which only reentrant checkpointing needs. Where
    the first layers are frozen and hold no adapter, the other variant would run a backward pass through all of them
    for nothing; the reentrant one cannot do without, or the trained layers would get no gradients at all.
    """
    if not base.supports_gradient_checkpointing:
        raise InputError(f"{type(base).__name__} does not support gradient checkpointing", fix="plan without it")
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    if not reentrant and not method.backpropagates_to_inputs:
        base.disable_input_require_grads()


def freeze_first_factors(model: nn.Module) -> None:
    """What LoRA-FA leaves untrained: the first factor (``lora_A``) of every adapter.

    PEFT's optimizer freezes them when it is made; here it happens with the model, so that counts and traces agree.

    Raises:
        InputError: the adapters are not plain LoRA.
    """
    config = getattr(model, "active_peft_config", None)
    kind = getattr(getattr(config, "peft_type", None), "value", None)
    if config is None or kind != "LORA" or getattr(config, "use_dora", False):
        what = "DoRA" if getattr(config, "use_dora", False) else kind or "no adapter"
        raise InputError(
            f"the optimizer lorafa needs plain LoRA adapters, but the model has {what}", fix="use another optimizer"
        )
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)


def prepare_for_scaling(model: nn.Module, execution: ExecutionPlan) -> None:
    """See to it that fp16 mixed precision trains float32 weights: its gradient scaler refuses float16 ones.

    PEFT keeps adapters in float32, but copies heads that train beside them in the model's type; they are cast as its
    ``cast_mixed_precision_params`` would. Source of the rule: ``torch.amp.GradScaler.unscale_`` ("Attempting to
    unscale FP16 gradients").

    Raises:
        InputError: the model's own weights train, and are float16.
    """
    if execution.amp != "fp16":
        return
    half = {name: p for name, p in model.named_parameters() if p.requires_grad and p.dtype == torch.float16}
    if half and not hasattr(model, "peft_config"):
        raise InputError(
            f"fp16 mixed precision cannot train weights stored in float16, but {next(iter(half))} is such a weight",
            fix="use dtype float32 for the weights, or amp none",
        )
    for parameter in half.values():
        parameter.data = parameter.data.to(torch.float32)
