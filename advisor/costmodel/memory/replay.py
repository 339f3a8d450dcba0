"""A run through the model of an allocator: what it holds, and with how little it would get through.

The order is the run's: weights; the first step without optimizer states, which AdamW and its kin create inside the
first update, in the gaps that activations left; then the batches of ``RunShapes.steps``. The cuBLAS workspaces are
taken from the same allocator by the first matrix product of each thread, forward and backward (torch 2.13,
aten/src/ATen/cuda/CublasHandlePool.cpp: one per thread and stream, shared with cuBLASLt), and are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replaced

import numpy as np
import numpy.typing as npt

from advisor.core.code_version import code_version
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.costmodel.memory.caching_allocator import CachingAllocator, ExpandableAllocator
from advisor.costmodel.memory.event_replay import EventReplay
from advisor.costmodel.memory.glibc_heap import Heap
from advisor.tracing.symbolic import TraceShape
from advisor.tracing.symbolic_trace import PHASES, EventLog

_FORWARD_WORKSPACE, _BACKWARD_WORKSPACE, _BATCHES, _LOADING, _KERNEL_BUFFER = -1, -2, -3, -4, -5
"""Numbers of storages that no trace has."""

KERNEL_BUFFER_BYTES = 8 << 20
"""What MKL or oneDNN takes for good when the largest product first runs on a CPU. Buffers of 14 and 23 MiB were found
there in a small Llama; the gap that they cut in two matters more than their size. Resident sets of 222 steps (MiniLM to
BERT size) came out with a root mean square error of 4.0 % and a worst of 19 % without one, 2.5 and 13 % with it."""
LESS_CAPACITY = 0.97
"""A run must also get through with this share of what it is given: whether it does is erratic where memory is short,
and the trace may be a little off."""


@dataclass(frozen=True)
class Workspaces:
    """Sizes of the workspaces of the forward and of the backward thread; 0 where none is taken."""

    forward_bytes: int
    backward_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.forward_bytes + self.backward_bytes


@dataclass(frozen=True)
class UntracedAllocations:
    """What a run holds for a while and no trace has.

    Attributes:
        batch_bytes: Further micro-batches, through every step.
        loading_bytes: The largest weight in full precision while it is quantised, beside all others.
    """

    batch_bytes: int = 0
    loading_bytes: int = 0


NOTHING = UntracedAllocations()
NO_WORKSPACES = Workspaces(0, 0)


@dataclass(frozen=True)
class AllocatorPeaks:
    """What the allocator holds at most during a run.

    Attributes:
        allocated_bytes: As ``torch.cuda.max_memory_allocated``: blocks in use, with what was not worth splitting off.
        reserved_bytes: As ``max_memory_reserved`` on the given device.
        required_bytes: What the device must give for the run to end, when cached segments are returned in time.
    """

    allocated_bytes: int
    reserved_bytes: int
    required_bytes: int


@dataclass(frozen=True)
class Schedule:
    """A log cut where a run differs from it; events are storage numbers, ``~number`` frees.

    Attributes:
        weights, states: What lasts, allocated once.
        forward: From the batch to the first loss.
        backward: From there to the first update.
        update: The rest of the step; ends with what the log left alive.
        evaluation: One evaluation pass.
        forward_product, backward_product: Events of these passes before their first matrix product takes a workspace.
    """

    weights: list[int]
    states: list[int]
    forward: list[int]
    backward: list[int]
    update: list[int]
    evaluation: list[int]
    forward_product: int = 0
    backward_product: int = 0


def schedule(log: EventLog) -> Schedule:
    """Cut the log of a step and an evaluation pass into the pieces of a run."""
    events = np.where(log.signs > 0, log.storages, ~log.storages)
    phase = {name: log.phases == index for index, name in enumerate(PHASES)}
    lasting = (phase["weights"] | phase["states"]) & (log.signs > 0)
    evaluation = phase["evaluation"]
    step = ~(phase["weights"] | phase["states"] | evaluation)
    steps = events[step]
    backwards = phase["backward"] | phase["first_backward"]
    borders = np.searchsorted(np.flatnonzero(step), [_first(backwards), _first(phase["optimizer"])])
    forward, backward = steps[: borders[0]].tolist(), steps[borders[0] : borders[1]].tolist()
    return Schedule(
        weights=events[lasting & phase["weights"]].tolist(),
        states=events[lasting & phase["states"]].tolist(),
        forward=forward,
        backward=backward,
        forward_product=_behind(forward, log.first_products[0]),
        backward_product=_behind(backward, log.first_products[1]),
        update=[*steps[borders[1] :].tolist(), *_left_alive(steps)],
        evaluation=[*events[evaluation].tolist(), *_left_alive(events[evaluation])],
    )


def replay(
    plan: Schedule,
    sizes: dict[TraceShape, list[int]],
    shapes: RunShapes,
    workspaces: Workspaces,
    extras: UntracedAllocations = NOTHING,
    capacity_bytes: int | None = None,
    *,
    expandable_segments: bool = False,
) -> CachingAllocator:
    """Run a whole history through an allocator; it stops where memory ends.

    Args:
        plan: Pieces of the step.
        sizes: Bytes by storage number, for every shape of the history.
        shapes: The history.
        workspaces: Taken at the first forward and backward pass.
        extras: What the trace has not.
        capacity_bytes: What the device gives; ``None`` is unbounded.
        expandable_segments: As in ``PYTORCH_ALLOC_CONF``.
    """
    allocator = (ExpandableAllocator if expandable_segments else CachingAllocator)(capacity_bytes)
    allocator.replay(plan.weights, sizes[shapes.training])
    if extras.loading_bytes and allocator.allocate(_LOADING, extras.loading_bytes):
        allocator.release(_LOADING)
    _run(allocator, plan, sizes, shapes.steps(), workspaces, extras)
    return allocator


def heap_bytes(
    plan: Schedule, sizes: dict[TraceShape, list[int]], shapes: RunShapes, extras: UntracedAllocations = NOTHING
) -> int:
    """How far the heap of a process grows that runs this history on a CPU, beyond the weights.

    Weights lie beside it: they are there before the first step, densely, many of them as mapped pages of their file.
    """
    heap, first = Heap(), sizes[shapes.training]
    cut = _behind_largest(plan.forward, first)
    heap.replay(plan.forward[:cut], first)
    heap.allocate(_KERNEL_BUFFER, KERNEL_BUFFER_BYTES)
    _train(heap, replaced(plan, forward=plan.forward[cut:]), first, NO_WORKSPACES, extras.batch_bytes)
    _run(heap, plan, sizes, shapes.steps()[1:], NO_WORKSPACES, extras)
    return heap.extent_bytes


def _behind_largest(events: list[int], sizes: list[int]) -> int:
    """Position behind the first allocation of the largest block."""
    born = [(sizes[event], -position) for position, event in enumerate(events) if event >= 0]
    return 1 - max(born)[1] if born else 0


def _run(
    allocator: EventReplay,
    plan: Schedule,
    sizes: dict[TraceShape, list[int]],
    steps: list[tuple[str, TraceShape]],
    workspaces: Workspaces,
    extras: UntracedAllocations,
) -> None:
    """The batches of a history; stops where memory ends."""
    for kind, shape in steps:
        if allocator.out_of_memory:
            break
        if kind == "training":
            _train(allocator, plan, sizes[shape], workspaces, extras.batch_bytes)
        else:
            allocator.replay(plan.evaluation, sizes[shape])


def storage_sizes(logs: dict[TraceShape, EventLog]) -> dict[TraceShape, list[int]]:
    """Bytes by storage number, as a replay reads them."""
    return {shape: log.sizes_bytes.tolist() for shape, log in logs.items()}


def holdings(
    plan: Schedule,
    sizes: dict[TraceShape, list[int]],
    shapes: RunShapes,
    workspaces: Workspaces,
    *,
    extras: UntracedAllocations = NOTHING,
    capacity_bytes: int | None = None,
    expandable_segments: bool = False,
) -> AllocatorPeaks:
    """What a run holds on a device that gives ``capacity_bytes``, and with how little it gets through.

    Segments with a live block are what a run cannot do without. Whether it gets by with them alone depends on where
    freed segments leave gaps: a replay with the device's capacity decides, and one with a little less. If either runs
    out of memory, everything that an unbounded allocator holds is required.
    """

    def run(capacity: int | None) -> CachingAllocator:
        return replay(plan, sizes, shapes, workspaces, extras, capacity, expandable_segments=expandable_segments)

    free = run(None)
    unbounded = AllocatorPeaks(free.peak_allocated_bytes, free.peak_reserved_bytes, free.peak_reserved_bytes)
    if capacity_bytes is None or free.peak_reserved_bytes <= capacity_bytes:
        return replaced(unbounded, required_bytes=free.peak_pinned_bytes)
    if free.peak_allocated_bytes > capacity_bytes:
        return unbounded
    bounded = run(capacity_bytes)
    if bounded.out_of_memory or run(round(LESS_CAPACITY * capacity_bytes)).out_of_memory:
        return unbounded
    required = min(free.peak_pinned_bytes, bounded.peak_pinned_bytes)
    return AllocatorPeaks(bounded.peak_allocated_bytes, bounded.peak_reserved_bytes, required)


def _train(allocator: EventReplay, plan: Schedule, sizes: list[int], workspaces: Workspaces, batch_bytes: int) -> bool:
    """One optimizer step; says whether it fitted."""
    before_forward, before_backward = plan.forward_product, plan.backward_product
    return (
        (not batch_bytes or allocator.allocate(_BATCHES, batch_bytes))
        and allocator.replay(plan.forward[:before_forward], sizes)
        and _once(allocator, _FORWARD_WORKSPACE, workspaces.forward_bytes)
        and allocator.replay(plan.forward[before_forward:], sizes)
        and allocator.replay(plan.backward[:before_backward], sizes)
        and _once(allocator, _BACKWARD_WORKSPACE, workspaces.backward_bytes)
        and allocator.replay(plan.backward[before_backward:], sizes)
        and (not plan.states or allocator.is_live(plan.states[0]) or allocator.replay(plan.states, sizes))
        and allocator.replay(plan.update, sizes)
        and _released(allocator, _BATCHES)
    )


def _once(allocator: EventReplay, number: int, size_bytes: int) -> bool:
    return not size_bytes or allocator.is_live(number) or allocator.allocate(number, size_bytes)


def _released(allocator: EventReplay, number: int) -> bool:
    if allocator.is_live(number):
        allocator.release(number)
    return True


def _behind(events: list[int], storage: int) -> int:
    """How many events end with the allocation of ``storage``; 0 where it is not among them."""
    return events.index(storage) + 1 if storage in events else 0


def _first(mask: npt.NDArray[np.bool_]) -> int:
    """Index of the first true entry; the length if there is none."""
    return int(np.argmax(mask)) if mask.any() else len(mask)


def _left_alive(events: npt.NDArray[np.int64]) -> list[int]:
    """Frees of what ``events`` allocate and do not free."""
    freed = np.zeros(int(np.abs(events).max(initial=0)) + 2, dtype=bool)
    freed[~events[events < 0]] = True
    born = events[events >= 0]
    return [~number for number in born[~freed[born]].tolist()]


def replay_version() -> str:
    """Digest of the code between a traced step and what its replay finds: part of the key of every stored replay."""
    return code_version(("advisor.costmodel.memory",))
