"""From traced storages to what a run must hold: on a CUDA card, on a CPU, and in the host's memory."""

from advisor.costmodel.memory.batch_sequence import RunShapes, run_shapes
from advisor.costmodel.memory.estimate import bound_memory, estimate_memory
from advisor.costmodel.memory.intervals import INTERVAL_LEVEL
from advisor.costmodel.memory.overheads import RunOverheads, run_overheads
from advisor.costmodel.memory.replay import heap_bytes, schedule
from advisor.costmodel.memory.traced_run import MemoryBounds, TracedRun

__all__ = [
    "INTERVAL_LEVEL",
    "MemoryBounds",
    "RunOverheads",
    "RunShapes",
    "TracedRun",
    "bound_memory",
    "estimate_memory",
    "heap_bytes",
    "run_overheads",
    "run_shapes",
    "schedule",
]
