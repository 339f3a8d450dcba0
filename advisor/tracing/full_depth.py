"""A deep stack from two shallow ones: memory and operators of the whole model."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advisor.core.errors import AdvisorError
from advisor.core.store import write_text_atomically
from advisor.tracing.full_depth_events import DeepLog, MisalignedError, deepen
from advisor.tracing.kernel_temporaries import A100, Multiprocessors
from advisor.tracing.ops import MEMBERS, TracedOp
from advisor.tracing.symbolic import BASIS, TraceShape, features
from advisor.tracing.symbolic_trace import KINDS, PHASES, SAMPLED, EventLog, SymbolicTrace, lengthened

MATRIX_PRODUCTS = frozenset(f"{MEMBERS['gemm']} {MEMBERS['bmm']} gemm_4bit".split())
"""Operators that cuBLAS or cuBLASLt computes (of a 4-bit product the part after de-quantisation)."""

TRAINING_PHASES = tuple(phase for phase in PHASES if phase != "evaluation")


class ReplayCache:
    """Replays of a family that were made before: a whole run costs a quarter of a second, its answer is three numbers.

    A key names everything that the replay depends on, the version of its code included. Two processes that write at
    once lose an entry, never the file.

    Args:
        path: JSON, beside the family's traces; ``None`` remembers nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[int]] | None = None

    def get(self, key: str, compute: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The numbers of ``key``, computed when they are not known."""
        if self._path is None:
            return compute()
        if self._known is None:
            self._known = self._read()
        if key not in self._known:
            found = compute()
            self._known = self._read() | self._known
            self._known[key] = list(found)
            with contextlib.suppress(OSError, AdvisorError):
                write_text_atomically(self._path, json.dumps(self._known))
        return tuple(self._known[key])

    def _read(self) -> dict[str, list[int]]:
        """What is on disk; nothing when it is damaged."""
        try:
            values = json.loads(self._path.read_text()) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        if not isinstance(values, dict):
            return {}
        return {
            key: value
            for key, value in values.items()
            if isinstance(value, list) and all(isinstance(number, int) for number in value)
        }


@dataclass(frozen=True)
class FullDepthTrace:
    """One configuration at every batch, length and rank, at the model's full depth.

    Attributes:
        shallow: Traced whole when ``deeper`` is ``None``, else at a shallow depth.
        deeper: Traced with one repeated block of layers more than ``shallow``.
        extra_layers: Blocks of the model beyond ``shallow``.
        replays: What replays of the full depth found before.
        card: Whose kernels take temporaries.
    """

    shallow: SymbolicTrace
    deeper: SymbolicTrace | None = None
    extra_layers: int = 0
    replays: ReplayCache = field(default_factory=ReplayCache, compare=False)
    card: Multiprocessors = A100

    @cached_property
    def deep_log(self) -> DeepLog | None:
        """How the full depth's events follow from the two traces; ``None`` where that cannot be shown."""
        if self.deeper is None:
            return None
        try:
            return deepen(self.shallow, self.deeper, self.extra_layers)
        except MisalignedError:
            return None

    def events(self, shape: TraceShape) -> EventLog | None:
        """Allocations and frees of a step and an evaluation pass at full depth; ``None`` where they are unknown."""
        if self.deeper is None:
            return self.shallow.events(shape, self.card)
        if self.deep_log is None:
            return None
        return self.deep_log.events(self.shallow.events(shape, self.card), self.deeper.events(shape, self.card))

    def deepest_events(self, shape: TraceShape) -> EventLog:
        """The same at the greatest traced depth."""
        return (self.deeper or self.shallow).events(shape, self.card)

    def peaks(self, shape: TraceShape, *, round_bytes: int) -> dict[str, Peak]:
        """Peak of every phase of the step, and of an evaluation pass of the same shape."""
        log = self.events(shape)
        if log is not None:
            return phase_peaks(log, round_bytes=round_bytes)
        shallow, deeper = self.shallow.events(shape, self.card), self.deepest_events(shape)
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
    def operator_table(self) -> OperatorTable:
        """Operators of the step and of an evaluation pass at any shape."""
        return operator_table(self.shallow, self.deeper, self.extra_layers)

    @cached_property
    def training_table(self) -> OperatorTable:
        """Those of the step."""
        return self.operator_table.of_phases(TRAINING_PHASES)

    @cached_property
    def evaluation_table(self) -> OperatorTable:
        """Those of an evaluation pass."""
        return self.operator_table.of_phases(("evaluation",))

    def operators(self, shape: TraceShape) -> list[TracedOp]:
        """Operators of the step and of an evaluation pass; alike ones are one operator with a count."""
        return self.operator_table(shape)

    def trainable_parameters(self, rank: int) -> int:
        shallow = self.shallow.trainable_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.trainable_parameters(rank))

    def total_parameters(self, rank: int) -> int:
        shallow = self.shallow.total_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.total_parameters(rank))

    def _deep(self, shallow: int, deeper: int) -> int:
        return shallow + self.extra_layers * (deeper - shallow)


