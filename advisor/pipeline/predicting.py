"""Job: what one exact configuration costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate, QualityEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import Dtype, ExecutionPlan, Plan, load_plan
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.pipeline.environment import named_device, this_device_id, this_machine
from advisor.pipeline.events import OnEvent, note, phase
from advisor.pipeline.inputs import (
    DataSource,
    ModelSource,
    check_length,
    check_strategy,
    inspect,
    load_inputs,
    tell_remarks,
)
from advisor.strategies import DEFAULT_METHOD

if TYPE_CHECKING:
    from advisor.costmodel.model import CostModel
    from advisor.costmodel.quality.model import QualityModel
    from advisor.strategies import Strategy

DEFAULT_SEQ_LENGTH = 128
"""Padded length that is assumed when neither data nor caller names one."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One exact configuration and where it would run, looked at and found usable.

    ``evaluation`` says whether the run evaluates on the held-out rows; ``quality`` is what a plan promises, which rests
    on its evidence and is the same on every device.
    """

    device: DeviceProfile
    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    data: DataProfile | None
    budget: Budget
    evaluation: bool = True
    quality: QualityEstimate | None = None


def predict(
    model: str | ModelSource,
    *,
    method: str = DEFAULT_METHOD,
    knobs: Knobs | None = None,
    execution: ExecutionPlan | None = None,
    data: str | DataSource | None = None,
    num_labels: int = 2,
    device: str = "auto",
    budget: Budget | None = None,
    evaluation: bool = True,
    on_event: OnEvent | None = None,
) -> CostEstimate:
    """Predict peak memory, time and quality of one configuration; a bare ``config.json`` is enough.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model.
        method: Registered strategy.
        knobs: The method's own (``QLoraKnobs(rank=16)`` for qlora); its defaults for this model when ``None``.
        execution: How it is trained; micro-batches of 8 rows, in the checkpoint's data type, when ``None``.
        data: Without it, step time and memory are answered for full batches, and the whole run is one step.
        num_labels: Classes of the head when there is no data.
        device: Profile to predict for; ``"auto"`` is this machine.
        budget: Answers ``fits``; without one, the device's capacity does.
        evaluation: ``False`` predicts memory and time of a run that never evaluates, as training loops other than
            ``run`` may do.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used, all problems of one input together.
        UntraceableError: the cost model cannot trace the configuration.
    """
    configuration = configure(
        model,
        method=method,
        knobs=knobs,
        execution=execution,
        data=data,
        num_labels=num_labels,
        device=device,
        budget=budget,
        evaluation=evaluation,
        on_event=on_event,
    )
    return predict_configuration(configuration, on_event)


def configure(
    model: str | ModelSource,
    *,
    method: str = DEFAULT_METHOD,
    knobs: Knobs | Mapping[str, Any] | None = None,
    execution: ExecutionPlan | Mapping[str, Any] | None = None,
    data: str | DataSource | None = None,
    num_labels: int = 2,
    device: str = "auto",
    budget: Budget | None = None,
    evaluation: bool = True,
    on_event: OnEvent | None = None,
) -> Configuration:
    """The configuration that :func:`predict` means by its arguments.

    Command lines and files name only what differs from the defaults: of knobs, shared ones (:class:`StrategyConfig`)
    or the method's own, and of the fields of :class:`ExecutionPlan`.

    Raises:
        InputError: anything about the inputs that cannot be used, all problems of one input together.
    """
    from advisor.strategies import get_strategy

    strategy, where = get_strategy(method), named_device(device)
    spec, profile = look_at(model, data, num_labels=num_labels, on_event=on_event)
    return configured(
        spec,
        profile,
        strategy,
        knobs=knobs,
        execution=execution,
        device=where,
        budget=budget,
        evaluation=evaluation,
        on_event=on_event,
    )


def look_at(
    model: str | ModelSource, data: str | DataSource | None, *, num_labels: int = 2, on_event: OnEvent | None = None
) -> tuple[ModelSpec, DataProfile | None]:
    """The model, and the data where there are any; ``num_labels`` are the classes of the head where there are none.

    Raises:
        InputError: anything about the two that cannot be used.
    """
    if data is not None:
        inputs = load_inputs(model, data, on_event)
        return inputs.model, inputs.profile
    phase(on_event, "inspecting the model")
    return inspect(model, num_labels=num_labels), None


def configured(
    model: ModelSpec,
    data: DataProfile | None,
    strategy: Strategy,
    *,
    knobs: Knobs | Mapping[str, Any] | None = None,
    execution: ExecutionPlan | Mapping[str, Any] | None = None,
    device: DeviceProfile | None = None,
    budget: Budget | None = None,
    evaluation: bool = True,
    on_event: OnEvent | None = None,
) -> Configuration:
    """The same of a model and data that were looked at already; of this machine where no device is given.

    Raises:
        InputError: knobs, execution, model and device do not go together.
    """
    config = _strategy_config(strategy, knobs or {}, model)
    check_strategy(strategy, config, model)
    tell_remarks([config], on_event)
    execution_plan = as_execution_plan(execution or {}, model, data)
    device = device or this_machine(on_event)
    _check_speed_knobs(execution_plan, device)
    if not isinstance(execution, ExecutionPlan) and "expandable_segments" not in (execution or {}):
        expandable = backend_of(device).expandable_segments(None)
        execution_plan = dataclasses.replace(execution_plan, expandable_segments=expandable)
    return Configuration(device, model, config, execution_plan, data, budget or Budget(), evaluation)


def configure_plan(
    plan: Plan | Path | str,
    *,
    device: str | None = None,
    evaluation: bool = True,
    on_event: OnEvent | None = None,
) -> Configuration:
    """The configuration of a plan, on the device it was made for or another.

    Raises:
        PlanError: the file is damaged, newer than this version, or inconsistent.
    """
    from advisor.strategies import get_strategy

    plan = plan if isinstance(plan, Plan) else load_plan(Path(plan))
    check_strategy(get_strategy(plan.strategy.method), plan.strategy, plan.model)
    check_length(plan.model, plan.execution.max_seq_length)
    profile = named_device(device or plan.device) or this_machine(on_event)
    return Configuration(
        *(profile, plan.model, plan.strategy, plan.execution, plan.data_profile, plan.budget, evaluation),
        quality=plan.predicted.quality if plan.predicted is not None else None,
    )


def cost_model_for(
    device: DeviceProfile,
    on_event: OnEvent | None = None,
    *,
    evaluation: bool = True,
    quality: QualityModel | None = None,
) -> CostModel:
    """The cost model of a device, with the calibration that may be used for it (``calibration.selection``).

    Args:
        device: Where plans will run.
        on_event: Is told why a calibration is not used, or is used as transferred.
        evaluation: Whether runs evaluate.
        quality: What predicts quality, instead of published tables alone.
    """
    from advisor.calibration.selection import calibration_for
    from advisor.costmodel.model import CostModel
    from advisor.hardware.energy import known_watts

    calibration, remark = calibration_for(device, at_hand=device.id == this_device_id())
    if remark:
        note(on_event, remark)
    if calibration is None and device.basis == "fitted":
        note(on_event, f"times on {device.id} come from its datasheet, fitted {device.facts.get('fitted', '')}")
    return CostModel(device, calibration, quality=quality, watts_of=known_watts, evaluation=evaluation)


def check_bounds(budget: Budget, cost_model: CostModel | None = None) -> None:
    """Refuse a limit on what cannot be predicted, instead of letting everything pass.

    Args:
        budget: Of the user.
        cost_model: Of the device; ``None`` where there is no data set, so that there is no whole run either.

    Raises:
        InputError: the energy of a run without rows.
        DeviceError: the energy on a device whose power is not known.
    """
    if budget.max_energy_j is None:
        return
    if cost_model is None:
        raise InputError(
            "--max-energy limits a whole run, but without a data set there is none",
            fix="add --data (recommend, tune, predict), or leave --max-energy out",
        )
    if reason := cost_model.power_unknown:
        raise DeviceError(
            f"--max-energy needs the power of {cost_model.device.id}, which is not known: {reason}",
            fix="finish one `advisor run` where the device reports its energy (`advisor doctor` says whether it does), "
            "or limit --time instead",
        )


def predict_configuration(configuration: Configuration, on_event: OnEvent | None = None) -> CostEstimate:
    """The cost of a configuration.

    Raises:
        UntraceableError: the cost model cannot trace it.
    """
    cost_model = cost_model_for(configuration.device, on_event, evaluation=configuration.evaluation)
    data = configuration.data
    check_bounds(configuration.budget, cost_model if data is not None else None)
    phase(on_event, "tracing the training step")
    cost = cost_model.estimate(
        configuration.model,
        configuration.strategy,
        configuration.execution,
        data,
        configuration.budget,
        same_length=data is None,
    )
    return cost if configuration.quality is None else dataclasses.replace(cost, quality=configuration.quality)


def _strategy_config(strategy: Strategy, knobs: Knobs | Mapping[str, Any], model: ModelSpec) -> StrategyConfig:
    """The method's defaults for the model with these knobs.

    Raises:
        InputError: knobs that are another method's, or a value that cannot be used.
    """
    if isinstance(knobs, Knobs):
        config = dataclasses.replace(strategy.default_config(model), knobs=knobs)
        strategy.knobs.of(config)
        return config
    if strategy.user_knob is not None and strategy.user_knob not in knobs:
        raise InputError(
            f"{strategy.name} needs {strategy.user_knob_title} of your own, but got none",
            fix=f"pass --{strategy.user_knob.replace('_', '-')}",
        )
    return strategy.configured(model, **knobs)


def _check_speed_knobs(execution: ExecutionPlan, device: DeviceProfile) -> None:
    """Refuse TF32, thread counts and settings of an allocator where there is no such thing.

    Raises:
        InputError: with the device's name.
    """
    from advisor.search.planner import SpeedKnobs

    SpeedKnobs(
        tf32=execution.tf32,
        num_threads=execution.num_threads,
        expandable_segments=execution.expandable_segments,
    ).check(device)


def stored_dtype(model: ModelSpec) -> Dtype:
    """Data type of the checkpoint's weights, in which transformers loads them; float32 where it does not say."""
    text = model.config.get("text_config") or {}
    names = (source.get(key) for source in (model.config, text) for key in ("dtype", "torch_dtype"))
    found = next((str(name).removeprefix("torch.") for name in names if name), "float32")
    return next((known for known in get_args(Dtype) if known == found), "float32")


