"""What makes two step times comparable: the same architecture, the same kinds of operators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from advisor.core.coefficients import Calibration, ClassFit, OperatorCounts
from advisor.core.cost import Basis
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig, first_layout
from advisor.costmodel.time.device_rates import DeviceRates, Efficiencies, executed_flops
from advisor.tracing.ops import TracedOp, op_class

LEARNING_KNOBS = (
    *("learning_rate", "lr_rel", "num_train_epochs", "lora_alpha", "weight_decay", "warmup_ratio"),
    *("lr_scheduler_type", "max_grad_norm"),
)
"""Knobs of a strategy that no step's time depends on."""
RUN_KNOBS = ("max_seq_length", "eval_batch_size", "group_by_length")
"""Fields of ``ExecutionPlan`` that make a run of steps, not a step."""


def model_key(model: ModelSpec) -> str:
    """Architecture and size, for example ``"bert/sequence-classification/384x6/30522"``; weights do not matter."""
    return f"{model.model_type}/{model.task}/{model.hidden_size}x{model.num_hidden_layers}/{model.vocab_size}"


def execution_key(execution: ExecutionPlan) -> str:
    """Execution knobs that change which operators run, apart from the batch's shape."""
    checkpointing = "checkpointing" if execution.gradient_checkpointing else "plain"
    return f"{execution.dtype}/{execution.amp}/{execution.attn_implementation}/{checkpointing}/{execution.optim}"


def configuration_key(model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int) -> str:
    """Digest of everything that decides how long a step takes on a device: equal keys are repeats of one measurement.

    Args:
        model: Architecture and task.
        strategy: Method and its knobs.
        execution: Execution knobs.
        seq_length: Tokens per row of every micro-batch.
    """
    learned = {name: value for name, value in first_layout(strategy).items() if name not in LEARNING_KNOBS}
    executed = {name: value for name, value in asdict(execution).items() if name not in RUN_KNOBS}
    text = json.dumps([model_key(model), learned, executed, seq_length], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --------------------
# Seconds of one operator on one device: from a calibrated class table, a probe's rates, or a datasheet.

MOST_BEYOND_RATES = 4.0
"""How much slower than the probe's rates operators run inside steps, at most: on two server cores elementwise operators
of large tensors moved 12-17 GB/s in steps of four models, and 44 GB/s in the probe."""


@dataclass(frozen=True)
class OperatorSeconds:
    """Time of a bag of operators. Linear: bags of two depths can be added and scaled.

    Attributes:
        device_s: Sum over the operators.
        operators: How many there are.
        uncovered_s: Part of ``device_s`` from operators whose class was not calibrated.
    """

    device_s: float = 0.0
    operators: float = 0.0
    uncovered_s: float = 0.0

    def __add__(self, other: OperatorSeconds) -> OperatorSeconds:
        return OperatorSeconds(
            self.device_s + other.device_s, self.operators + other.operators, self.uncovered_s + other.uncovered_s
        )

    def __mul__(self, times: float) -> OperatorSeconds:
        return OperatorSeconds(self.device_s * times, self.operators * times, self.uncovered_s * times)


class OperatorClock:
    """Tells the time of operators on one device.

    Args:
        device: Probed or datasheet profile.
        calibration: Of the same device; without it the profile's rates are all there is.
        tf32: Products of float32 tensors may use TensorFloat-32 (``ExecutionPlan.tf32``). Where the device has it they
            go by the profile's rates, because calibrations measure products without.
        efficiencies: Of the profile's rates, instead of what is assumed.

    Attributes:
        basis: ``"calibrated"``; ``"transferred"`` when probe rates or a fitted datasheet's stand in for operators;
            ``"datasheet"``.
    """

    def __init__(
        self,
        device: DeviceProfile,
        calibration: Calibration | None = None,
        *,
        tf32: bool = False,
        efficiencies: Efficiencies | None = None,
    ) -> None:
        if calibration is not None and calibration.device_id != device.id:
            raise ValueError(f"the calibration must be of {device.id}, but it is of {calibration.device_id}")
        self.device = device
        self.classes: dict[str, ClassFit] = dict(calibration.classes) if calibration is not None else {}
        self._operators = dict(calibration.operators) if calibration is not None else {}
        self.basis: Basis = (
            "calibrated" if self.classes else "datasheet" if device.basis == "datasheet" else "transferred"
        )
        self._kinds: dict[str, str] = {}
        self._rates = DeviceRates(device, tf32=tf32, efficiencies=efficiencies)

    @property
    def knows_rates(self) -> bool:
        """Whether the profile has the two rates that any estimate needs."""
        return self._rates.known

    def kind(self, op: TracedOp) -> str:
        """``op_class``, remembered by name for operators that their name decides."""
        known = self._kinds.get(op.name)
        if known is None:
            known = op_class(op)
            if known not in ("gemm", "gemm_skinny"):
                self._kinds[op.name] = known
        return known

    def seconds(self, op: TracedOp) -> tuple[float, bool]:
        """Time of one call, and whether its class was calibrated."""
        key = f"{self.kind(op)}/{op.dtype}/{op.base_name}"
        fit = self._fit(key)
        if fit is not None:
            # Calibrated by the FLOPs that are counted, on operators that skipped as many of them.
            return self._fitted(fit, key, op.flops, op.moved_bytes), True
        return self._by_rates(key, executed_flops(op), op.moved_bytes), False

    def seconds_of(self, key: str, flops: int, moved_bytes: int) -> tuple[float, bool]:
        """The same for a row of the class table and an amount of work."""
        fit = self._fit(key)
        if fit is not None:
            return self._fitted(fit, key, flops, moved_bytes), True
        return self._by_rates(key, flops, moved_bytes), False

    def work_seconds(self, work: OperatorCounts) -> float:
        """Time of operators that are given by their work."""
        return sum(self.seconds_of(key, flops, moved)[0] * count for key, flops, moved, count in work)

    def total(self, operators: Iterable[TracedOp]) -> OperatorSeconds:
        """Time of all of them."""
        device_s = uncovered_s = 0.0
        count = 0
        for op in operators:
            seconds, covered = self.seconds(op)
            device_s += seconds * op.count
            count += op.count
            if not covered:
                uncovered_s += seconds * op.count
        return OperatorSeconds(device_s, count, uncovered_s)

    def _fit(self, key: str) -> ClassFit | None:
        if self._rates.is_replaced(*key.split("/", 2)):
            return None
        return self._operators.get(key) or self.classes.get(key.rpartition("/")[0])

    def _fitted(self, fit: ClassFit, key: str, flops: int, moved_bytes: int) -> float:
        """By the fit; what exceeds the largest call behind it goes no faster than the profile's rates say, and at most
        ``MOST_BEYOND_RATES`` times as slow: small calls are all overhead, and the slope between them means nothing.
        """
        near_flops, near_bytes = min(flops, fit.max_flops), min(moved_bytes, fit.max_bytes)
        near_s, far_s = fit.seconds(near_flops, near_bytes), fit.seconds(flops, moved_bytes)
        if (near_flops, near_bytes) == (flops, moved_bytes) or not self.knows_rates:
            return far_s
        excess_s = self._by_rates(key, flops, moved_bytes) - self._by_rates(key, near_flops, near_bytes)
        return near_s + min(max(far_s - near_s, excess_s), MOST_BEYOND_RATES * excess_s)

    def _by_rates(self, key: str, flops: float, moved_bytes: int) -> float:
        if not self.knows_rates:
            return 0.0
        kind, dtype, name = key.split("/", 2)
        return self._rates.seconds(kind, dtype, name, flops, moved_bytes)
