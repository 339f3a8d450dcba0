"""Evaluates neighbours, ranks them by bytes saved per time lost, and says the result in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile
from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.core.units import format_bytes
from advisor.costmodel.model import CostModel
from advisor.search.sensitivity.one_change_variants import REPUTATION, Neighbour, neighbours


@dataclass(frozen=True)
class Effect:
    """What a neighbour changes.

    Attributes:
        device_bytes: Its own predicted device peak.
        saved_bytes: Device peak of the asked configuration less its own; negative when it needs more. With ``undoes``
            the other way round: what the choice saves now.
        time_ratio: Step time with the choice over without it, at the same effective batch; ``None`` when the device's
            speed is unknown.
    """

    name: str
    options: str
    device_bytes: int
    saved_bytes: int
    time_ratio: float | None
    undoes: bool
    learns_differently: bool


@dataclass(frozen=True)
class ChangeComparison:
    """The neighbours of one configuration, weighed.

    Attributes:
        device_bytes: Device peak of the asked configuration.
        effects: All that could be predicted, most bytes saved per time lost first.
        best: Up to three that are worth it, by name, best first.
        tempting: A choice of good reputation that saves next to nothing here, by name.
        made: Choices already made that save memory now, by name.
        skipped: What could not be predicted, with the reason.
        sentence: The answer in one sentence.
    """

    device_bytes: int
    effects: tuple[Effect, ...]
    best: tuple[str, ...]
    tempting: str | None
    made: tuple[str, ...]
    skipped: tuple[str, ...]
    sentence: str

    def effect(self, name: str) -> Effect | None:
        """The effect of that name, if it could be predicted."""
        return next((effect for effect in self.effects if effect.name == name), None)


DOMINANT_SHARE = 0.4
"""From this share of the peak on a kind is said to dominate it."""
NOTICEABLE = 0.03
"""Smaller changes of the step time are not worth a number."""


def sentence(
    by_kind: Mapping[str, int], best: Sequence[Effect], tempting: Effect | None, made: Sequence[Effect]
) -> str:
    """``"activations dominate (62 % of the peak): checkpointing saves 5.1 GiB and costs about 30 % time; …"``.

    Args:
        by_kind: Bytes at the peak by kind.
        best: Choices worth taking, best first.
        tempting: A choice of good reputation that saves next to nothing.
        made: Choices that are already made, with what they save now.
    """
    parts = [effect_clause(effect) for effect in best]
    if not parts:
        parts.append("no single choice saves a noticeable part of it")
    if tempting is not None:
        parts.append(_useless_clause(tempting))
    parts += [f"{effect.name} (already on) {_saving(effect)}" for effect in made]
    return f"{_dominance(by_kind)}: {'; '.join(parts)}"


def effect_clause(effect: Effect) -> str:
    """``"checkpointing saves 5.1 GiB and costs about 30 % time"``."""
    return f"{effect.name} {_saving(effect)}"


def _is_plural(name: str) -> bool:
    return name.endswith(("weights", "states"))


def time_clause(ratio: float | None, *, plural: bool = False) -> str:
    """``"costs about 30 % time"``, ``"is about 12 % faster"``, ``"costs no time"``; empty when unknown."""
    if ratio is None:
        return ""
    costs, is_ = ("cost", "are") if plural else ("costs", "is")
    if abs(ratio - 1) < NOTICEABLE:
        return f"{costs} no time"
    change = f"{abs(ratio - 1):.0%}".replace("%", " %")
    return f"{costs} about {change} time" if ratio > 1 else f"{is_} about {change} faster"


def _saving(effect: Effect) -> str:
    plural = _is_plural(effect.name)
    time = time_clause(effect.time_ratio, plural=plural)
    saves, takes = ("save", "take another") if plural else ("saves", "takes another")
    verb = saves if effect.saved_bytes >= 0 else takes
    return f"{verb} {format_bytes(abs(effect.saved_bytes))}" + (f" and {time}" if time else "")


def _useless_clause(effect: Effect) -> str:
    if effect.saved_bytes > 0:
        return f"{effect.name} would save only {format_bytes(effect.saved_bytes)}"
    if effect.saved_bytes == 0:
        return f"{effect.name} would save nothing"
    return f"{effect.name} would even take {format_bytes(-effect.saved_bytes)} more"


def _dominance(by_kind: Mapping[str, int]) -> str:
    total = sum(by_kind.values()) or 1
    ordered = sorted(by_kind.items(), key=lambda item: -item[1])
    kind, size_bytes = ordered[0]
    if size_bytes >= DOMINANT_SHARE * total:
        return f"{kind} dominate ({size_bytes / total:.0%} of the peak)".replace("%", " %")
    shares = ", ".join(f"{name} {size / total:.0%}".replace("%", " %") for name, size in ordered[:3])
    return f"no kind dominates the peak ({shares})"


WORTHWHILE_SHARE = 0.05
"""A choice that saves less of the device peak than this is not recommended, and worth a warning when its reputation is
good: 90 % intervals of the peak are of this order."""
LEAST_TIME_LOST = 0.02
"""Step times differ by this much from run to run; a smaller loss counts as this, so that free choices rank by bytes."""
NAMED = 3

Progress = Callable[[Mapping[str, object]], None]
"""Takes ``{"kind": "comparing", "method": name, "done": i, "total": n}``."""


def compare(
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    data: DataProfile | None,
    cost_model: CostModel,
    by_kind: Mapping[str, int],
    *,
    budget: Budget | None = None,
    on_progress: Progress | None = None,
) -> ChangeComparison:
    """Predict every neighbour and say which choice would help.

    Args:
        model: As in the prediction that is explained.
        strategy: Likewise.
        execution: Likewise.
        data: Likewise; decides whether times are of full batches or of the data's own lengths.
        cost_model: Predicts for the same device.
        budget: Likewise; bounds what the allocator may take.
        by_kind: Bytes at the peak by kind (``"weights"``, ``"activations"``, …): what dominates.
        on_progress: Called before every neighbour.

    Raises:
        UntraceableError: the configuration itself cannot be traced; neighbours that cannot be are skipped.
    """

    def predicted(strategy: StrategyConfig, execution: ExecutionPlan) -> CostEstimate:
        same_length = data is None
        return cost_model.estimate(
            model, strategy, execution, data, budget, with_quality=False, same_length=same_length
        )

    base = predicted(strategy, execution)
    effects: list[Effect] = []
    skipped: list[str] = []
    found = neighbours(model, strategy, execution, cost_model.device)
    for index, neighbour in enumerate(found):
        if on_progress is not None:
            on_progress({"kind": "comparing", "method": neighbour.name, "done": index, "total": len(found)})
        try:
            other = predicted(neighbour.strategy, neighbour.execution)
        except AdvisorError as failure:
            skipped.append(f"{neighbour.name}: {failure.message}")
            continue
        effects.append(_effect(neighbour, base, other))
    return weigh(effects, skipped, base.memory.device_bytes, by_kind)


def weigh(
    effects: Sequence[Effect], skipped: Sequence[str], device_bytes: int, by_kind: Mapping[str, int]
) -> ChangeComparison:
    """Order effects and name the best, the useless and the sentence."""
    ordered = sorted(effects, key=_merit, reverse=True)
    open_choices = [effect for effect in ordered if not effect.undoes]
    worthwhile = [effect for effect in open_choices if effect.saved_bytes >= WORTHWHILE_SHARE * device_bytes]
    best = worthwhile[:NAMED]
    tempting = _tempting(open_choices, best, device_bytes)
    made = [effect for effect in ordered if effect.undoes]
    return ChangeComparison(
        device_bytes=device_bytes,
        effects=tuple(ordered),
        best=tuple(effect.name for effect in best),
        tempting=tempting.name if tempting is not None else None,
        made=tuple(effect.name for effect in made),
        skipped=tuple(skipped),
        sentence=sentence(by_kind, best, tempting, made),
    )


def _effect(neighbour: Neighbour, base: CostEstimate, other: CostEstimate) -> Effect:
    saved_bytes = base.memory.device_bytes - other.memory.device_bytes
    ratio = None
    if base.time is not None and other.time is not None:
        ratio = other.time.step_s / base.time.step_s
    if neighbour.undoes:
        saved_bytes, ratio = -saved_bytes, (1 / ratio if ratio is not None else None)
    return Effect(
        name=neighbour.name,
        options=neighbour.options,
        device_bytes=other.memory.device_bytes,
        saved_bytes=saved_bytes,
        time_ratio=ratio,
        undoes=neighbour.undoes,
        learns_differently=neighbour.learns_differently,
    )


def _merit(effect: Effect) -> float:
    """Bytes saved per share of the step time that is lost; unknown times count as no loss."""
    lost = max(LEAST_TIME_LOST, (effect.time_ratio or 1.0) - 1)
    return effect.saved_bytes / lost


def _tempting(choices: Sequence[Effect], best: Sequence[Effect], device_bytes: int) -> Effect | None:
    useless = {e.name: e for e in choices if e not in best and e.saved_bytes < WORTHWHILE_SHARE * device_bytes}
    return next((useless[name] for name in REPUTATION if name in useless), None)
