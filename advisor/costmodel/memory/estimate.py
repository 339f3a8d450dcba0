"""Peak memory of one configuration's whole run (loading, longest batch, evaluation, saving), bounded or exact.

Saving needs nothing more of a card: tensors are copied to the host one by one. Nothing is merged: a run saves the
adapter.
"""

from __future__ import annotations

from typing import Protocol

from advisor.core.cost import MemoryEstimate
from advisor.costmodel.memory import cpu, cuda
from advisor.costmodel.memory.traced_run import MemoryBounds, TracedRun
from advisor.hardware.backends import backend_of


class AllocatorModel(Protocol):
    """How the memory of a kind of device follows from live storages and allocation events."""

    def estimate(self, run: TracedRun, limit_bytes: int | None) -> MemoryEstimate: ...

    def bounds(self, run: TracedRun) -> MemoryBounds: ...


ALLOCATORS: dict[str, AllocatorModel] = {"heap": cpu, "caching": cuda}
"""By ``MemoryTraits.allocator``."""


def estimate_memory(run: TracedRun, limit_bytes: int | None = None) -> MemoryEstimate:
    """Peak memory of a run, its allocations replayed through the device's allocator.

    Args:
        run: What is asked about.
        limit_bytes: What the run may take of the device; ``None`` is all that the device has.

    Raises:
        DeviceError: the back end names an allocator that has no model.
    """
    return _model_of(run).estimate(run, limit_bytes)


def bound_memory(run: TracedRun) -> MemoryBounds:
    """Bounds on the same figure without a replay; raises as ``estimate_memory`` does."""
    return _model_of(run).bounds(run)


def _model_of(run: TracedRun) -> AllocatorModel:
    backend = backend_of(run.device)
    name = backend.memory.allocator
    if name not in ALLOCATORS:
        known = " or ".join(map(repr, ALLOCATORS))
        backend.refuse(f"predict memory: its allocator must be {known}, but it is {name!r}")
    return ALLOCATORS[name]
