"""Why a method has no plan, and what would give it one, in plain words with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advisor.core.budget import Budget
from advisor.core.device import SHARED_MEMORY_FACT, DeviceProfile
from advisor.core.errors import AdvisorError
from advisor.core.units import format_bytes, round_up_memory
from advisor.hardware.backends import backend_of
from advisor.search.planner.evaluator import EvaluatedSetup
from advisor.search.planner.precision import describe
from advisor.search.planner.solver import Solution


def known_devices() -> tuple[DeviceProfile, ...]:
    """The device profiles that can be read, smallest first; without modules and processors that nobody measured: they
    are no cards that one could use instead.
    """
    from advisor.hardware.profiles import load_profile, profile_names

    profiles = []
    for name in profile_names():
        try:
            profile = load_profile(name)
        except AdvisorError:
            continue  # a damaged file of the user must not spoil an answer about another device
        if profile.basis == "measured" or not (backend_of(profile).is_host or SHARED_MEMORY_FACT in profile.facts):
            profiles.append(profile)
    return tuple(sorted(profiles, key=lambda profile: profile.memory_bytes))


def why_rejected(solution: Solution, budget: Budget, device: DeviceProfile, devices: Sequence[DeviceProfile]) -> str:
    """The broken bound, by how much, and what would fit."""
    if solution.fastest is not None:
        return _beyond(solution.fastest)
    if solution.smallest is None:
        return f"cannot be predicted: {solution.failure}"
    return _too_large(solution.smallest, budget, device, devices)


def what_to_change(solutions: Sequence[Solution]) -> tuple[str, ...]:
    """Advice when nothing fits: the smallest plan of all, or the one that comes nearest to the other limits."""
    smallest = min((s for s in solutions if s.smallest), key=lambda s: _memory(s.smallest), default=None)
    nearest = min((s for s in solutions if s.fastest), key=lambda s: _excess(s.fastest), default=None)
    if nearest is not None and nearest.fastest is not None:
        found = [(check.constraint.figure, check.needed or 0.0) for check in nearest.fastest.fit.checks if not check.ok]
        needs = " and ".join(f"{figure.verb} up to {figure.show(needed)}" for figure, needed in found)
        ways = ", ".join(
            f"raise {figure.option} to {figure.typed(needed)}, or {figure.instead}" for figure, needed in found
        )
        which = "the plan that comes nearest to the limits"
        if [figure.label for figure, _ in found] == ["time"]:
            which = "the fastest plan that fits the memory"
        setup = describe(nearest.fastest.execution)
        return (f"{which} {needs}: {nearest.strategy.method}, {setup}; {ways}",)
    if smallest is not None and smallest.smallest is not None:
        needed = smallest.smallest.memory_bytes
        length = smallest.smallest.execution.max_seq_length
        return (
            f"the smallest plan needs {format_bytes(needed)}: {smallest.strategy.method}, "
            f"{describe(smallest.smallest.execution)}; "
            f"raise --memory to {round_up_memory(needed)}, or use a --max-seq-length below {length}",
        )
    return ()


def _beyond(point: EvaluatedSetup) -> str:
    """Which bounds besides memory the fastest set-up breaks."""
    broken = [(check.constraint.figure, check) for check in point.fit.checks if not check.ok]
    needs = " and ".join(f"{figure.verb} up to {figure.show(check.needed or 0.0)}" for figure, check in broken)
    bounds = " and ".join(f"the {figure.title} budget is {figure.show(c.constraint.limit)}" for figure, c in broken)
    return f"{needs} at {describe(point.execution)}, its fastest set-up inside the memory; {bounds}"


def _too_large(point: EvaluatedSetup, budget: Budget, device: DeviceProfile, devices: Sequence[DeviceProfile]) -> str:
    limit_bytes = budget.memory_limit_bytes(device)
    own_budget = budget.memory_bytes is not None and budget.memory_bytes <= device.memory_bytes
    bound = (
        f"the budget is {format_bytes(limit_bytes)}" if own_budget else f"{device.id} has {format_bytes(limit_bytes)}"
    )
    text = f"needs {format_bytes(point.memory_bytes)} at {describe(point.execution)}; {bound}"
    if own_budget and point.memory_bytes <= device.memory_bytes:
        return f"{text}; --memory {round_up_memory(point.memory_bytes)} would fit it"
    alike = [profile for profile in devices if profile.type == device.type and not backend_of(device).is_host]
    fitting = [profile for profile in alike if profile.memory_bytes >= point.memory_bytes]
    if fitting:
        return f"{text}; {fitting[0].id} ({format_bytes(fitting[0].memory_bytes)}) would fit it"
    return text


def _memory(point: EvaluatedSetup | None) -> float:
    return point.memory_bytes if point is not None else math.inf


def _excess(point: EvaluatedSetup | None) -> float:
    """By how much the limits are exceeded, the worst one, relative to it."""
    return max(point.fit.excesses().values(), default=math.inf) if point is not None else math.inf
