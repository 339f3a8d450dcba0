"""What the user allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Upper bounds on a run; ``None`` leaves a side open.

    Attributes:
        memory_bytes: Bounds ``device_bytes`` over the whole run (loading, longest batch, evaluation, saving).
        time_s: Bounds the whole run's wall-clock time.
        min_quality: Wanted minimum of the task's metric; answered as a probability.
        safety_level: Probability with which a plan must stay within the memory bound.
    """

    memory_bytes: int | None = None
    time_s: float | None = None
    min_quality: float | None = None
    safety_level: float = 0.95

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ValueError(f"memory_bytes > 0 must hold, but got {self.memory_bytes}")
        if self.time_s is not None and self.time_s <= 0:
            raise ValueError(f"time_s > 0 must hold, but got {self.time_s}")
        if not 0.5 <= self.safety_level < 1:
            raise ValueError(f"0.5 <= safety_level < 1 must hold, but got {self.safety_level}")
