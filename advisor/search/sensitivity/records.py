"""Neighbouring configurations and what they change."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig


@dataclass(frozen=True)
class Neighbour:
    """A configuration that differs in one choice.

    Attributes:
        name: The choice in words: ``"checkpointing"``, ``"4-bit weights"``.
        options: How to ask ``predict`` for it.
        strategy, execution: The configuration.
        undoes: It takes back a choice that is already made; what it would cost is what the choice saves.
        learns_differently: It changes what is learned or its precision, not only what it costs.
    """

    name: str
    options: str
    strategy: StrategyConfig
    execution: ExecutionPlan
    undoes: bool = False
    learns_differently: bool = False


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
