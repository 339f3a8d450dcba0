"""From the time of a step to the time of a whole run over the data set's real length distribution."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

from advisor.core.coefficients import Calibration
from advisor.core.cost import InferenceEstimate, Interval, TimeEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan, Optimizer
from advisor.core.strategy import StrategyConfig
from advisor.core.units import counted
from advisor.costmodel.time.device_rates import BANDWIDTH_EFFICIENCY
from advisor.costmodel.time.lengths import LengthCurve, StepTimeOf, evaluation_lengths, micro_batch_lengths
from advisor.costmodel.time.phases import FEATURES, FITTING, FIXED_PART_FACTOR, PART_NAMES, RunShape, fixed_parts
from advisor.costmodel.time.step import HOST_RATE_KEY, StepTime, side_by_side
from advisor.hardware.backends import backend_of
from advisor.strategies import get_strategy
from advisor.tracing.ops import ITEM_BYTES
from advisor.tracing.trace_store import TracedConfiguration

FORWARD_SHARE = 1 / 3
"""Forward over forward plus backward, when no evaluation pass was traced: a backward pass costs two forward passes in
matrix products (Kaplan et al. 2020, C = 6 N D, of which 2 N D forward)."""


def optimizer_steps(data: DataProfile, strategy: StrategyConfig, execution: ExecutionPlan) -> int:
    """Optimizer steps of the run, as ``transformers.Trainer`` counts them.

    Micro-batches per epoch are rounded up; so are the steps made of them (the last one may be smaller).
    """
    return max(1, math.ceil(_steps_per_epoch(data, execution) * strategy.num_train_epochs))


def run_time(
    step_time_of: StepTimeOf,
    data: DataProfile,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    device: DeviceProfile,
    *,
    evaluation_time_of: StepTimeOf | None = None,
    first_pass_time_of: StepTimeOf | None = None,
    shape: RunShape | None = None,
    decoding: tuple[float, str] | None = None,
    watts: Sequence[float] = (),
) -> TimeEstimate:
    """Predict the whole run.

    ``step_s`` is the median optimizer step over the data's length distribution: with one micro-batch the step at the
    median padded length, with several the mean, because sums of independent micro-batches are nearly symmetric.

    Args:
        step_time_of: Time of an optimizer step at one padded length (all its micro-batches, and the update).
        data: Lengths and row counts.
        strategy: Epochs.
        execution: Batch sizes, cut-off, and how batches are made of rows.
        device: Its rates of storage and fresh memory, when they were probed.
        evaluation_time_of: Time of one evaluation batch (``eval_batch_size`` rows) at one padded length; a third of a
            training step's rows' time when ``None``.
        first_pass_time_of: The same of a pass through all layers, where all rows take one before training.
        shape: Loading, evaluations and saves.
        decoding: What ``decode_speed`` says of a causal model.
        watts: Mean power of earlier runs on the device.
    """
    parts_of = shape or RunShape()
    lengths = micro_batch_lengths(data, execution)
    curve = LengthCurve(step_time_of, lengths)
    step_s = curve(lengths.quantile(0.5)) if execution.gradient_accumulation_steps == 1 else curve.mean_s
    forward = _forward_curve(evaluation_time_of, data, execution)
    computed = {
        "training": _full_steps(data, strategy, execution) * curve.mean_s,
        "evaluation": parts_of.evaluations * _evaluation_s(forward, curve, data, execution),
    }
    served = forward
    if first_pass_time_of is not None:
        first_pass = LengthCurve(first_pass_time_of, evaluation_lengths(data, replace(execution, group_by_length=True)))
        batches = (data.train_rows + data.eval_rows) / execution.evaluation_batch_size
        computed[FEATURES] = batches * first_pass.mean_s
        served = first_pass if forward is not None else None
    fixed = fixed_parts(
        parts_of,
        data,
        execution,
        device,
        steps=optimizer_steps(data, strategy, execution),
        padded_tokens=lengths.mean,
        compute_s=sum(computed.values()),
    )
    if parts_of.evaluates_best:
        fixed["saving"] += computed["evaluation"] / parts_of.evaluations
    parts = {name: {**computed, **fixed}[name] for name in (*PART_NAMES, FEATURES, FITTING) if name in computed | fixed}
    rows, tokens = execution.effective_batch_size, data.mean_tokens(execution.max_seq_length)
    intervals = _intervals(step_s, sum(computed.values()), list(fixed.values()), curve.reference)
    total_s = sum(parts.values())
    energy_j, energy_interval, energy_basis = predicted_energy(device, total_s, intervals["total_s"], watts)
    if energy_interval is not None:
        intervals["energy_j"] = energy_interval
    return TimeEstimate(
        step_s=step_s,
        samples_per_s=rows / step_s,
        tokens_per_s=rows * tokens / step_s,
        total_s=total_s,
        intervals=intervals,
        parts=parts,
        evidence=curve.reference.evidence,
        basis=curve.reference.basis,
        inference=inference_speed(execution.evaluation_batch_size / served.mean_s, tokens, served.reference, decoding)
        if served is not None
        else None,
        energy_j=energy_j,
        energy_basis=energy_basis,
    )


def computed_tokens(execution: ExecutionPlan, data: DataProfile, *, grouped: bool) -> float:
    """Mean tokens of a row, padding included, as training computes them."""
    return micro_batch_lengths(data, replace(execution, group_by_length=grouped)).mean


def stopping_notes(strategy: StrategyConfig) -> tuple[str, ...]:
    """That a run may end before its predicted time."""
    if strategy.early_stopping_patience is None:
        return ()
    evaluations = counted(strategy.evaluations, "evaluation")
    least = strategy.early_stopping_patience + 1
    return (f"the time is that of all epochs and {evaluations}: training may stop after {least}",)


def speed_notes(execution: ExecutionPlan, data: DataProfile | None) -> tuple[str, ...]:
    """What knobs that change no operator of a step change of the run, where a user should know it before."""
    notes = []
    if execution.group_by_length and data is not None:
        real = data.mean_tokens(execution.max_seq_length)
        shares = [max(0.0, 1 - real / computed_tokens(execution, data, grouped=grouped)) for grouped in (True, False)]
        notes.append(
            f"rows of similar length share a batch: {shares[0]:.0%} of the computed tokens are padding instead of "
            f"{shares[1]:.0%} (--no-group-by-length draws them at random)"
        )
    if execution.tf32 and execution.dtype == "float32" and execution.amp == "none":
        notes.append(
            "float32 products use TF32: operands keep 10 of 23 bits of mantissa, about three decimal digits, which is "
            "what torch and transformers do only on request (--no-tf32 turns it off)"
        )
    if execution.torch_compile:
        notes.append("the step is predicted as if it were not compiled: it will be faster, after the first steps")
    return tuple(notes)


def _steps_per_epoch(data: DataProfile, execution: ExecutionPlan) -> int:
    micro_batches = math.ceil(data.train_rows / execution.micro_batch_size)
    return max(1, math.ceil(micro_batches / execution.gradient_accumulation_steps))


def _full_steps(data: DataProfile, strategy: StrategyConfig, execution: ExecutionPlan) -> float:
    """The run's steps, with the smaller one at the end of an epoch counted as the share that it is."""
    per_epoch = data.train_rows / execution.effective_batch_size
    return optimizer_steps(data, strategy, execution) * per_epoch / _steps_per_epoch(data, execution)


