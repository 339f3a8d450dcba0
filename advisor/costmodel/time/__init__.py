"""Time: seconds per operator class, per step, per run. Neither torch nor scipy is needed to predict."""

from advisor.costmodel.time.inference import Decoding, decode_speed
from advisor.costmodel.time.lengths import PaddedLengths, micro_batch_lengths, padded_lengths
from advisor.costmodel.time.operator_times import (
    OperatorClock,
    OperatorSeconds,
    configuration_key,
    execution_key,
    model_key,
)
from advisor.costmodel.time.phases import RunShape
from advisor.costmodel.time.run import optimizer_steps, run_time
from advisor.costmodel.time.step import (
    StepConditions,
    StepTime,
    measured_step,
    optimizer_step,
    phase_seconds,
    step_time,
)

__all__ = [
    "Decoding",
    "OperatorClock",
    "OperatorSeconds",
    "PaddedLengths",
    "RunShape",
    "StepConditions",
    "StepTime",
    "configuration_key",
    "decode_speed",
    "execution_key",
    "measured_step",
    "micro_batch_lengths",
    "model_key",
    "optimizer_step",
    "optimizer_steps",
    "padded_lengths",
    "phase_seconds",
    "run_time",
    "step_time",
]
