"""The study's own time: what is left, and how long the next run will take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

FINISHING_S = 1.0
"""Kept free at the end for the last records, the final plan and the tables; at most a fiftieth of the budget."""


@dataclass
class StudyClock:
    """Wall clock of one call, with predictions corrected by what the runs so far really took.

    Attributes:
        budget_s: What the call may take.
        now: Seconds that only go forward.
    """

    budget_s: float
    now: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    _ratios: list[float] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_at = self.now()

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.started_at

    @property
    def remaining_s(self) -> float:
        """What runs may still use."""
        return self.budget_s - self.elapsed_s - min(FINISHING_S, self.budget_s / 50)

    @property
    def has_measured(self) -> bool:
        """Whether any run was completed yet."""
        return bool(self._rates)

    def note(self, predicted_s: float | None, measured_s: float, train_rows: int) -> None:
        """Learn from a completed run."""
        if measured_s <= 0:
            return
        if predicted_s:
            self._ratios.append(measured_s / predicted_s)
        self._rates.append(measured_s / train_rows)

    def expect_s(self, predicted_s: float | None, train_rows: int) -> float:
        """Corrected duration of the next run: median ratio times prediction, else seconds per row, else unknown (0)."""
        if predicted_s is not None:
            return predicted_s * (statistics.median(self._ratios) if self._ratios else 1.0)
        return statistics.median(self._rates) * train_rows if self._rates else 0.0
