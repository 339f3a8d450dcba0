"""What ``recommend`` answers."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.budget import Budget
from advisor.core.plan import Plan


@dataclass(frozen=True)
class RankedPlan:
    """A plan inside the budget.

    Attributes:
        plan: With ``plan.predicted`` filled in.
        score: Expected quality on the metric's own scale, higher is better; ties are broken by cost.
        tied: Whether its difference to the best is inside the noise between seeds.
        reason: Why it stands where it stands, one sentence.
    """

    plan: Plan
    score: float
    tied: bool
    reason: str


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
        considered: How many configurations were evaluated.
        advice: When nothing fits, what to change; else notes on the choice.
    """

    device_id: str
    budget: Budget
    ranked: tuple[RankedPlan, ...]
    rejected: tuple[RejectedMethod, ...]
    considered: int
    advice: tuple[str, ...]

    @property
    def best(self) -> Plan | None:
        return self.ranked[0].plan if self.ranked else None