def _intervals(step_s: float, compute_s: float, fixed: list[float], reference: StepTime) -> dict[str, Interval]:
    """Training and evaluation err together, as their step does; the other parts each on their own."""
    low, high = reference.low / reference.seconds, reference.high / reference.seconds
    below = math.hypot(compute_s * (1 - low), *(part * (1 - 1 / FIXED_PART_FACTOR) for part in fixed))
    above = math.hypot(compute_s * (high - 1), *(part * (FIXED_PART_FACTOR - 1) for part in fixed))
    total_s = compute_s + sum(fixed)
    return {
        "step_s": Interval(step_s * low, step_s * high),
        "total_s": Interval(total_s - below, total_s + above),
    }


def _forward_curve(
    evaluation_time_of: StepTimeOf | None, data: DataProfile, execution: ExecutionPlan
) -> LengthCurve | None:
    if evaluation_time_of is None or data.eval_rows == 0:
        return None
    return LengthCurve(evaluation_time_of, evaluation_lengths(data, execution))


def _evaluation_s(
    forward: LengthCurve | None, curve: LengthCurve, data: DataProfile, execution: ExecutionPlan
) -> float:
    """One pass over the held-out rows, in batches of ``eval_batch_size``."""
    if data.eval_rows == 0:
        return 0.0
    if forward is not None:
        return data.eval_rows / execution.evaluation_batch_size * forward.mean_s
    length = evaluation_lengths(data, execution).mean
    return data.eval_rows * curve(length) / execution.effective_batch_size * FORWARD_SHARE


