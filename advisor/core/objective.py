"""What the best plan is: the best quality, the least cost above a floor of quality, or every sensible trade."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.core.metrics import Metric
from advisor.core.units import GIB, format_bytes, format_duration

REACHED = 0.5
"""Probability from which a plan counts as expected to reach the floor."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Objective:
    """An aim that plans and trials are ordered by.

    Attributes:
        name: As users write it.
        title: What comes first, in words: ``"the fastest"``.
        cost: What is minimised among those that reach the floor, of a run's seconds and peak bytes; ``None`` where
            quality comes first, so that no floor is needed.
        front: Whether those come first that no other beats in quality, time and memory at once.
    """

    name: str
    title: str
    cost: Callable[[float, float], float] | None = None
    front: bool = False

    @property
    def needs_floor(self) -> bool:
        """Whether nothing can be chosen without a minimum of quality."""
        return self.cost is not None

    def in_words(self, total_s: float, memory_bytes: float) -> str:
        """A cost: ``"458 MiB for 19 s"``."""
        return f"{format_bytes(memory_bytes)} for {format_duration(total_s)}"

    def check(self, budget: Budget) -> None:
        """Refuse an aim that means nothing without a floor.

        Raises:
            InputError: there is none.
        """
        if self.needs_floor and budget.min_quality is None:
            raise InputError(
                f"the objective {self.name} needs a floor of quality, but --min-quality is missing",
                fix="add --min-quality X, the least accuracy (or other metric of the task) that is good enough, for "
                "example --min-quality 0.8",
            )


def _gib_hours(total_s: float, memory_bytes: float) -> float:
    return memory_bytes / GIB * total_s / 3600


OBJECTIVES = {
    item.name: item
    for item in (
        Objective("quality", "the best quality"),
        Objective("cheapest", "the cheapest", cost=_gib_hours),
        Objective("fastest", "the fastest", cost=lambda total_s, memory_bytes: total_s),
        Objective("pareto", "the Pareto set", front=True),
    )
}
"""By name. ``cheapest`` minimises device memory x time, which is what a device of that size is rented for."""

DEFAULT_OBJECTIVE = OBJECTIVES["quality"]


def get_objective(name: str) -> Objective:
    """An objective by its name.

    Raises:
        InputError: there is none.
    """
    if name not in OBJECTIVES:
        raise InputError(f"an objective must be one of {', '.join(OBJECTIVES)}, but got {name!r}")
    return OBJECTIVES[name]


def check_floor(min_quality: float | None, metric: Metric) -> None:
    """Refuse a minimum that the metric can't have.

    Raises:
        InputError: it is no number, or a share beyond 1.
    """
    if min_quality is None:
        return
    if min_quality != min_quality or (metric.is_share and not 0 <= min_quality <= 1) or min_quality < 0:
        raise InputError(
            f"--min-quality is on the scale of {metric.title}"
            + (", from 0 to 1" if metric.is_share else "")
            + f", but got {min_quality:g}",
            fix="write for example 0.8 for 80 %" if metric.is_share else "name a figure of that metric",
        )


def pareto_front(costs: Mapping[T, Sequence[float]]) -> frozenset[T]:
    """Those that no other beats: at least as good in every cost (lower is better) and better in one."""

    def beaten(mine: Sequence[float]) -> bool:
        return any(
            all(theirs <= own for theirs, own in zip(other, mine, strict=True)) and tuple(other) != tuple(mine)
            for other in costs.values()
        )

    return frozenset(name for name, mine in costs.items() if not beaten(mine))
