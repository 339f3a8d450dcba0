"""What ``recommend`` answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from advisor.core.budget import Budget
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.plan import Plan


@dataclass(frozen=True)
class RankedPlan:
    """A plan inside the budget.

    Attributes:
        plan: With ``plan.predicted`` filled in.
        score: Expected quality on the metric's own scale, higher is better; ties are broken by cost.
        tied: Whether its difference to the best is inside the noise between seeds.
        reason: Why it stands where it stands, one sentence.
        largest_ranks: By target set, the largest rank that still fits; empty where the method has no rank.
        pareto: Whether no other plan beats it in expected quality, run time and memory at once.
    """

    plan: Plan
    score: float
    tied: bool
    reason: str
    largest_ranks: dict[str, int] = field(default_factory=dict)
    pareto: bool = False


@dataclass(frozen=True)
class RejectedMethod:
    """A method with no plan inside the budget.

    Attributes:
        method: Registry name.
        reason: Which bound it breaks and by how much, or why it cannot be traced.
        smallest_plan: Its cheapest plan in the broken dimension; ``None`` when it cannot be built at all.
    """

    method: str
    reason: str
    smallest_plan: Plan | None


@dataclass(frozen=True)
class Recommendation:
    """Ranked plans inside the budget, and why every other method lost.

    Attributes:
        ranked: Best first; empty when nothing fits.
        considered: How many configurations were decided about: evaluated, implied by one that was evaluated (memory
            grows with micro-batch and rank), or ruled out by a bound.
        advice: When nothing fits, what to change; else notes on the choice.
        evaluated: How many configurations were evaluated.
        replays: How many of these were evaluated exactly, each with a replay of the allocator: those listed here, and
            those near the memory limit.
        probe: What a linear probe of the task showed, where one was made.
        objective: What the plans are ordered by.
    """

    device_id: str
    budget: Budget
    ranked: tuple[RankedPlan, ...]
    rejected: tuple[RejectedMethod, ...]
    considered: int
    advice: tuple[str, ...]
    evaluated: int = 0
    replays: int = 0
    probe: LinearProbeReport | None = None
    objective: str = "quality"

    @property
    def best(self) -> Plan | None:
        return self.ranked[0].plan if self.ranked else None
