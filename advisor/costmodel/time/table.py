"""Seconds of one operator on one device: from a calibrated class table, a probe's rates, or a datasheet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from advisor.core.cost import Basis
from advisor.core.device import DeviceProfile
from advisor.costmodel.calibration.record import Calibration, ClassFit, Work
from advisor.costmodel.time.rates import DeviceRates, Efficiencies, executed_flops
from advisor.costmodel.trace.ops import TracedOp, op_class

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

    def __sub__(self, other: OperatorSeconds) -> OperatorSeconds:
        return self + other * -1.0

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

    def work_seconds(self, work: Work) -> float:
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
