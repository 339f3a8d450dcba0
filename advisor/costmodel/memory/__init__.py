"""From traced storages to what a run must hold: on a CUDA card, on a CPU, and in the host's memory."""

from advisor.costmodel.memory.estimate import estimate_memory
from advisor.costmodel.memory.facts import RunFacts, run_facts
from advisor.costmodel.memory.history import RunShapes, run_shapes
from advisor.costmodel.memory.replay import heap_bytes, schedule
from advisor.costmodel.memory.uncertainty import INTERVAL_LEVEL, memory_quantile_bytes

__all__ = [
    "INTERVAL_LEVEL",
    "RunFacts",
    "RunShapes",
    "estimate_memory",
    "heap_bytes",
    "memory_quantile_bytes",
    "run_facts",
    "run_shapes",
    "schedule",
]
