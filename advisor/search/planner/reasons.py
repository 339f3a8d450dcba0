"""Why a method has no plan, and what would give it one, in plain words with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advisor.core.budget import Budget
from advisor.core.device import SHARED_MEMORY_FACT, DeviceProfile
from advisor.core.errors import AdvisorError
from advisor.core.units import GIB, MIB, format_bytes, format_duration
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
    """Advice when nothing fits: the smallest plan of all, or the fastest."""
    advice = []
    smallest = min((s for s in solutions if s.smallest), key=lambda s: _memory(s.smallest), default=None)
    fastest = min((s for s in solutions if s.fastest), key=lambda s: _time(s.fastest), default=None)
    if fastest is not None and fastest.fastest is not None:
        needs = _time(fastest.fastest)
        advice.append(
            f"the fastest plan that fits the memory takes up to {format_duration(needs)}: {fastest.strategy.method}, "
            f"{describe(fastest.fastest.execution)}; raise --time to {round_up_duration(needs)}, "
            "or train on fewer rows or epochs"
        )
    elif smallest is not None and smallest.smallest is not None:
        needs = smallest.smallest.memory_bytes
        length = smallest.smallest.execution.max_seq_length
        advice.append(
            f"the smallest plan needs {format_bytes(needs)}: {smallest.strategy.method}, "
            f"{describe(smallest.smallest.execution)}; "
            f"raise --memory to {round_up_memory(needs)}, or use a --max-seq-length below {length}"
        )
    return tuple(advice)


def round_up_memory(value_bytes: int) -> str:
    """A memory budget that is enough, as the user would type it: ``"3.3GiB"``."""
    if value_bytes >= GIB:
        return f"{math.ceil(value_bytes / GIB * 10) / 10:.1f}GiB"
    return f"{math.ceil(value_bytes / MIB / 10) * 10}MiB"


def round_up_duration(value_s: float) -> str:
    """A time budget that is enough, as the user would type it: ``"12min"``."""
    if value_s < 60:
        return f"{math.ceil(value_s)}s"
    return f"{math.ceil(value_s / 60)}min" if value_s < 10 * 3600 else f"{math.ceil(value_s / 3600)}h"


def _beyond(point: EvaluatedSetup) -> str:
    """Which bounds besides memory the fastest set-up breaks."""
    broken = [(check.constraint.figure, check) for check in point.fit.checks if not check.ok]
    needs = " and ".join(f"up to {figure.show(check.needed or 0.0)}" for figure, check in broken)
    bounds = " and ".join(f"the {figure.label} budget is {figure.show(c.constraint.limit)}" for figure, c in broken)
    return f"takes {needs} at {describe(point.execution)}, its fastest set-up inside the memory; {bounds}"


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


def _time(point: EvaluatedSetup | None) -> float:
    """Upper bound of the whole run, in seconds."""
    known = point.fit.needed("time_s") if point is not None else None
    return math.inf if known is None else known
