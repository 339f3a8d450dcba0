"""From traced storages to what a run must hold: on a CUDA card, on a CPU, and in the host's memory."""

from advisor.costmodel.memory.batch_sequence import RunShapes, run_shapes
from advisor.costmodel.memory.estimate import estimate_memory
from advisor.costmodel.memory.intervals import INTERVAL_LEVEL
from advisor.costmodel.memory.overheads import RunOverheads, run_overheads
from advisor.costmodel.memory.replay import heap_bytes, schedule

__all__ = [
    "INTERVAL_LEVEL",
    "RunOverheads",
    "RunShapes",
    "estimate_memory",
    "heap_bytes",
    "run_overheads",
    "run_shapes",
    "schedule",
]
