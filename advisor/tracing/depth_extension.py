"""The same step with more layers, from one trace: what a layer adds has the formulas that its sisters have.

A family costs three traces, because three shapes determine its formulas. The layers that a deeper model adds run the
operators of the layers before them on storages of the same sizes, so one trace finds each quantity's formula among the
shallow family's: by what it is (operator, phase) and how large it is at the traced shape. What grows with the depth
itself (the stacked norms of clipping, one fused update of all parameters) keeps its formula and is scaled. Where this
is not unique, nothing is guessed: the caller traces all shapes. Nor is it assumed that a method treats layers alike:
what all layers share, or share in groups, shows in the parameter counts, which are taken at full depth.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from advisor.core.errors import AdvisorError
from advisor.tracing.recorder import Recording
from advisor.tracing.repeated_layers import Depths
from advisor.tracing.step import TraceRequest, TraceSession
from advisor.tracing.symbolic import SymbolicSizes, TraceShape, UnfitError
from advisor.tracing.symbolic_trace import (
    KINDS,
    SymbolicTrace,
    canonical_events,
    first_products,
    fit_columns,
    is_ranked,
    kernel_rules,
    operator_slices,
    sampled_shapes,
)

Ints = npt.NDArray[np.int64]


def grows_evenly(request: TraceRequest, depths: Depths) -> bool:
    """Whether the parameters of the whole model are those of the shallower one and equally many a block.

    The model is built at three depths, not stepped. One that cannot be built at a lesser depth does not grow evenly.
    """
    layers = (depths.shallow, depths.deeper, None)
    try:
        shallow, deeper, whole = (_parameter_counts(dataclasses.replace(request, num_hidden_layers=n)) for n in layers)
    except AdvisorError:
        return False  # the trace of the whole model says what is wrong with it
    blocks = depths.repeats
    return all(w == s + blocks * (d - s) for s, d, w in zip(shallow, deeper, whole, strict=True))


def _parameter_counts(request: TraceRequest) -> tuple[int, int]:
    with TraceSession(request) as session:
        return session.parameter_counts()


def trace_deeper(request: TraceRequest, shallow: SymbolicTrace) -> SymbolicTrace | None:
    """The family of ``request`` from one trace of it and the family of the same step with fewer layers.

    Returns:
        ``None`` when a formula cannot be assigned uniquely.

    Raises:
        UntraceableError: the step cannot be traced.
    """
    if shallow.added_tokens:  # a prompt makes sizes of two lengths
        return None
    ranked = is_ranked(request)
    shapes = sampled_shapes(request, ranked)
    shape = shapes[0]
    counts: list[tuple[int, int]] = []
    ranks = list(dict.fromkeys(rank for _, _, rank in shapes))
    for rank in ranks:
        strategy = request.strategy.replaced(rank=rank) if ranked else request.strategy
        with TraceSession(dataclasses.replace(request, strategy=strategy)) as session:
            if rank == shape[2]:
                recording = session.trace(shape[0], shape[1]).recording
            counts.append(session.parameter_counts())
    try:
        return _transplanted(recording, shape, shallow, counts, [(1, 1, rank) for rank in ranks])
    except UnfitError:
        return None


def _transplanted(
    recording: Recording,
    shape: TraceShape,
    shallow: SymbolicTrace,
    counts: list[tuple[int, int]],
    ranks: list[TraceShape],
) -> SymbolicTrace:
    events = np.array(canonical_events(recording), dtype=np.int64).reshape(-1, 3)
    rules, hidden = kernel_rules(recording)
    return SymbolicTrace(
        signs=events[:, 0],
        storages=events[:, 1],
        phases=events[:, 2],
        kinds=np.array([KINDS.index(storage.kind) for storage in recording.storages], dtype=np.int64),
        storage_sizes=_storage_sizes(recording, hidden, shape, shallow),
        kernel_rules=rules,
        kernel_sizes=_kernel_sizes(recording, shape, shallow),
        operator_names=tuple(operator.name for operator in recording.operators),
        operator_phases=tuple(operator.phase for operator in recording.operators),
        operator_dtypes=tuple(operator.dtype for operator in recording.operators),
        operator_sizes=_operator_sizes(recording, shape, shallow),
        operator_slices=operator_slices(recording),
        trainable=fit_columns([[trainable] for trainable, _ in counts], ranks),
        total=fit_columns([[total] for _, total in counts], ranks),
        first_products=first_products(recording),
    )


def _storage_sizes(recording: Recording, hidden: set[int], shape: TraceShape, shallow: SymbolicTrace) -> SymbolicSizes:
    sizes = shallow.storage_sizes(shape)
    made = shallow.signs > 0
    phase_of = dict(zip(shallow.storages[made].tolist(), shallow.phases[made].tolist(), strict=True))
    known = [
        _Item((shallow.kinds[number].item(), phase_of[number]), (int(sizes[number]),), (number,))
        for number in range(len(sizes))
    ]
    phases = {storage: phase for sign, storage, phase in canonical_events(recording) if sign > 0}
    wanted = [
        _Item((KINDS.index(storage.kind), phases[number]), (0 if number in hidden else storage.size_bytes,))
        for number, storage in enumerate(recording.storages)
    ]
    return _assign(wanted, known, shallow.storage_sizes)


def _kernel_sizes(recording: Recording, shape: TraceShape, shallow: SymbolicTrace) -> SymbolicSizes:
    numbers = shallow.kernel_sizes(shape).tolist()
    known = [
        _Item((rule,), tuple(numbers[start:stop]), tuple(range(start, stop)), tuple(range(stop - start)))
        for _, rule, start, stop in shallow.kernel_rules
    ]
    wanted = [
        _Item((call.rule,), tuple(int(n) for n in call.sizes), roles=tuple(range(len(call.sizes))))
        for _, call in recording.kernel_calls
    ]
    return _assign(wanted, known, shallow.kernel_sizes)


def _operator_sizes(recording: Recording, shape: TraceShape, shallow: SymbolicTrace) -> SymbolicSizes:
    values = shallow.operator_sizes(shape).tolist()
    outlines = zip(
        shallow.operator_names, shallow.operator_phases, shallow.operator_dtypes, shallow.operator_slices, strict=True
    )
    known = [
        _Item(
            (name, phase, dtype),
            tuple(values[start:stop]),
            tuple(range(start, stop)),
            _roles(middle - start, stop - start),
        )
        for name, phase, dtype, (start, middle, stop) in outlines
    ]
    wanted = []
    for op in recording.operators:
        numbers = (op.flops, *op.read_bytes, *op.written_bytes)
        roles = _roles(1 + len(op.read_bytes), len(numbers))
        wanted.append(_Item((op.name, op.phase, op.dtype), tuple(int(n) for n in numbers), roles=roles))
    return _assign(wanted, known, shallow.operator_sizes)


def _roles(first_write: int, count: int) -> tuple[Hashable, ...]:
    """What each number of an operator is: FLOPs, bytes read, bytes written."""
    return ("flops", *["read"] * (first_write - 1), *["written"] * (count - first_write))


@dataclasses.dataclass(frozen=True)
class _Item:
    """Numbers that belong together (of one storage, call or operator).

    Attributes:
        outline: What they are; only like is matched with like.
        values: At the traced shape.
        positions: Where they lie in the shallow family's vector.
        roles: What each of them is.
    """

    outline: tuple[Hashable, ...]
    values: tuple[int, ...]
    positions: tuple[int, ...] = ()
    roles: tuple[Hashable, ...] = ("size",)

    @property
    def key(self) -> Hashable:
        return self.outline, self.roles, self.values

    def elements(self) -> list[Hashable]:
        """One key per number."""
        return [(self.outline, role, value) for role, value in zip(self.roles, self.values, strict=True)]


class _Formulas:
    """The shallow family's formulas, found by what has them.

    Args:
        known: Its items, with positions.
        sizes: Its vector of formulas.
    """

    def __init__(self, known: Sequence[_Item], sizes: SymbolicSizes) -> None:
        self.coefficients = list(sizes.coefficients)
        self._sizes = sizes
        self._items: dict[Hashable, set[tuple[int, ...]]] = defaultdict(set)
        self._elements: dict[Hashable, set[int]] = defaultdict(set)
        for item in known:
            rows = self.rows(item)
            self._items[item.key].add(rows)
            for element, row in zip(item.elements(), rows, strict=True):
                self._elements[element].add(row)

    def rows(self, item: _Item) -> tuple[int, ...]:
        """Formulas of a known item."""
        return tuple(int(self._sizes.inverse[position]) for position in item.positions)

    def of_equal(self, item: _Item) -> tuple[int, ...] | None:
        """Formulas of the equal item; ``None`` when there is none."""
        found = self._items.get(item.key)
        return None if found is None else self._single(found)

    def of_grown(self, item: _Item, counterpart: _Item | None) -> tuple[int, ...]:
        """Formulas of what grows with the depth, number by number.

        One number of its role (a stacked norm) grows from its counterpart's; of several (the tensors of one fused
        update) each has its equal among the shallow model's.
        """
        rows = []
        for role, value, element in zip(item.roles, item.values, item.elements(), strict=True):
            alone = counterpart is not None and counterpart.roles.count(role) == item.roles.count(role) == 1
            if alone and counterpart is not None:
                position = counterpart.roles.index(role)
                rows.append(self.scaled(self.rows(counterpart)[position], counterpart.values[position], value))
            else:
                rows.append(self._single(self._elements[element]))
        return tuple(rows)

    def scaled(self, row: int, before: int, after: int) -> int:
        """The formula ``row``, grown from ``before`` to ``after`` at the traced shape."""
        if before == after:
            return row
        if before == 0 or np.count_nonzero(self.coefficients[row]) != 1:
            raise UnfitError("a sum does not say which of its parts grew")
        self.coefficients.append(self.coefficients[row] * (after / before))
        return len(self.coefficients) - 1

    @staticmethod
    def _single(found: set[Any]) -> Any:
        if len(found) != 1:
            raise UnfitError(f"{len(found)} formulas agree at the traced shape: {found}")
        return next(iter(found))


def _assign(wanted: Sequence[_Item], known: Sequence[_Item], sizes: SymbolicSizes) -> SymbolicSizes:
    """Formulas for ``wanted``: of its equal in ``known``, else of its counterpart, grown, else number by number."""
    formulas = _Formulas(known, sizes)
    counterparts = _counterparts(wanted, known)
    inverse: list[int] = []
    for index, item in enumerate(wanted):
        rows = formulas.of_equal(item)
        inverse.extend(rows if rows is not None else formulas.of_grown(item, counterparts.get(index)))
    coefficients = np.array(formulas.coefficients).reshape(-1, sizes.coefficients.shape[1])
    return SymbolicSizes(np.array(inverse, dtype=np.int64), coefficients)


def _counterparts(wanted: Sequence[_Item], known: Sequence[_Item]) -> dict[int, _Item]:
    """What has no equal, paired in order with what lost its equal: the same thing at another depth."""
    grown: dict[Hashable, list[int]] = defaultdict(list)
    left: dict[Hashable, list[_Item]] = defaultdict(list)
    there, here = {item.key for item in known}, {item.key for item in wanted}
    for index, item in enumerate(wanted):
        if item.key not in there:
            grown[item.outline].append(index)
    for item in known:
        if item.key not in here:
            left[item.outline].append(item)
    pairs: dict[int, _Item] = {}
    for outline, indices in grown.items():
        if len(left[outline]) == len(indices):
            pairs.update(zip(indices, left[outline], strict=True))
    return pairs
