"""The largest value of one axis whose memory stays inside a limit, with few exact evaluations.

Exact evaluations replay the allocator and take a second for a large model; the live bytes under them take milliseconds
and grow with batch, length and rank. So live bytes guide the search: exact figures are close to a constant (context)
plus a factor (what the allocator holds) times them, and the factor is learned from the exact evaluations on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

GUIDED = 4
"""Exact evaluations after which the bracket is halved instead: the allocator is erratic there."""


@dataclass
class SizeAxis:
    """One axis of the search.

    Attributes:
        memory_of: Exact bytes at a value; slow.
        guide_of: Live bytes at a value; fast, and growing with it.
        limit_bytes: The bound, inclusive.
        low: First value.
        high: Last value that may be answered.
        step: Granularity.
        constant_bytes: What exact figures hold besides a multiple of the guide's.
        factor: Exact over guide's bytes, less the constant, at a point nearby; 1 when unknown.
    """

    memory_of: Callable[[int], int]
    guide_of: Callable[[int], int]
    limit_bytes: int
    low: int
    high: int
    step: int = 1
    constant_bytes: int = 0
    factor: float = 1.0
    _guides: dict[int, int] = field(default_factory=dict)

    def largest_fitting(self) -> int | None:
        """The largest value that fits; ``None`` when ``low`` does not.

        The answer was evaluated exactly, and so was the next multiple of ``step``, unless its live bytes alone exceed
        the limit or it is beyond ``high``. Near its end memory is erratic: a still larger value may fit again.
        """
        fits, fails = -1, (self.high - self.low) // self.step + 1
        evaluated = 0
        while fails - fits > 1:
            index = self._guided(fits, fails) if evaluated < GUIDED else (fits + fails) // 2
            if fits >= 0 and index == fits + 1 and self._surely_fails(index):
                break
            value = self.low + index * self.step
            value_bytes = self.memory_of(value)
            evaluated += 1
            self.factor = max(1e-9, (value_bytes - self.constant_bytes) / max(1, self._guide(index)))
            if value_bytes <= self.limit_bytes:
                fits = index
            else:
                fails = index
        return self.low + fits * self.step if fits >= 0 else None

    def _guided(self, fits: int, fails: int) -> int:
        """The last index inside the bracket whose guide, times the factor, is within the limit; else the first."""
        low, high = fits + 1, fails - 1
        if self._estimate(high) <= self.limit_bytes:
            return high
        if self._estimate(low) > self.limit_bytes:
            return low
        while high - low > 1:
            # The guide is close to linear: cut where the line through both ends meets the limit, then on either side.
            below, above = self._estimate(low), self._estimate(high)
            share = (self.limit_bytes - below) / (above - below) if above > below else 0.5
            middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
            if self._estimate(middle) > self.limit_bytes:
                high = middle
            elif middle + 1 < high and self._estimate(middle + 1) > self.limit_bytes:
                return middle
            else:
                low = middle
                centre = (low + high) // 2
                if centre > low and self._estimate(centre) > self.limit_bytes:
                    high = centre
        return low

    def _surely_fails(self, index: int) -> bool:
        """Nothing holds less than its live bytes."""
        return self.constant_bytes + self._guide(index) > self.limit_bytes

    def _estimate(self, index: int) -> float:
        return self.constant_bytes + self.factor * self._guide(index)

    def _guide(self, index: int) -> int:
        if index not in self._guides:
            self._guides[index] = self.guide_of(self.low + index * self.step)
        return self._guides[index]
