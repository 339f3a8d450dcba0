"""What runs say of a claim: a pure function of their figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from advisor.core.metrics import METRICS
from advisor.experiments.suites.definition import Claim, Relation

Outcome = Literal["reproduced", "contradicted", "tie", "underpowered", "not judged"]

LEVEL = 0.90
"""Of the interval of a difference: a one-sided test of its direction and the two one-sided tests of equivalence
(Schuirmann 1987) have 5 % each."""
POWER = 0.80
"""With which the smallest difference would have been shown."""
MARGIN_POINTS = 1.0
MARGIN_RATIO = 0.05
"""Differences inside a margin are ties: of shares in points (hundredths), of everything else relative."""

SEVERITY: tuple[Outcome, ...] = ("not judged", "contradicted", "underpowered", "tie", "reproduced")
"""A claim against several cells is as good as the worst of its comparisons."""

Figures = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Figures by quantity, by seed, by cell."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one claim.

    Attributes:
        claim: Its id.
        outcome: ``"reproduced"``, ``"contradicted"``, ``"tie"`` (the interval lies inside the margin),
            ``"underpowered"``, or ``"not judged"``.
        basis: What was compared, in words.
        measured: Difference in points, or ratio.
        low, high: Its 90 % interval; of resources the lowest and highest ratio of the seeds.
        smallest_shown: The smallest difference that these runs would have shown with a power of 80 %, in points or
            as a relative difference; of underpowered claims.
        seeds: Pairs behind the figure.
        reason: One sentence where there is more to say.
    """

    claim: str
    outcome: Outcome
    basis: str = ""
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    smallest_shown: float | None = None
    seeds: int = 0
    reason: str = ""


ERROR_SHAPE = {
    "true_middle_share": "middle class, of all rows %",
    "errors_true_middle_share": "of the errors %",
    "errors_predicted_middle_share": "predicted in errors %",
    "errors_overconfidence": "predicted minus true probability %",
}
"""Figures about the shape of a classifier's errors with their titles; all are shares, and depend on the seed."""


def is_quality(quantity: str) -> bool:
    """Whether a quantity depends on the seed of a training: held-out figures do, memory, time and counts are judged by
    their size alone.
    """
    return quantity in METRICS or quantity in ERROR_SHAPE


def in_points(quantity: str) -> bool:
    """Whether its differences are told in points."""
    return quantity in ERROR_SHAPE or (quantity in METRICS and METRICS.get(quantity).in_points)


def judge(claim: Claim, figures: Figures, *, basis: str = "") -> Verdict:
    """The verdict on a claim.

    Args:
        claim: Of which every cell has figures; otherwise it is not judged.
        figures: Of the runs.
        basis: What they are, in words.
    """
    if claim.order:
        return _judge_order(claim, figures, basis)
    other_quantity = claim.second_quantity or claim.quantity
    firsts = {name: _series(figures, name, claim.quantity) for name in claim.first}
    seconds = {name: _series(figures, name, other_quantity) for name in claim.second}
    if any(not side for side in (*firsts.values(), *seconds.values())):
        return Verdict(claim.id, "not judged", basis, reason="some of its cells have no figures")
    sign = -1 if claim.relation == "less" else 1
    best = max(firsts, key=lambda name: sign * statistics.fmean(firsts[name].values()))
    found = [
        _compare(claim, firsts[best], second, basis)
        for other, second in seconds.items()
        if other != best or other_quantity != claim.quantity
    ]
    worst = min(found, key=lambda verdict: SEVERITY.index(verdict.outcome))
    return worst


def _series(figures: Figures, cell: str, quantity: str) -> dict[int, float]:
    runs = figures.get(cell, {})
    return {seed: values[quantity] for seed, values in runs.items() if quantity in values}


def _compare(claim: Claim, first: Mapping[int, float], second: Mapping[int, float], basis: str) -> Verdict:
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Verdict(claim.id, "not judged", basis, reason="no seed was run on both sides")
    pairs = [(first[seed], second[seed]) for seed in seeds]
    if not is_quality(claim.quantity):
        return _compare_resource(claim, pairs, basis)
    if in_points(claim.quantity):
        differences, margin = [100.0 * (a - b) for a, b in pairs], MARGIN_POINTS
        return _compare_differences(claim, differences, margin, basis, told=lambda value: value)
    if any(a <= 0 or b <= 0 for a, b in pairs):
        return Verdict(claim.id, "not judged", basis, reason="a ratio needs figures above zero")
    logs = [math.log(a / b) for a, b in pairs]
    return _compare_differences(claim, logs, math.log1p(MARGIN_RATIO), basis, told=math.exp)


