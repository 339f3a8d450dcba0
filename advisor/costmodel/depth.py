"""A deep stack from two shallow ones: memory and operators of the whole model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from advisor.costmodel.deep_log import DeepLog, deepen
from advisor.costmodel.log_alignment import MisalignedError
from advisor.costmodel.memory_curve import Peak, deep_phase_peaks, phase_peaks
from advisor.costmodel.operator_table import OperatorTable, operator_table
from advisor.costmodel.remembered import RememberedNumbers
from advisor.costmodel.trace.family import PHASES, SAMPLED, EventLog, TraceFamily
from advisor.costmodel.trace.ops import MEMBERS, TracedOp
from advisor.costmodel.trace.symbolic import Shape

MATRIX_PRODUCTS = frozenset(f"{MEMBERS['gemm']} {MEMBERS['bmm']} gemm_4bit".split())
"""Operators that cuBLAS or cuBLASLt computes (of a 4-bit product the part after de-quantisation)."""

TRAINING_PHASES = tuple(phase for phase in PHASES if phase != "evaluation")


@dataclass(frozen=True)
class StepFamily:
    """One configuration at every batch, length and rank, at the model's full depth.

    Attributes:
        shallow: Traced whole when ``deeper`` is ``None``, else at a shallow depth.
        deeper: Traced with one repeated block of layers more than ``shallow``.
        extra_layers: Blocks of the model beyond ``shallow``.
        replays: What replays of the full depth found before.
    """

    shallow: TraceFamily
    deeper: TraceFamily | None = None
    extra_layers: int = 0
    replays: RememberedNumbers = field(default_factory=RememberedNumbers, compare=False)

    @cached_property
    def deep_log(self) -> DeepLog | None:
        """How the full depth's events follow from the two traces; ``None`` where that cannot be shown."""
        if self.deeper is None:
            return None
        try:
            return deepen(self.shallow, self.deeper, self.extra_layers)
        except MisalignedError:
            return None

    def events(self, shape: Shape) -> EventLog | None:
        """Allocations and frees of a step and an evaluation pass at full depth; ``None`` where they are unknown."""
        if self.deeper is None:
            return self.shallow.events(shape)
        if self.deep_log is None:
            return None
        return self.deep_log.events(self.shallow.events(shape), self.deeper.events(shape))

    def deepest_events(self, shape: Shape) -> EventLog:
        """The same at the greatest traced depth."""
        return (self.deeper or self.shallow).events(shape)

    def peaks(self, shape: Shape, *, round_bytes: int) -> dict[str, Peak]:
        """Peak of every phase of the step, and of an evaluation pass of the same shape."""
        log = self.events(shape)
        if log is not None:
            return phase_peaks(log, round_bytes=round_bytes)
        shallow, deeper = self.shallow.events(shape), self.deepest_events(shape)
        return deep_phase_peaks(shallow, deeper, self.extra_layers, round_bytes=round_bytes)

    def multiplies_in(self, phase: str) -> bool:
        """Whether a phase runs a matrix product of cuBLAS, which then takes its workspace."""
        operators = zip(self.shallow.operator_names, self.shallow.operator_phases, strict=True)
        return any(phase == where and name.split(".", 1)[0] in MATRIX_PRODUCTS for name, where in operators)

    def largest_quantized_weight(self) -> int:
        """Elements of the largest weight stored in 4 bits; 0 without any."""
        rules = [start for _, rule, start, _ in self.shallow.kernel_rules if rule == "gemm_4bit"]
        sizes = self.shallow.kernel_sizes(SAMPLED[0])
        return max((int(sizes[start + 1] * sizes[start + 2]) for start in rules), default=0)

    @cached_property
    def _operator_table(self) -> OperatorTable:
        return operator_table(self.shallow, self.deeper, self.extra_layers)

    def operators(self, shape: Shape) -> list[TracedOp]:
        """Operators of the step and of an evaluation pass; alike ones are one operator with a count."""
        return self._operator_table(shape)

    def trainable_parameters(self, rank: int) -> int:
        shallow = self.shallow.trainable_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.trainable_parameters(rank))

    def total_parameters(self, rank: int) -> int:
        shallow = self.shallow.total_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.total_parameters(rank))

    def _deep(self, shallow: int, deeper: int) -> int:
        return shallow + self.extra_layers * (deeper - shallow)
