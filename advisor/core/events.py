"""What a job reports while it works: small dictionaries, so that they cross process borders.

A listener takes one event at a time and must not raise. ``event["kind"]`` says which of the types below it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict


class PhaseEvent(TypedDict):
    """A new part of the job begins."""

    kind: Literal["phase"]
    name: str


class ProgressEvent(TypedDict):
    """How far the current part is; ``share`` runs from 0 to 1."""

    kind: Literal["progress"]
    text: str
    share: float


class StepEvent(TypedDict):
    """An optimizer step is done; ``loss`` is the mean since the last report, where there is one."""

    kind: Literal["step"]
    step: int
    total: int
    loss: NotRequired[float | None]
    trial: NotRequired[int]


class EvaluationEvent(TypedDict):
    """A batch of held-out rows was predicted."""

    kind: Literal["evaluation"]
    batch: int
    total: int | None
    trial: NotRequired[int]


class MetricsEvent(TypedDict):
    """Held-out metrics during training, by name."""

    kind: Literal["metrics"]
    step: int
    metrics: Mapping[str, float]
    trial: NotRequired[int]


class ResumedEvent(TypedDict):
    """A run continues from the checkpoint of a step."""

    kind: Literal["resumed"]
    step: int
    trial: NotRequired[int]


class TrialEvent(TypedDict):
    """A trial of a study begins or ends; ``pack`` has the trials that it is trained with, itself included."""

    kind: Literal["trial"]
    trial: int
    method: str
    state: str
    pack: NotRequired[list[int]]
    reason: NotRequired[str]
    train_rows: NotRequired[int]
    metric: NotRequired[float | None]
    nll: NotRequired[float | None]
    at_chance: NotRequired[bool]


class StudyEvent(TypedDict):
    """Where a study stands after a trial (``state`` is ``status``), or that it stopped, and why (``stopped``)."""

    kind: Literal["study"]
    state: str
    reason: str
    best_trial: NotRequired[int | None]
    best_method: NotRequired[str | None]
    best_lr_rel: NotRequired[float | None]
    metric_name: NotRequired[str]
    metric: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    train_rows: NotRequired[int | None]
    ladder_rows: NotRequired[list[int]]
    remaining_s: NotRequired[float]
    reserved_s: NotRequired[float]
    budget_s: NotRequired[float]
    expected_gain: NotRequired[float | None]
    rung_trials: NotRequired[list[int]]
    objective: NotRequired[str]
    energy_used_j: NotRequired[float | None]
    energy_budget_j: NotRequired[float | None]


class NoteEvent(TypedDict):
    """Something worth knowing."""

    kind: Literal["note"]
    text: str


Event = (
    PhaseEvent
    | ProgressEvent
    | StepEvent
    | EvaluationEvent
    | MetricsEvent
    | ResumedEvent
    | TrialEvent
    | StudyEvent
    | NoteEvent
)
OnEvent = Callable[[Event], None]
OnMemberEvent = Callable[[int, Event], None]
"""Receives a member's position in its pack, and its event."""
"""A listener of the jobs."""
RawListener = Callable[[Any], None]
"""Takes whatever another process sends, in order."""
