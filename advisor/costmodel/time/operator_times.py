"""What makes two step times comparable: the same architecture, the same kinds of operators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.core.coefficients import Calibration, ClassFit, OperatorCounts
from advisor.core.cost import Basis
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.serialization import to_dict
from advisor.core.strategy import SHARED_KNOBS, StrategyConfig, first_layout
from advisor.costmodel.time.device_rates import DeviceRates, Efficiencies, executed_flops, executed_share
from advisor.tracing.full_depth import OperatorTable
from advisor.tracing.ops import ITEM_BYTES, TracedOp, is_skinny, op_class, usual_class
from advisor.tracing.symbolic import TraceShape

LEARNING_KNOBS = SHARED_KNOBS | {"lora_alpha"}
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
    executed = {name: value for name, value in to_dict(execution).items() if name not in RUN_KNOBS}
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
        self._terms: dict[OperatorKind, tuple[float, ...]] = {}
        self._tables: dict[OperatorTable, _PricedTable] = {}
        self._rates = DeviceRates(device, tf32=tf32, efficiencies=efficiencies)

    @property
    def knows_rates(self) -> bool:
        """Whether the profile has the two rates that any estimate needs."""
        return self._rates.known

    def seconds(self, op: TracedOp) -> tuple[float, bool]:
        """Time of one call, and whether its class was calibrated."""
        priced = _Prices(self._columns([_kind(op)]))
        # Calibrated by the FLOPs that are counted, on operators that skipped as many of them.
        return priced.seconds(op.flops, op.moved_bytes, executed_flops(op)).item(), bool(priced.covered[0])

    def seconds_of(self, key: str, flops: int, moved_bytes: int) -> tuple[float, bool]:
        """The same for a row of the class table and an amount of work."""
        priced = _Prices(self._columns([_parts(key)]))
        return priced.seconds(flops, moved_bytes, flops).item(), bool(priced.covered[0])

    def work_seconds(self, work: OperatorCounts) -> float:
        """Time of operators that are given by their work."""
        if not work:
            return 0.0
        keys, flops, moved_bytes, counts = zip(*work, strict=True)
        amounts = np.array([flops, moved_bytes, counts], dtype=np.float64)
        priced = _Prices(self._columns([_parts(key) for key in keys]))
        return float(priced.seconds(amounts[0], amounts[1], amounts[0]) @ amounts[2])

    def total(self, operators: Iterable[TracedOp]) -> OperatorSeconds:
        """Time of all of them."""
        listed = list(operators)
        if not listed:
            return OperatorSeconds()
        priced = _Prices(self._columns([_kind(op) for op in listed]))
        counts = np.array([op.count for op in listed], dtype=np.float64)
        spent = priced.seconds(*_amounts(listed)) * counts
        return OperatorSeconds(float(spent.sum()), float(counts.sum()), float(spent[~priced.covered].sum()))

    def seconds_each(self, operators: Sequence[TracedOp]) -> Amounts:
        """Time of one call of each of them."""
        if not operators:
            return np.zeros(0)
        return _Prices(self._columns([_kind(op) for op in operators])).seconds(*_amounts(operators))

    def phase_seconds(self, table: OperatorTable, shape: TraceShape) -> dict[str, OperatorSeconds]:
        """Time of a table's operators at a shape, by phase of the step."""
        if table not in self._tables:
            self._tables[table] = _PricedTable(table, self._columns)
        return self._tables[table].phase_seconds(shape)

    def _columns(self, kinds: Sequence[OperatorKind]) -> Amounts:
        for kind in kinds:
            if kind not in self._terms:
                self._terms[kind] = self._terms_of(kind)
        return np.array([self._terms[kind] for kind in kinds], dtype=np.float64).T

    def _terms_of(self, kind: OperatorKind) -> tuple[float, ...]:
        """What decides the time of such operators, in the order of ``_Prices``."""
        key = "/".join(kind)
        fit = None
        if not self._rates.is_replaced(*kind):
            fit = self._operators.get(key) or self.classes.get(key.rpartition("/")[0])
        fitted = (0.0,) * 7
        if fit is not None:
            fitted = (
                fit.overhead_s,
                fit.s_per_flop,
                fit.s_per_near_byte,
                fit.s_per_far_byte,
                fit.near_bytes,
                fit.max_flops,
                fit.max_bytes,
            )
        rates = self._rates.prices(*kind) if self.knows_rates else (0.0, 0.0, 0.0)
        return (fit is not None, *fitted, self.knows_rates, *rates)


OperatorKind = tuple[str, str, str]
"""Class, data type and schema name of an operator, as in a row of the class table."""
Amounts = npt.NDArray[np.float64]
"""One number per operator."""


def _kind(op: TracedOp) -> OperatorKind:
    return op_class(op), op.dtype, op.base_name