def as_execution_plan(
    values: ExecutionPlan | Mapping[str, Any], model: ModelSpec, data: DataProfile | None
) -> ExecutionPlan:
    """The usual set-up with what ``values`` name, by field, or a complete one as it is.

    Raises:
        InputError: an unknown field or a value that can never be used.
    """
    from advisor.strategies.skeleton import usual_attention

    if isinstance(values, ExecutionPlan):
        check_length(model, values.max_seq_length)
        return values
    measured = data.max_seq_length if data is not None else min(DEFAULT_SEQ_LENGTH, model.max_positions or 2**31)
    settings = {
        "micro_batch_size": 8,
        "max_seq_length": measured,
        "attn_implementation": usual_attention(model),
        "dtype": stored_dtype(model),
        "padded": data is None or data.padded,
        "separate_documents": data is not None and data.separate_documents,
        **values,
    }
    known = {field.name for field in dataclasses.fields(ExecutionPlan)}
    if unknown := sorted(set(settings) - known):
        fix = f"use some of {', '.join(sorted(known))}"
        raise InputError(f"an execution plan has no field {', '.join(unknown)}", fix=fix)
    check_length(model, settings["max_seq_length"])
    try:
        return ExecutionPlan(**settings)
    except ValueError as failure:
        raise InputError(str(failure)) from None