# --------------------
# What a configuration's run reads and writes besides its steps, and what one written token takes.

STORED_WEIGHT_BYTES = 4
"""Of a parameter on disk, where the model's files were not looked at (float32, the larger of the usual types)."""
STATE_BYTES: dict[Optimizer, int] = {"sgd": 0, "adafactor": 0, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2}
"""Optimizer states of one parameter: AdamW's two moments are float32 (8 bytes); 8-bit ones a byte each; Adafactor's are
sums over rows and columns, and plain SGD has none."""
ADAMW_STATE_BYTES = 8
ADAPTER_ITEM_BYTES = 4
QUANTIZED_WEIGHT_BYTES = 0.5 + 4 / 64
"""NF4: two weights a byte and one float32 scale per block of 64 (Dettmers et al. 2023, QLoRA, before the scales are
quantised themselves)."""


def run_shape(asked: TracedConfiguration, *, peak_bytes: int = 0) -> RunShape:
    """The run of one configuration: the Trainer's checkpoints hold the trained part and its optimizer states, the whole
    model where the method saves it whole. What is live at the peak beyond the weights is first used by steps.
    """
    strategy, execution = asked.strategy, asked.execution
    method = get_strategy(strategy.method)
    total, trainable = asked.family.total_parameters(asked.rank), asked.family.trainable_parameters(asked.rank)
    written = total if method.saves_whole_model else trainable
    written_bytes = written * ITEM_BYTES[execution.dtype]
    return RunShape(
        weights_bytes=asked.model.weights_bytes or STORED_WEIGHT_BYTES * asked.model.total_parameters,
        quantized_parameters=quantized_parameters(asked),
        saved_bytes=written_bytes,
        checkpoint_bytes=written_bytes + trainable * STATE_BYTES.get(execution.optim, ADAMW_STATE_BYTES),
        evaluations=strategy.evaluations,
        evaluates_best=strategy.load_best_model_at_end,
        fresh_bytes=max(0, peak_bytes - loaded_bytes(asked)),
        fitted_weights=trainable if method.fits_frozen_features else 0,
    )


FILE_HEADER_SHARE, FILE_HEADER_BYTES = 0.01, 1 << 16
"""What safetensors adds to the tensors at most: some 100 bytes of JSON for each of them."""


def saved_model_bytes(asked: TracedConfiguration) -> tuple[int, Interval]:
    """Weights on disk after the run, and between what they lie.

    The whole model is saved in the plan's data type. PEFT keeps adapters in float32 whatever the base model is stored
    in (``cast_adapter_dtype``), a new head in the base model's type. The head is what is left at rank 0.
    """
    family, rank, item_bytes = asked.family, asked.rank, ITEM_BYTES[asked.execution.dtype]
    if get_strategy(asked.strategy.method).saves_whole_model:
        value = least = family.total_parameters(rank) * item_bytes
    else:
        trained = family.trainable_parameters(rank)
        head = max(0, family.trainable_parameters(0)) if asked.strategy.rank is not None else 0
        value = (trained - head) * ADAPTER_ITEM_BYTES + head * item_bytes
        least = min(value, trained * item_bytes)
    most = max(value, value * (1 + FILE_HEADER_SHARE) + FILE_HEADER_BYTES)
    return value, Interval(least, most)


def quantized_parameters(asked: TracedConfiguration) -> int:
    """Weights in 4 bits: all but embeddings and what is trained, where any are."""
    if not get_strategy(asked.strategy.method).stores_4bit_weights:
        return 0
    frozen = asked.family.total_parameters(asked.rank) - asked.family.trainable_parameters(asked.rank)
    return max(0, frozen - asked.model.vocab_size * asked.model.hidden_size)


def loaded_bytes(asked: TracedConfiguration) -> int:
    """All weights in memory, some of them in 4 bits."""
    quantized = quantized_parameters(asked)
    whole = asked.family.total_parameters(asked.rank) - quantized
    return round(whole * ITEM_BYTES[asked.execution.dtype] + quantized * QUANTIZED_WEIGHT_BYTES)


# --------------------
# Energy of a run: the power that this device took in earlier runs, times the predicted time.