def _amounts(operators: Sequence[TracedOp]) -> tuple[Amounts, Amounts, Amounts]:
    """FLOPs as counted, bytes moved, and FLOPs that are executed."""
    columns = [(op.flops, op.moved_bytes, executed_flops(op)) for op in operators]
    flops, moved_bytes, executed = np.array(columns, dtype=np.float64).T
    return flops, moved_bytes, executed


def _parts(key: str) -> OperatorKind:
    kind, dtype, name = key.split("/", 2)
    return kind, dtype, name


class _Prices:
    """What decides the time of operators, a column each, and the formula."""

    def __init__(self, columns: Amounts) -> None:
        covered, self._overhead, self._per_flop, self._per_near, self._per_far, self._near_bytes = columns[:6]
        self._max_flops, self._max_bytes, self._rated, *rates = columns[6:]
        self._launch, self._rate_per_flop, self._rate_per_byte = rates
        self.covered = covered > 0
        self._any_covered = bool(self.covered.any())

    def seconds(self, flops: Amounts | float, moved_bytes: Amounts | float, executed: Amounts | float) -> Amounts:
        """Time of one call of each.

        Args:
            flops: As counted.
            moved_bytes: Read and written.
            executed: What is computed of ``flops``, where the rates decide (``executed_flops``).
        """
        by_rates = self._by_rates(executed, moved_bytes)
        return np.where(self.covered, self._fitted(flops, moved_bytes), by_rates) if self._any_covered else by_rates

    def _by_rates(self, flops: Amounts | float, moved_bytes: Amounts | float) -> Amounts:
        slower: Amounts = np.maximum(flops * self._rate_per_flop, moved_bytes * self._rate_per_byte)
        return self._launch + slower

    def _by_fit(self, flops: Amounts | float, moved_bytes: Amounts | float) -> Amounts:
        """``ClassFit``'s formula."""
        near = np.minimum(moved_bytes, self._near_bytes)
        traffic: Amounts = self._per_near * near + self._per_far * (moved_bytes - near)
        return self._overhead + self._per_flop * flops + traffic

    def _fitted(self, flops: Amounts | float, moved_bytes: Amounts | float) -> Amounts:
        """By the fit; what exceeds the largest call behind it goes no faster than the profile's rates say, and at most
        ``MOST_BEYOND_RATES`` times as slow: small calls are all overhead, and the slope between them means nothing.
        """
        near_flops, near_bytes = np.minimum(flops, self._max_flops), np.minimum(moved_bytes, self._max_bytes)
        near_s, far_s = self._by_fit(near_flops, near_bytes), self._by_fit(flops, moved_bytes)
        inside = (near_flops == flops) & (near_bytes == moved_bytes)
        excess_s = self._by_rates(flops, moved_bytes) - self._by_rates(near_flops, near_bytes)
        beyond_s = near_s + np.minimum(np.maximum(far_s - near_s, excess_s), MOST_BEYOND_RATES * excess_s)
        return np.where(inside | (self._rated == 0), far_s, beyond_s)


class _PricedTable:
    """The operators of an ``OperatorTable`` with what decides their time. A matrix product has two prices: its shape
    decides whether it is a skinny one.
    """

    def __init__(self, table: OperatorTable, columns_of: Callable[[Sequence[OperatorKind]], Amounts]) -> None:
        self._table = table
        rows = table.rows
        names = [row.name.split(".", 1)[0] for row in rows]
        classes = [usual_class(name) for name in names]
        kinds = list(zip(classes, (row.dtype for row in rows), names, strict=True))
        skinny = [("gemm_skinny" if kind == "gemm" else kind, dtype, name) for kind, dtype, name in kinds]
        self._usual, self._skinny = columns_of(kinds), columns_of(skinny)
        self._products = np.array([kind == "gemm" for kind in classes])
        self._elements_per_byte = np.array([1 / ITEM_BYTES.get(row.dtype, 4) for row in rows])
        self._executed_share = np.array([executed_share(row.name) for row in rows])
        self._counts = np.array(table.counts, dtype=np.float64)
        phases = [row.phase for row in rows]
        self._phases = {phase: np.array([phase == of for of in phases]) for phase in dict.fromkeys(phases)}

    def phase_seconds(self, shape: TraceShape) -> dict[str, OperatorSeconds]:
        if not len(self._counts):
            return {}
        flops, *moved = self._table.sizes(shape).astype(np.float64).T
        moved_bytes = sum(moved)
        skinny = self._products & is_skinny(flops, moved_bytes * self._elements_per_byte)
        prices = _Prices(np.where(skinny, self._skinny, self._usual))
        spent = prices.seconds(flops, moved_bytes, flops * self._executed_share) * self._counts
        return {
            phase: OperatorSeconds(
                float(spent[inside].sum()),
                float(self._counts[inside].sum()),
                float(spent[inside & ~prices.covered].sum()),
            )
            for phase, inside in self._phases.items()
        }