# --------------------
# Operators of a step at the model's depth, as a table of formulas: any shape is one small matrix product.
#
# A step dispatches thousands of operators, but its layers repeat: operators of the same name, data type, phase and
# formulas are one row with a count. What occurs equally often at both traced depths (head, embeddings, one fused update
# of all parameters) keeps its number and its sizes grow linearly; what a layer adds is counted once more for every
# further layer.

Formula = tuple[float, ...]
"""Coefficients over ``symbolic.BASIS``."""


@dataclass(frozen=True)
class OperatorFormulas:
    """One kind of call: what it is, and its FLOPs and bytes as functions of the shape."""

    phase: str
    name: str
    dtype: str
    flops: Formula
    read_bytes: Formula
    written_bytes: Formula

    def __post_init__(self) -> None:
        # Counted thousands of times: seventy-odd coefficients are hashed once.
        key = (self.phase, self.name, self.dtype, *self._formulas)
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return int(self._hash)  # type: ignore[attr-defined]

    def grown(self, other: OperatorFormulas, layers: int) -> OperatorFormulas:
        """The same call at ``layers`` layers more, when ``other`` is it at one layer more."""
        pairs = zip(self._formulas, other._formulas, strict=True)
        grown = [tuple(a + layers * (b - a) for a, b in zip(*pair, strict=True)) for pair in pairs]
        return OperatorFormulas(self.phase, self.name, self.dtype, *grown)

    @property
    def _formulas(self) -> tuple[Formula, Formula, Formula]:
        return self.flops, self.read_bytes, self.written_bytes


class OperatorTable:
    """All operators of a step and of an evaluation pass.

    Args:
        counts: How often the step makes each call, in the order of its first occurrence.
        added_tokens: What prompt tuning puts before every row; the formulas are functions of the whole length.
    """

    def __init__(self, counts: dict[OperatorFormulas, int], added_tokens: int = 0) -> None:
        self._added_tokens = added_tokens
        self.rows = list(counts)
        self.counts = list(counts.values())
        formulas = [[row.flops, row.read_bytes, row.written_bytes] for row in self.rows]
        self._coefficients = np.array(formulas).reshape(len(self.rows), 3, len(BASIS))

    def of_phases(self, wanted: Container[str]) -> OperatorTable:
        """The calls in some phases of the step."""
        kept = {row: n for row, n in zip(self.rows, self.counts, strict=True) if row.phase in wanted}
        return OperatorTable(kept, self._added_tokens)

    def sizes(self, shape: TraceShape) -> npt.NDArray[np.int64]:
        """(calls, 3) array of FLOPs, bytes read and bytes written at ``shape``."""
        return np.rint(self._coefficients @ features(lengthened(shape, self._added_tokens))).astype(np.int64)

    def __call__(self, shape: TraceShape) -> list[TracedOp]:
        """The calls at ``shape``, alike ones together, without replay signatures."""
        sizes = self.sizes(shape).tolist()
        return [
            TracedOp(row.name, row.phase, flops, read, written, row.dtype, count=count)  # type: ignore[arg-type]
            for row, count, (flops, read, written) in zip(self.rows, self.counts, sizes, strict=True)
        ]


def operator_table(shallow: SymbolicTrace, deeper: SymbolicTrace | None, extra_layers: int) -> OperatorTable:
    """The table at the model's depth."""
    operators = operator_formulas(shallow)
    if deeper is None:
        return OperatorTable(Counter(operators), shallow.added_tokens)
    counts = deep_operators(operators, operator_formulas(deeper), extra_layers)
    return OperatorTable(counts, shallow.added_tokens)


def operator_formulas(family: SymbolicTrace) -> list[OperatorFormulas]:
    """Every call of a traced step, in order."""
    sizes = family.operator_sizes
    rows = sizes.coefficients[sizes.inverse]

    def formula(start: int, stop: int) -> Formula:
        return tuple(rows[start:stop].sum(axis=0).tolist())

    kinds: dict[tuple[object, ...], OperatorFormulas] = {}
    columns = zip(
        family.operator_phases, family.operator_names, family.operator_dtypes, family.operator_slices, strict=True
    )
    inverse = sizes.inverse.tolist()
    operators = []
    for phase, name, dtype, (start, middle, stop) in columns:
        key = (phase, name, dtype, middle - start, *inverse[start:stop])
        if key not in kinds:
            kinds[key] = OperatorFormulas(
                phase, name, dtype, formula(start, start + 1), formula(start + 1, middle), formula(middle, stop)
            )
        operators.append(kinds[key])
    return operators


def deep_operators(
    shallow: list[OperatorFormulas], deeper: list[OperatorFormulas], extra_layers: int
) -> dict[OperatorFormulas, int]:
    """Calls of the full depth with their numbers, from two depths that differ by one repeated block of layers."""
    first, second = _grouped(shallow), _grouped(deeper)
    result: Counter[OperatorFormulas] = Counter()
    for key, after in second.items():
        before = first.get(key, [])
        if len(before) == len(after):
            result.update(a.grown(b, extra_layers) for a, b in zip(before, after, strict=True))
        else:
            result.update(_repeated(before, after, extra_layers))
    return dict(result)


