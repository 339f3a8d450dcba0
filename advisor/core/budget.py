"""What the user allows, and whether a cost stays within it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from advisor.core.cost import CostEstimate
from advisor.core.device import DeviceProfile
from advisor.core.serialization import LATER
from advisor.core.units import (
    format_bytes,
    format_duration,
    format_energy,
    round_up_duration,
    round_up_energy,
    round_up_memory,
)

TIME_LEVEL = 0.95
"""Probability with which a run must end within its time: the upper end of a 90 % interval."""


@dataclass(frozen=True)
class BoundedFigure:
    """A figure of a cost that a budget can bound.

    Attributes:
        name: Field of ``Budget``; ends in the unit.
        upper: What the figure stays below with a probability; ``None`` when the cost does not say.
        show: A value in words.
        capacity: What a device has of it, which bounds every budget; ``None`` where devices set no bound.
        level: Probability with which the bound must hold; ``Budget.safety_level`` when ``None``.
        point: What is predicted of it, where tables show it only when it is limited.
        verb: What a run does with it, in words: it "takes" a time, it "saves" a size.
        typed: A limit that is enough, as a user would type it.
        instead: What helps besides a higher limit.
    """

    name: str
    upper: Callable[[CostEstimate, float], float | None]
    show: Callable[[float], str]
    capacity: Callable[[DeviceProfile], float] | None = None
    level: float | None = None
    point: Callable[[CostEstimate], float | None] | None = None
    verb: str = "needs"
    typed: Callable[[float], str] = str
    instead: str = ""

    @property
    def label(self) -> str:
        """The name without its unit: ``"memory"``, ``"max_latency"``."""
        return self.name.rpartition("_")[0]

    @property
    def option(self) -> str:
        """Of the command line: ``"--memory"``, ``"--max-latency"``."""
        return f"--{self.label.replace('_', '-')}"

    @property
    def title(self) -> str:
        """What is bounded, in words: ``"memory"``, ``"latency"``."""
        return self.label.removeprefix("max_").replace("_", " ")

    def limit_in_words(self, limit: float) -> str:
        """``"8.00 GiB"``; of limits that are no usual budget with what it limits: ``"latency 20 ms"``."""
        return self.show(limit) if self.title == self.label else f"{self.title} {self.show(limit)}"


@dataclass(frozen=True)
class Constraint:
    """A figure must stay within ``limit`` with probability ``level``."""

    figure: BoundedFigure
    limit: float
    level: float


@dataclass(frozen=True)
class ConstraintCheck:
    """One constraint beside what is needed.

    Attributes:
        needed: What the figure stays below at the constraint's level; ``None`` when it is unknown.
    """

    constraint: Constraint
    needed: float | None

    @property
    def ok(self) -> bool:
        """Whether the constraint holds; an unknown figure breaks none."""
        return self.needed is None or self.needed <= self.constraint.limit

    @property
    def excess(self) -> float | None:
        """How far the figure is beyond its limit, relative to it; at most zero where the constraint holds."""
        return None if self.needed is None else self.needed / self.constraint.limit - 1


@dataclass(frozen=True)
class Fit:
    """Whether a cost stays within a budget on a device, constraint by constraint."""

    checks: tuple[ConstraintCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether all constraints hold."""
        return all(check.ok for check in self.checks)

    def __getitem__(self, name: str) -> ConstraintCheck:
        """The check of the figure ``name``."""
        return next(check for check in self.checks if check.constraint.figure.name == name)

    def needed(self, name: str) -> float | None:
        """What the figure ``name`` stays below; ``None`` when it is unknown or has no limit."""
        return next((check.needed for check in self.checks if check.constraint.figure.name == name), None)

    def excesses(self) -> dict[str, float]:
        """``ConstraintCheck.excess`` of every known figure, by label."""
        return {check.constraint.figure.label: excess for check in self.checks if (excess := check.excess) is not None}


def _bounded(
    upper: Callable[[CostEstimate, float], float | None],
    show: Callable[[Any], str],
    stored: Mapping[str, bool] | None = None,
    **more: Any,
) -> Any:
    """A field of ``Budget`` that bounds the figure of its name; the arguments are those of ``BoundedFigure``."""
    return field(default=None, metadata={"bounded": {"upper": upper, "show": show, **more}, **(stored or {})})


def _upper_memory_bytes(cost: CostEstimate, level: float) -> float | None:
    return cost.memory.quantile_bytes(level)


def _upper_of_time(cost: CostEstimate, name: str) -> float | None:
    """The upper end of the 90 % interval of a figure of the cost's times."""
    if cost.time is None:
        return None
    interval = cost.time.intervals.get(name)
    value: float | None = getattr(cost.time, name)
    return interval.high if interval is not None else value


def _upper_time_s(cost: CostEstimate, level: float) -> float | None:
    return _upper_of_time(cost, "total_s")


def _upper_latency_s(cost: CostEstimate, level: float) -> float | None:
    merged = _upper_of_time(cost, "merged_latency_s")
    return merged if merged is not None else _upper_of_time(cost, "latency_s")