FEW_RUNS_SPREAD = 0.25
"""Half width of the 90 % interval of a run's mean power while fewer than ``ENOUGH_RUNS`` were measured: how full a
device is kept differs from run to run."""
ENOUGH_RUNS = 5
IDLE_SHARE = 0.15
"""Where only the power limit is known, a run takes between this share of it (the card idles while the host works: 50 to
100 W of 350 to 700 W on data-centre cards) and all of it."""
WATTS = re.compile(r"(\d+(?:\.\d+)?)\s*W\b")


def predicted_energy(
    device: DeviceProfile, total_s: float, interval: Interval, watts: Sequence[float]
) -> tuple[float | None, Interval | None, str]:
    """Joules of a run, their 90 % interval, and their source (or why there is no figure)."""
    if watts:
        typical = statistics.median(watts)
        spread = FEW_RUNS_SPREAD
        if len(watts) >= ENOUGH_RUNS:
            spread = max(abs(value / typical - 1) for value in watts)
        bounds = Interval(interval.low * typical * (1 - spread), interval.high * typical * (1 + spread))
        return typical * total_s, bounds, f"{typical:.0f} W, measured over {len(watts)} earlier runs on this device"
    limit = power_limit_w(device)
    if limit is not None:
        bounds = Interval(interval.low * limit * IDLE_SHARE, interval.high * limit)
        return limit * total_s, bounds, f"an upper bound: the device's power limit of {limit:.0f} W all the time"
    return None, None, f"no run on {device.id} has measured its power, and its profile states no power limit"


def power_limit_w(device: DeviceProfile) -> float | None:
    """The enforced power limit of a probed GPU, or that of its datasheet."""
    probed = re.match(r"\s*(\d+(?:\.\d+)?)", device.facts.get("power_limit_w", ""))
    if probed:
        return float(probed.group(1))
    stated = WATTS.search(device.facts.get("power_limit", ""))
    return float(stated.group(1)) if stated else device.power_limit_watts


# --------------------
# What the trained model gives: rows per second of an evaluation pass, and the tokens of one reader, one by one.

DECODE_FACTOR = 2.0
"""90 % interval of the decoding speed, as a factor either way: nothing of it was measured."""


def inference_speed(
    samples_per_s: float, tokens_per_row: float, reference: StepTime, decoding: tuple[float, str] | None
) -> InferenceEstimate:
    """The speeds of a model."""
    slow, fast = reference.seconds / reference.high, reference.seconds / reference.low
    tokens_per_s = samples_per_s * tokens_per_row
    intervals = {
        "samples_per_s": Interval(samples_per_s * slow, samples_per_s * fast),
        "tokens_per_s": Interval(tokens_per_s * slow, tokens_per_s * fast),
    }
    if decoding is not None:
        intervals["decode_tokens_per_s"] = Interval(decoding[0] / DECODE_FACTOR, decoding[0] * DECODE_FACTOR)
    return InferenceEstimate(
        samples_per_s=samples_per_s,
        tokens_per_s=tokens_per_s,
        decode_tokens_per_s=decoding[0] if decoding is not None else None,
        intervals=intervals,
        evidence=reference.evidence,
        basis=reference.basis,
        decode_basis=decoding[1] if decoding is not None else "",
    )


def decode_speed(
    weights_bytes: int, operators: float, device: DeviceProfile, calibration: Calibration | None
) -> tuple[float, str] | None:
    """Tokens per second of one reader with a cache of the earlier tokens, and the source of that figure.

    One token multiplies every weight with one vector, so it takes as long as reading the weights; what the cache adds
    is left out. Launching a forward pass's operators comes on top (CPU) or beside it (CUDA), as in a training step.
    """
    rate = device.bytes_per_s.get("memory")
    if rate is None or not weights_bytes:
        return None
    bandwidth = rate.value * (BANDWIDTH_EFFICIENCY if device.basis == "datasheet" else 1.0)
    fitted, overhead = device.overhead_s.get(HOST_RATE_KEY), backend_of(device).overhead
    per_operator_s = fitted.value if fitted is not None else overhead.host_s_per_operator
    if calibration is not None and calibration.step is not None:
        per_operator_s = calibration.step.host_s_per_operator
    reading_s, host_s = weights_bytes / bandwidth, operators * per_operator_s
    seconds = side_by_side(host_s, reading_s, overhead.overlap_power)
    return 1 / seconds, (
        f"not measured: all weights ({weights_bytes / 1e6:.0f} MB) read once a token at "
        f"{bandwidth / 1e9:.0f} GB/s, and {operators:.0f} operators launched"
    )