def _grouped(operators: Iterable[OperatorFormulas]) -> dict[tuple[str, str, str], list[OperatorFormulas]]:
    groups: dict[tuple[str, str, str], list[OperatorFormulas]] = defaultdict(list)
    for op in operators:
        groups[op.phase, op.name, op.dtype].append(op)
    return groups


def _repeated(
    before: list[OperatorFormulas], after: list[OperatorFormulas], extra_layers: int
) -> dict[OperatorFormulas, int]:
    counted_before, counted_after = Counter(before), Counter(after)
    counts = {op: counted_before[op] + extra_layers * (counted_after[op] - counted_before[op]) for op in counted_after}
    if min(counts.values()) < 0 or set(counted_before) - set(counted_after):
        # Sizes differ between the depths: scale the deeper trace's mix to the number that the full depth runs.
        number = len(before) + extra_layers * (len(after) - len(before))
        return {op: max(1, round(count * number / len(after))) for op, count in counted_after.items()}
    return {op: count for op, count in counts.items() if count}


# --------------------
# From allocation events to peaks: live bytes over the step, at the depth of the model.
#
# Where the events of the full depth are unknown, two shallow depths bound them: positions before the repeated block are
# aligned from the start of a phase, positions after it from its end, and live bytes at either grow linearly with depth.
# Between the two alignments live bytes move linearly from layer to layer, so no inner position can exceed both. Exact
# when each traced depth has at least (unfrozen layers + 2) layers.

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """The largest moment of one phase.

    Attributes:
        live_bytes: All live storages, each rounded as the allocator rounds it.
        by_kind: The same by ``KINDS``, in order; adds up to ``live_bytes``.
    """

    live_bytes: int
    by_kind: tuple[int, ...]


@dataclass(frozen=True)
class _Curve:
    """Live bytes after each event of one phase, by kind: (events, kinds), and the signed sizes for alignment."""

    by_kind: Ints
    signed: Ints

    @property
    def live(self) -> Ints:
        return self.by_kind.sum(axis=1)


def phase_peaks(log: EventLog, *, round_bytes: int) -> dict[str, Peak]:
    """Peak of every phase of a fully traced step.

    Args:
        log: Events at full depth.
        round_bytes: Granularity of the allocator (``MemoryTraits``).
    """
    peaks = {}
    for name, curve in _curves(log, round_bytes).items():
        index = int(np.argmax(curve.live))
        peaks[name] = _peak(curve.by_kind[index])
    return peaks


def deep_phase_peaks(shallow: EventLog, deeper: EventLog, extra_layers: int, *, round_bytes: int) -> dict[str, Peak]:
    """Peak of every phase at ``extra_layers`` layers more than ``shallow``; ``deeper`` has one layer more than it."""
    first, second = _curves(shallow, round_bytes), _curves(deeper, round_bytes)
    peaks = {}
    for name in first:
        candidates = _aligned(first[name], second[name], extra_layers)
        peaks[name] = _peak(candidates[int(np.argmax(candidates.sum(axis=1)))])
    return peaks


def _peak(by_kind: Ints) -> Peak:
    return Peak(int(by_kind.sum()), tuple(int(n) for n in by_kind))


def _curves(log: EventLog, round_bytes: int) -> dict[str, _Curve]:
    rounded = -(-log.sizes_bytes // round_bytes) * round_bytes
    signed = log.signs * rounded[log.storages]
    steps = np.zeros((len(signed), len(KINDS)), dtype=np.int64)
    steps[np.arange(len(signed)), log.kinds[log.storages]] = signed
    live = steps.cumsum(axis=0)
    curves = {}
    for index, name in enumerate(PHASES):
        inside = log.phases == index
        if inside.any():
            curves[name] = _Curve(live[inside], signed[inside])
    return curves


def _aligned(first: _Curve, second: _Curve, extra_layers: int) -> Ints:
    """Live bytes by kind at all positions that both depths share, carried to the wanted depth."""
    short, long = len(first.signed), len(second.signed)
    prefix = _common(first.signed, second.signed[:short])
    suffix = _common(first.signed[::-1], second.signed[long - short :][::-1])
    front = first.by_kind[:prefix] + extra_layers * (second.by_kind[:prefix] - first.by_kind[:prefix])
    start = short - suffix
    tail = second.by_kind[long - suffix :]
    back = first.by_kind[start:] + extra_layers * (tail - first.by_kind[start:])
    top_first, top_second = int(np.argmax(first.live)), int(np.argmax(second.live))
    top = first.by_kind[top_first] + extra_layers * (second.by_kind[top_second] - first.by_kind[top_first])
    return np.concatenate([front, back, top[None, :]])


def _common(first: Ints, second: Ints) -> int:
    differ = np.flatnonzero(first != second)
    return int(differ[0]) if len(differ) else len(first)