def _latency_s(cost: CostEstimate) -> float | None:
    if cost.time is None:
        return None
    return cost.time.merged_latency_s if cost.time.merged_latency_s is not None else cost.time.latency_s


def _upper_saved_bytes(cost: CostEstimate, level: float) -> float | None:
    return cost.saved_bytes if cost.saved_interval is None else cost.saved_interval.high


def _upper_energy_j(cost: CostEstimate, level: float) -> float | None:
    return _upper_of_time(cost, "energy_j")


def _memory_bytes(device: DeviceProfile) -> float:
    return device.memory_bytes


@dataclass(frozen=True)
class Budget:
    """Upper bounds on a run; ``None`` leaves a side open. One more bound is one more field made with ``_bounded``.

    Attributes:
        memory_bytes: Bounds the device's memory over the whole run (loading, longest batch, evaluation, saving).
        time_s: Bounds the whole run's wall-clock time.
        min_quality: Wanted minimum of the task's metric; answered as a probability, it excludes nothing.
        safety_level: Probability with which a plan must stay within the memory bound.
        max_latency_s: Bounds one forward pass of one row of median length, of the merged model where the method merges.
        max_saved_size_bytes: Bounds the weights that the run saves: those of the adapter, or of the whole model.
        max_energy_j: Bounds what the device takes over the whole run.
    """

    memory_bytes: int | None = _bounded(
        _upper_memory_bytes,
        format_bytes,
        capacity=_memory_bytes,
        typed=round_up_memory,
        instead="use a smaller --max-seq-length",
    )
    time_s: float | None = _bounded(
        *(_upper_time_s, format_duration),
        level=TIME_LEVEL,
        verb="takes",
        typed=round_up_duration,
        instead="train on fewer rows or epochs",
    )
    min_quality: float | None = None
    safety_level: float = 0.95
    max_latency_s: float | None = _bounded(
        *(_upper_latency_s, format_duration, LATER),
        level=TIME_LEVEL,
        point=_latency_s,
        verb="answers one row in",
        typed=round_up_duration,
        instead="use a smaller model or a smaller --max-seq-length",
    )
    max_saved_size_bytes: int | None = _bounded(
        *(_upper_saved_bytes, format_bytes, LATER),
        point=lambda cost: cost.saved_bytes,
        verb="saves",
        typed=round_up_memory,
        instead="use a lower rank (--knob rank=4) or another adapter",
    )
    max_energy_j: float | None = _bounded(
        *(_upper_energy_j, format_energy, LATER),
        level=TIME_LEVEL,
        point=lambda cost: cost.time.energy_j if cost.time is not None else None,
        verb="uses",
        typed=round_up_energy,
        instead="train on fewer rows or epochs",
    )

    def __post_init__(self) -> None:
        for figure in FIGURES:
            limit = getattr(self, figure.name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{figure.name} > 0 must hold, but got {limit}")
        if not 0.5 <= self.safety_level < 1:
            raise ValueError(f"0.5 <= safety_level < 1 must hold, but got {self.safety_level}")

    def in_words(self) -> str:
        """Every limit as an option: ``"--memory 8.00 GiB, --time 2 h 00 min"``."""
        limits = [(figure, getattr(self, figure.name)) for figure in FIGURES]
        found = [f"{figure.option} {figure.show(limit)}" for figure, limit in limits if limit is not None]
        return ", ".join(found) or "none"

    def constraints(self, device: DeviceProfile) -> tuple[Constraint, ...]:
        """What must hold on ``device``: every limit is the smaller of the budget's and the device's own."""
        found = []
        for figure in FIGURES:
            limits = [getattr(self, figure.name), figure.capacity(device) if figure.capacity is not None else None]
            known = [limit for limit in limits if limit is not None]
            if known:
                level = figure.level if figure.level is not None else self.safety_level
                found.append(Constraint(figure, min(known), level))
        return tuple(found)

    def memory_limit_bytes(self, device: DeviceProfile) -> int:
        """What a run may take of the device's memory: the budget, and never more than the device has."""
        return min(self.memory_bytes or device.memory_bytes, device.memory_bytes)

    def check(self, cost: CostEstimate, device: DeviceProfile) -> Fit:
        """Whether a predicted cost stays within the budget on ``device``: the only place that decides what fits."""
        return Fit(
            tuple(ConstraintCheck(item, item.figure.upper(cost, item.level)) for item in self.constraints(device))
        )

    def check_figures(self, needed: Mapping[str, float | None], device: DeviceProfile) -> Fit:
        """The same for figures by name, measured or already at their level; missing ones are unknown."""
        return Fit(tuple(ConstraintCheck(item, needed.get(item.figure.name)) for item in self.constraints(device)))


FIGURES = tuple(
    BoundedFigure(item.name, **item.metadata["bounded"]) for item in fields(Budget) if "bounded" in item.metadata
)
"""Everything that a budget can bound."""
