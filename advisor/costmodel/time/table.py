"""Seconds of one operator on one device: from a calibrated class table, a probe's rates, or a datasheet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from advisor.core.cost import Basis
from advisor.core.device import DeviceProfile, Rate
from advisor.costmodel.calibration.record import Calibration, ClassFit, StepPoint
from advisor.costmodel.trace.ops import TracedOp, op_class

GEMM_EFFICIENCY, ATTENTION_EFFICIENCY, BANDWIDTH_EFFICIENCY = 0.80, 0.55, 0.80
"""Shares of a datasheet's peaks that training kernels reach. Guessed beforehand, then checked on traced operators
against 77 public A100-SXM4-80GB step times (LLMFineTuningBench: 3B, 7B and 8B decoders, LoRA and full, 512 to 8,192
tokens, batch 1 to 64, checkpointing, bfloat16): median error 7.5 %, nine in ten within 22 %; from 8,192 tokens on up to
25 % too slow, because a causal flash kernel skips half of the products that are counted."""

ATTENTION_CLASSES = frozenset({"attention", "attention_backward"})


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

    def __sub__(self, other: OperatorSeconds) -> OperatorSeconds:
        return self + other * -1.0

    def __mul__(self, times: float) -> OperatorSeconds:
        return OperatorSeconds(self.device_s * times, self.operators * times, self.uncovered_s * times)


class OperatorClock:
    """Tells the time of operators on one device.

    Args:
        device: Probed or datasheet profile.
        calibration: Of the same device; without it the profile's rates are all there is.

    Attributes:
        basis: ``"calibrated"``; ``"transferred"`` when probe rates stand in for operators; ``"datasheet"``.
    """

    def __init__(self, device: DeviceProfile, calibration: Calibration | None = None) -> None:
        if calibration is not None and calibration.device_id != device.id:
            raise ValueError(f"the calibration must be of {device.id}, but it is of {calibration.device_id}")
        self.device = device
        self.classes: dict[str, ClassFit] = dict(calibration.classes) if calibration is not None else {}
        self._operators = dict(calibration.operators) if calibration is not None else {}
        self.basis: Basis = (
            "calibrated" if self.classes else "transferred" if device.basis == "measured" else "datasheet"
        )
        self._kinds: dict[str, str] = {}

    @property
    def knows_rates(self) -> bool:
        """Whether the profile has the two rates that any estimate needs."""
        return bool(self.device.flops_per_s) and "memory" in self.device.bytes_per_s

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
        return self.seconds_of(f"{self.kind(op)}/{op.dtype}/{op.base_name}", op.flops, op.moved_bytes)

    def seconds_of(self, key: str, flops: int, moved_bytes: int) -> tuple[float, bool]:
        """The same for a row of the class table and an amount of work."""
        fit = self._operators.get(key) or self.classes.get(key.rpartition("/")[0])
        if fit is not None:
            return fit.seconds(flops, moved_bytes), True
        if not self.knows_rates:
            return 0.0, False
        kind, dtype, _ = key.split("/", 2)
        return self._by_rates(kind, dtype, flops, moved_bytes), False

    def point_seconds(self, point: StepPoint) -> float:
        """Time of a measured step's operators."""
        return sum(self.seconds_of(key, flops, moved)[0] * count for key, flops, moved, count in point.work)

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

    def _by_rates(self, kind: str, dtype: str, flops: int, moved_bytes: int) -> float:
        """Launch plus the slower of arithmetic and traffic (roofline, Williams et al. 2009)."""
        if kind == "allocation":
            return self.device.launch_s
        datasheet = self.device.basis == "datasheet"
        arithmetic_s = 0.0
        if flops:
            efficiency = 1.0
            if datasheet:
                efficiency = ATTENTION_EFFICIENCY if kind in ATTENTION_CLASSES else GEMM_EFFICIENCY
            arithmetic_s = flops / (self._flops_rate(dtype, kind).value * efficiency)
        bandwidth = self.device.bytes_per_s["memory"].value * (BANDWIDTH_EFFICIENCY if datasheet else 1.0)
        return self.device.launch_s + max(arithmetic_s, moved_bytes / bandwidth)

    def _flops_rate(self, dtype: str, kind: str) -> Rate:
        """Rate of the data type; float32 where the device lists none (it is emulated there at best)."""
        rates = self.device.flops_per_s
        if kind == "gemm_skinny" and f"{dtype}/skinny" in rates:
            return rates[f"{dtype}/skinny"]
        return rates.get(dtype) or rates.get("float32") or next(iter(rates.values()))