def _compare_resource(claim: Claim, pairs: Sequence[tuple[float, float]], basis: str) -> Verdict:
    """Resources have one true size: their direction is never underpowered."""
    if any(b <= 0 for _, b in pairs):
        return Verdict(claim.id, "not judged", basis, reason="a ratio needs figures above zero")
    ratios = [a / b for a, b in pairs]
    ratio = statistics.median(ratios)
    outcome = direction(ratio - 1.0, ratio - 1.0, MARGIN_RATIO, claim.relation)
    return Verdict(claim.id, outcome, basis, ratio, min(ratios), max(ratios), seeds=len(ratios))


def _compare_differences(
    claim: Claim, differences: Sequence[float], margin: float, basis: str, *, told: Callable[[float], float]
) -> Verdict:
    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        reason = "one seed shows no difference of quality"
        return Verdict(claim.id, "underpowered", basis, told(mean), seeds=count, reason=reason)
    low, high = paired_interval(differences)
    outcome = direction(low, high, margin, claim.relation)
    smallest = smallest_difference(differences) if outcome == "underpowered" else None
    if smallest is not None and not in_points(claim.quantity):
        smallest = math.expm1(smallest)
    return Verdict(claim.id, outcome, basis, told(mean), told(low), told(high), smallest, count)


def direction(low: float, high: float, margin: float, relation: Relation) -> Outcome:
    """What an interval of ``first - second`` says of a relation.

    Args:
        low: Lower end of the interval.
        high: Upper end.
        margin: Differences up to this are ties.
        relation: Claimed.
    """
    if -margin <= low and high <= margin:
        return "reproduced" if relation == "same" else "tie"
    if relation == "same":
        return "contradicted" if low > margin or high < -margin else "underpowered"
    if relation == "less":
        low, high = -high, -low
    if low > 0:
        return "reproduced"
    return "contradicted" if high < 0 else "underpowered"


def paired_interval(differences: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the mean of paired differences, at least two."""
    from scipy.stats import ttest_1samp

    if statistics.pstdev(differences) == 0.0:
        return differences[0], differences[0]
    found = ttest_1samp(differences, 0.0).confidence_interval(level)
    return float(found.low), float(found.high)


def smallest_difference(differences: Sequence[float], level: float = LEVEL, power: float = POWER) -> float:
    """The true mean difference that a paired t-test of as many pairs, which scatter alike, shows with this power.

    The test statistic has a noncentral t distribution; its noncentrality is found by bisection.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    count = len(differences)
    error = statistics.stdev(differences) / math.sqrt(count)
    if error == 0.0:
        return 0.0
    critical = float(t.ppf((1 + level) / 2, count - 1))
    shift = brentq(lambda value: nct.sf(critical, count - 1, value) - power, 1e-6, 100.0)
    return float(shift) * error


def _judge_order(claim: Claim, figures: Figures, basis: str) -> Verdict:
    """Average places over the quantities, seed by seed, and whether the order is the claimed one."""
    seeds = sorted(set.intersection(*(set(figures.get(name, {})) for name in claim.order)))
    complete = [
        seed
        for seed in seeds
        if all(quantity in figures[name][seed] for name in claim.order for quantity in claim.ranked_by)
    ]
    if not complete:
        return Verdict(claim.id, "not judged", basis, reason="some of its cells have no figures")
    orders = [mean_places({name: figures[name][seed] for name in claim.order}, claim.ranked_by) for seed in complete]
    held = sum(list(order) == list(claim.order) for order in orders)
    outcome: Outcome = "underpowered"
    if held == len(orders) > 1:
        outcome = "reproduced"
    elif held == 0:
        outcome = "contradicted"
    places = "; ".join(
        f"{name} {statistics.fmean(order[name] for order in orders):.2f}"
        for name in sorted(claim.order, key=lambda name: statistics.fmean(order[name] for order in orders))
    )
    reason = f"mean places: {places}; the claimed order in {held} of {len(orders)} seeds"
    return Verdict(claim.id, outcome, basis, seeds=len(orders), reason=reason)


def mean_places(cells: Mapping[str, Mapping[str, float]], ranked_by: Mapping[str, Relation]) -> dict[str, float]:
    """Average place over the quantities by cell, the best first; equal figures share the mean of their places."""
    from scipy.stats import rankdata

    names = list(cells)
    places = dict.fromkeys(names, 0.0)
    for quantity, better in ranked_by.items():
        values = [cells[name][quantity] * (-1.0 if better == "more" else 1.0) for name in names]
        for name, place in zip(names, rankdata(values), strict=True):
            places[name] += float(place) / len(ranked_by)
    return dict(sorted(places.items(), key=lambda item: item[1]))
