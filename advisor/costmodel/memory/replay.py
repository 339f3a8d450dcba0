"""A run through the model of the caching allocator: what it holds, and with how little it would get through.

The order is the run's: weights; the first step without optimizer states, which AdamW and its kin create inside the
first update, in the gaps that activations left; then the batches of ``RunShapes.steps``. The cuBLAS workspaces are
taken from the same allocator by the first matrix product of each thread, forward and backward (torch 2.13,
aten/src/ATen/cuda/CublasHandlePool.cpp: one per thread and stream, shared with cuBLASLt), and are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.costmodel.allocator import CachingAllocator
from advisor.costmodel.memory.history import RunShapes
from advisor.costmodel.trace.family import PHASES, EventLog
from advisor.costmodel.trace.symbolic import Shape

_FORWARD_WORKSPACE, _BACKWARD_WORKSPACE, _BATCHES = -1, -2, -3
"""Numbers of storages that no trace has."""

CAPACITY_STEPS = (1.0, 1.005, 1.02, 1.05)
"""Capacities that are tried, as multiples of the bytes in segments that cannot be returned."""


@dataclass(frozen=True)
class Workspaces:
    """Sizes of the workspaces of the forward and of the backward thread; 0 where none is taken."""

    forward_bytes: int
    backward_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.forward_bytes + self.backward_bytes


@dataclass(frozen=True)
class Holdings:
    """What the allocator holds at most during a run.

    Attributes:
        allocated_bytes: As ``torch.cuda.max_memory_allocated``: blocks in use, with what was not worth splitting off.
        reserved_bytes: As ``max_memory_reserved`` on the given device.
        required_bytes: The least that the device must give for the run to end; cached segments are then returned.
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
    """

    weights: list[int]
    states: list[int]
    forward: list[int]
    backward: list[int]
    update: list[int]
    evaluation: list[int]


def schedule(log: EventLog) -> Schedule:
    """Cut the log of a step and an evaluation pass into the pieces of a run."""
    events = np.where(log.signs > 0, log.storages, ~log.storages)
    phase = {name: log.phases == index for index, name in enumerate(PHASES)}
    lasting = (phase["weights"] | phase["states"]) & (log.signs > 0)
    evaluation = phase["evaluation"]
    step = ~(phase["weights"] | phase["states"] | evaluation)
    steps = events[step]
    backward = phase["backward"] | phase["first_backward"]
    borders = np.searchsorted(np.flatnonzero(step), [_first(backward), _first(phase["optimizer"])])
    return Schedule(
        weights=events[lasting & phase["weights"]].tolist(),
        states=events[lasting & phase["states"]].tolist(),
        forward=steps[: borders[0]].tolist(),
        backward=steps[borders[0] : borders[1]].tolist(),
        update=[*steps[borders[1] :].tolist(), *_left_alive(steps)],
        evaluation=[*events[evaluation].tolist(), *_left_alive(events[evaluation])],
    )


def replay(
    plan: Schedule,
    sizes: dict[Shape, list[int]],
    shapes: RunShapes,
    workspaces: Workspaces,
    extra_batch_bytes: int = 0,
    capacity_bytes: int | None = None,
) -> CachingAllocator:
    """Run a whole history through an allocator; it stops where memory ends.

    Args:
        plan: Pieces of the step.
        sizes: Bytes by storage number, for every shape of the history.
        shapes: The history.
        workspaces: Taken at the first forward and backward pass.
        extra_batch_bytes: Micro-batches of a step that the trace has not.
        capacity_bytes: What the device gives; ``None`` is unbounded.
    """
    allocator = CachingAllocator(capacity_bytes)
    allocator.replay(plan.weights, sizes[shapes.training])
    for kind, shape in shapes.steps():
        if allocator.out_of_memory:
            break
        if kind == "training":
            _train(allocator, plan, sizes[shape], workspaces, extra_batch_bytes)
        else:
            allocator.replay(plan.evaluation, sizes[shape])
    return allocator


def holdings(
    plan: Schedule,
    sizes: dict[Shape, list[int]],
    shapes: RunShapes,
    workspaces: Workspaces,
    *,
    extra_batch_bytes: int = 0,
    capacity_bytes: int | None = None,
) -> Holdings:
    """What a run holds on a device that gives ``capacity_bytes``, and the least it can do with."""

    def run(capacity: int | None) -> CachingAllocator:
        return replay(plan, sizes, shapes, workspaces, extra_batch_bytes, capacity)

    free = run(None)
    reserved = free.peak_reserved_bytes
    if capacity_bytes is not None and reserved > capacity_bytes:
        bounded = run(capacity_bytes)
        if not bounded.out_of_memory:
            reserved = bounded.peak_reserved_bytes
    required = free.peak_reserved_bytes
    for step in CAPACITY_STEPS:
        candidate = round(step * free.peak_pinned_bytes)
        if candidate >= required:
            break
        if not run(candidate).out_of_memory:
            required = candidate
            break
    return Holdings(free.peak_allocated_bytes, reserved, required)


def _train(
    allocator: CachingAllocator, plan: Schedule, sizes: list[int], workspaces: Workspaces, extra_batch_bytes: int
) -> bool:
    """One optimizer step; says whether it fitted."""
    return (
        _once(allocator, _FORWARD_WORKSPACE, workspaces.forward_bytes)
        and (not extra_batch_bytes or allocator.allocate(_BATCHES, extra_batch_bytes))
        and allocator.replay(plan.forward, sizes)
        and _once(allocator, _BACKWARD_WORKSPACE, workspaces.backward_bytes)
        and allocator.replay(plan.backward, sizes)
        and (not plan.states or allocator.is_live(plan.states[0]) or allocator.replay(plan.states, sizes))
        and allocator.replay([*plan.update, ~_BATCHES], sizes)
    )


def _once(allocator: CachingAllocator, number: int, size_bytes: int) -> bool:
    return not size_bytes or allocator.is_live(number) or allocator.allocate(number, size_bytes)


def _first(mask: npt.NDArray[np.bool_]) -> int:
    """Index of the first true entry; the length if there is none."""
    return int(np.argmax(mask)) if mask.any() else len(mask)


def _left_alive(events: npt.NDArray[np.int64]) -> list[int]:
    """Frees of what ``events`` allocate and do not free."""
    freed = np.zeros(int(np.abs(events).max(initial=0)) + 2, dtype=bool)
    freed[~events[events < 0]] = True
    born = events[events >= 0]
    return [~number for number in born[~freed[born]].tolist()]
