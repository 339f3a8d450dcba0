"""One configuration at every batch, length and rank: a few traces of the same step, fitted symbolically."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from advisor.core.errors import UntraceableError
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS
from advisor.strategies import get_strategy
from advisor.tracing.kernel_temporaries import A100, Multiprocessors, hidden_bytes
from advisor.tracing.repeated_layers import padded_chunks
from advisor.tracing.symbolic import SymbolicSizes, TraceShape, UnfitError, fit_sizes

if TYPE_CHECKING:  # a family that was read from disk needs neither torch's tracing nor the Trainer
    from advisor.tracing.recorder import Recording
    from advisor.tracing.step import StepTrace, TraceRequest

PHASES = ("weights", "states", "first_forward", "first_backward", "forward", "backward", "optimizer", "evaluation")
KINDS = ("weight", "optimizer_state", "gradient", "activation", "temporary")
SAMPLED = ((11, 104, 17), (5, 24, 19), (2, 40, 17))
"""Shapes that determine the formulas: the first and third fix the exponents of batch and length, the second that of
the rank. Lengths are multiples of 8 that every pad rounds differently, below the local windows of ModernBERT (128); two
ranks need two builds. The first shape is made of primes that no model's width contains (11, 13, 17), so that two
formulas hardly ever agree there by chance."""


@dataclass(frozen=True)
class EventLog:
    """Allocations and frees of one depth at one shape.

    Attributes:
        signs: +1 allocation, -1 free.
        storages: Storage number of each event.
        phases: Index into ``PHASES`` of each event.
        sizes_bytes: By storage number.
        kinds: Index into ``KINDS`` by storage number.
        first_products: What the first matrix products of the forward and of the backward pass write; -1 where there is
            none, or it is not known.
    """

    signs: npt.NDArray[np.int64]
    storages: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]
    sizes_bytes: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    first_products: tuple[int, int] = (-1, -1)


@dataclass(frozen=True)
class SymbolicTrace:
    """Symbolic form of one (configuration, depth): evaluate with ``events``, and as a part of a ``FullDepthTrace``.

    Attributes:
        added_tokens: What prompt tuning puts before every row; the formulas are functions of the whole length.
    """

    signs: npt.NDArray[np.int64]
    storages: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    storage_sizes: SymbolicSizes
    kernel_rules: tuple[tuple[int, str, int, int], ...]
    kernel_sizes: SymbolicSizes
    operator_names: tuple[str, ...]
    operator_phases: tuple[str, ...]
    operator_dtypes: tuple[str, ...]
    operator_sizes: SymbolicSizes
    operator_slices: tuple[tuple[int, int, int], ...]
    trainable: SymbolicSizes
    total: SymbolicSizes
    added_tokens: int = 0
    first_products: tuple[int, int] = (-1, -1)

    def events(self, shape: TraceShape, card: Multiprocessors = A100) -> EventLog:
        """The allocation events at ``shape`` on a card."""
        shape = lengthened(shape, self.added_tokens)
        sizes = self.storage_sizes(shape)
        numbers = self.kernel_sizes(shape)
        for first, rule, start, stop in self.kernel_rules:
            hidden = hidden_bytes(rule, [int(n) for n in numbers[start:stop]], card)
            sizes[first : first + len(hidden)] = hidden
        return EventLog(self.signs, self.storages, self.phases, sizes, self.kinds, self.first_products)

    def trainable_parameters(self, rank: int) -> int:
        return int(self.trainable((1, 1, rank))[0])

    def total_parameters(self, rank: int) -> int:
        return int(self.total((1, 1, rank))[0])


def symbolic_trace(request: TraceRequest) -> SymbolicTrace:
    """Trace a few shapes of ``request`` and fit them.

    Batch 1 and lengths that are no multiple of 8 are evaluated with the same formulas: their events differ a little,
    their peaks by less than 0.03 % (measured on BERT and Llama).

    Args:
        request: The configuration; its own batch, length and rank do not matter.

    Raises:
        UntraceableError: a step cannot be traced, or its sizes follow no formula.
    """
    from advisor.tracing.step import TraceSession

    ranked = is_ranked(request)
    shapes = sampled_shapes(request, ranked)
    _refuse_long_loops(request)
    traces: dict[TraceShape, StepTrace] = {}
    for rank in sorted({rank for _, _, rank in shapes}):
        strategy = request.strategy.replaced(rank=rank) if ranked else request.strategy
        with TraceSession(dataclasses.replace(request, strategy=strategy)) as session:
            for shape in shapes:
                if shape[2] == rank:
                    traces[shape] = session.trace(shape[0], shape[1])
    try:
        return _fit(traces, get_strategy(request.strategy.method).added_tokens(request.strategy))
    except UnfitError as failure:
        where = _most_varied_module(request, shapes)
        raise UntraceableError(
            f"the step of {request.model.model_type} with {request.strategy.method} changes with its shape"
            f"{where and ' in ' + where}: {failure}",
            fix="no option changes what the model itself does: train it for a few steps at the length you need "
            "(transformers' Trainer with max_steps), or predict another model of this size",
        ) from failure


LONGEST_LOOP = 64
"""Chunks of a row that a step may loop over, 4,096 tokens of gated delta layers: a minute or two of tracing."""


def _refuse_long_loops(request: TraceRequest) -> None:
    """A loop over chunks is traced as it runs; one that is too long for that shows in its first two chunks."""
    from advisor.tracing.step import TraceSession

    chunks = padded_chunks(request.model, request.seq_length)
    if chunks is None or chunks[1] <= LONGEST_LOOP:
        return
    size, number = chunks
    with TraceSession(request) as session:
        one, two = (len(session.trace(2, n * size - 8).recording.operators) for n in (1, 2))
    if one != two:
        raise UntraceableError(
            f"the step of {request.model.model_type} loops over chunks of {size} tokens, {number} for a row of "
            f"{request.seq_length}: traced are at most {LONGEST_LOOP}",
            fix=f"add --max-seq-length {LONGEST_LOOP * size}, or less",
        )


def _most_varied_module(request: TraceRequest, shapes: list[TraceShape]) -> str:
    """The class of the modules whose number of storages depends on the shape most; empty where none does."""
    from advisor.tracing.attribution import attributed_trace

    counts = []
    for rows, length in {(rows, length) for rows, length, _ in shapes}:
        execution = dataclasses.replace(request.execution, micro_batch_size=rows)
        recording = attributed_trace(dataclasses.replace(request, execution=execution, seq_length=length))
        counts.append(Counter(origin.module_class for origin in recording.origins if origin.module_class))
    spread = _spread(counts)
    return max(sorted(spread), key=lambda name: spread[name], default="")


def lengthened(shape: TraceShape, added_tokens: int) -> TraceShape:
    """``shape`` with that many more tokens in every row."""
    rows, length, rank = shape
    return rows, length + added_tokens, rank


def is_ranked(request: TraceRequest) -> bool:
    """Whether the rank is symbolic.

    A PEFT configuration of the user's own is taken as it is; 8-bit optimizers store tensors below and above a size
    differently, so that the rank decides what an adapter's states are.
    """
    eight_bit = request.execution.optim in BITSANDBYTES_OPTIMIZERS
    return request.strategy.rank is not None and not eight_bit


def sampled_shapes(request: TraceRequest, ranked: bool) -> list[TraceShape]:
    """Where to trace: ``SAMPLED``, shorter for models of few positions; rank 1 where it is not symbolic.

    Where layers work in chunks, lengths of as many chunks as the request's own.
    """
    shapes = list(SAMPLED)
    chunks = padded_chunks(request.model, request.seq_length)
    if chunks is not None and (lengths := _chunked_lengths(*chunks)):
        shapes = [(batch, length, rank) for (batch, _, rank), length in zip(shapes, lengths, strict=True)]
        return [(batch, length, rank if ranked else 1) for batch, length, rank in shapes]
    limit = request.model.max_positions or 1 << 30
    if limit < max(length for _, length, _ in shapes):
        shapes = [
            (batch, min(8 * index, limit), rank) for index, (batch, _, rank) in zip((2, 1, 4), shapes, strict=True)
        ]
    return [(batch, length, rank if ranked else 1) for batch, length, rank in shapes]


def _chunked_lengths(size: int, number: int) -> list[int]:
    """Three lengths of ``number`` chunks: ``SAMPLED``'s where they are; else a multiple of 8 times a prime first.

    The last chunk is padded in all of them: a full one, whose padding is cut off by no copy, has its peak within
    0.1 %. Empty where a chunk is so short that it has no three lengths.
    """
    usual = [length for _, length, _ in SAMPLED]
    if number == 1 and max(usual) < size:
        return usual
    eighths = range((number - 1) * size // 8 + 1, number * size // 8)
    if len(eighths) < 3:
        return []
    primes = [n for n in eighths if all(n % divisor for divisor in range(2, math.isqrt(n) + 1))]
    first = max((n for n in primes if n > 11), default=eighths[-1])
    rest = [n for n in eighths if n != first]
    return [8 * first, 8 * rest[0], 8 * rest[-1]]


def _fit(traces: dict[TraceShape, StepTrace], added: int) -> SymbolicTrace:
    shapes = [lengthened(shape, added) for shape in traces]
    recordings = [trace.recording for trace in traces.values()]
    first = recordings[0]
    logs = [canonical_events(recording) for recording in recordings]
    if any(log != logs[0] for log in logs) or any(not _same_operators(first, other) for other in recordings):
        raise UnfitError(f"it runs different operators or allocations at different shapes{_most_varied(recordings)}")
    events = np.array(logs[0], dtype=np.int64).reshape(-1, 3)
    rules, hidden = kernel_rules(first)
    storage_sizes = [
        [0 if number in hidden else storage.size_bytes for number, storage in enumerate(recording.storages)]
        for recording in recordings
    ]
    kernel_sizes = [[n for _, call in recording.kernel_calls for n in call.sizes] for recording in recordings]
    return SymbolicTrace(
        signs=events[:, 0],
        storages=events[:, 1],
        phases=events[:, 2],
        kinds=np.array([KINDS.index(storage.kind) for storage in first.storages], dtype=np.int64),
        storage_sizes=fit_columns(storage_sizes, shapes),
        kernel_rules=rules,
        kernel_sizes=fit_columns(kernel_sizes, shapes),
        operator_names=tuple(operator.name for operator in first.operators),
        operator_phases=tuple(operator.phase for operator in first.operators),
        operator_dtypes=tuple(operator.dtype for operator in first.operators),
        operator_sizes=fit_columns([_operator_values(recording) for recording in recordings], shapes),
        operator_slices=operator_slices(first),
        trainable=fit_columns([[trace.trainable_parameters] for trace in traces.values()], shapes),
        total=fit_columns([[trace.total_parameters] for trace in traces.values()], shapes),
        added_tokens=added,
        first_products=first_products(first),
    )


def first_products(recording: Recording) -> tuple[int, int]:
    """As in ``EventLog``: with accumulated gradients those of the first micro-batch."""
    found = recording.first_products
    forward, backward = (found.get(f"first_{phase}", found.get(phase, -1)) for phase in ("forward", "backward"))
    return forward, backward


def kernel_rules(recording: Recording) -> tuple[tuple[tuple[int, str, int, int], ...], set[int]]:
    """``(first storage, rule, slice of the rule's numbers)`` of each kernel call, and all storages they own."""
    rules: list[tuple[int, str, int, int]] = []
    hidden: set[int] = set()
    offset = 0
    for start, call in recording.kernel_calls:
        rules.append((start, call.rule, offset, offset + len(call.sizes)))
        offset += len(call.sizes)
        hidden.update(range(start, start + len(hidden_bytes(call.rule, call.sizes))))
    return tuple(rules), hidden


def operator_slices(recording: Recording) -> tuple[tuple[int, int, int], ...]:
    """Where each operator's FLOPs, reads and writes lie in the flat vector: ``(start, first write, stop)``."""
    slices, position = [], 0
    for operator in recording.operators:
        middle = position + 1 + len(operator.read_bytes)
        stop = middle + len(operator.written_bytes)
        slices.append((position, middle, stop))
        position = stop
    return tuple(slices)


def fit_columns(samples: list[list[int]], shapes: list[TraceShape]) -> SymbolicSizes:
    """Formulas of ``samples[shape][quantity]``."""
    return fit_sizes(np.array(samples, dtype=np.int64).reshape(len(shapes), -1).T, shapes)


def _operator_values(recording: Recording) -> list[int]:
    return [n for op in recording.operators for n in (op.flops, *op.read_bytes, *op.written_bytes)]


def _same_operators(first: Recording, other: Recording) -> bool:
    def outline(recording: Recording) -> list[tuple[str, str, int, int]]:
        return [(op.name, op.phase, len(op.read_bytes), len(op.written_bytes)) for op in recording.operators]

    return outline(first) == outline(other)


def _most_varied(recordings: list[Recording], most: int = 3) -> str:
    """Of which operators the number depends on the shape, in words: a loop over chunks of the sequence, for example."""
    counts = [Counter(op.name.split(".")[0] for op in recording.operators) for recording in recordings]
    spread = _spread(counts)
    names = sorted(spread, key=lambda name: (-spread[name], name))
    return f" (the number of {', '.join(names[:most])} depends on the length)" if names else ""


def _spread(counts: list[Counter[str]]) -> dict[str, int]:
    """By how much each count varies, of those that do."""
    names = {name for count in counts for name in count}
    spread = {name: max(c[name] for c in counts) - min(c[name] for c in counts) for name in names}
    return {name: extent for name, extent in spread.items() if extent}


def recorded_events(recording: Recording) -> EventLog:
    """The allocation events of one trace at its own shape."""
    events = np.array(canonical_events(recording), dtype=np.int64).reshape(-1, 3)
    return EventLog(
        signs=events[:, 0],
        storages=events[:, 1],
        phases=events[:, 2],
        sizes_bytes=np.array([storage.size_bytes for storage in recording.storages], dtype=np.int64),
        kinds=np.array([KINDS.index(storage.kind) for storage in recording.storages], dtype=np.int64),
    )


def canonical_events(recording: Recording) -> list[tuple[int, int, int]]:
    """Events with the frees of one run in a fixed order: the order inside a run changes nothing and is not stable."""
    canonical: list[tuple[int, int, int]] = []
    frees: list[tuple[int, int, int]] = []
    for sign, storage, phase in recording.events:
        if sign > 0:
            canonical.extend(sorted(frees, key=_free_order))
            frees = []
            canonical.append((sign, storage, PHASES.index(phase)))
        else:
            frees.append((sign, storage, PHASES.index(phase)))
    return canonical + sorted(frees, key=_free_order)


def _free_order(event: tuple[int, int, int]) -> tuple[int, int]:
    return event[2], event[1]
