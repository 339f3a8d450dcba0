"""What a study writes to disk and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from advisor.core.metrics import Metric, get_metric
from advisor.core.pack import PackMembership
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement, Outcome
from advisor.core.serialization import LATER
from advisor.core.strategy import StrategyConfig

TrialVerdict = Literal["completed", "pruned", "infeasible", "out_of_memory", "over_time", "failed", "open"]
"""``completed``: reached the highest fidelity. ``pruned``: others were better. ``infeasible``: broke a budget, by
prediction (never started) or measured. ``open``: cut off by the end of a call; continues when the study is resumed."""

Origin = Literal["recommended", "race", "default", "sampled"]
"""Why a point was tried: the recommended default, another learning rate for it, another method's default, a sample."""

ParamValue = str | int | float
"""What Optuna stores for one parameter."""


@dataclass(frozen=True)
class Evaluation:
    """One training run of one trial at one fidelity.

    Attributes:
        train_rows: Rows trained on: a prefix of the shuffled training rows, so that fidelities are nested.
        nll: Held-out negative log-likelihood on the study's own held-out rows; ranks trials at equal ``train_rows``.
        metric: The study's metric on the same rows.
        device_peak_bytes: Measured; ``None`` if the run did not come so far. Of a member of a pack, whose process holds
            all members, it is what is predicted of the run alone.
        total_s: Measured wall clock of this run; of a member of a pack the pack's time divided by its members.
        projected_total_s: What the final run on all rows will take, from this run's own step time.
        constraints: Each figure divided by its budget, minus one: at most zero is feasible.
        measurement: The raw figures; of a member of a pack, times, memory and energy are the pack's.
        at_chance: Whether it answers no better than somebody who only knows how frequent the classes are ("onset not
            reached"): then it is no evidence about the configuration.
        pack: How many trials were trained in one pass, and which of them this was; ``None`` for a run on its own.
        pack_speed_up: How many times as fast the pack was predicted to be as its members one after the other.
    """

    train_rows: int
    outcome: Outcome
    reason: str
    nll: float | None
    metric: float | None
    device_peak_bytes: int | None
    total_s: float
    projected_total_s: float | None
    constraints: dict[str, float]
    measurement: Measurement
    at_chance: bool = False
    pack: PackMembership | None = field(default=None, metadata=LATER)
    pack_speed_up: float = field(default=1.0, metadata=LATER)

    @property
    def feasible(self) -> bool:
        """Whether it ran to its end inside every budget and has a figure to rank it by."""
        return self.outcome == "completed" and self.nll is not None and all(v <= 0 for v in self.constraints.values())

    @property
    def alone_s(self) -> float:
        """What the run takes on its own: measured, or from the pack that it was trained in."""
        return self.total_s * self.pack_speed_up


@dataclass(frozen=True)
class ExceededLimit:
    """A predicted figure that is beyond its limit, in base units.

    Attributes:
        name: Field of ``Budget``: ``"memory_bytes"``, ``"max_latency_s"``.
        predicted: What the figure stays below with the limit's probability.
        limit: The smaller of the budget's and the device's own.
    """

    name: str
    predicted: float
    limit: float


@dataclass(frozen=True)
class TrialSummary:
    """One row of the trials table: a configuration and everything that was measured of it.

    Attributes:
        number: Number of the trial in the Optuna study.
        params: As Optuna sampled them (``lora.log2_rank``).
        origin: Why it was tried.
        evaluations: In order of rising ``train_rows``.
        constraints: The worst value of each constraint, predicted or measured.
        effective_batch_size: Rows per optimizer step; ``None`` is the study's.
        execution: The execution knobs that it ran with, as solved for the final run; ``None`` before it ran.
        exceeded: The limits that it breaks by prediction, where it was therefore never started.
    """

    number: int
    params: dict[str, ParamValue]
    strategy: StrategyConfig
    verdict: TrialVerdict
    reason: str
    origin: Origin = "sampled"
    evaluations: tuple[Evaluation, ...] = ()
    constraints: dict[str, float] = field(default_factory=dict)
    effective_batch_size: int | None = None
    execution: ExecutionPlan | None = None
    exceeded: tuple[ExceededLimit, ...] = field(default=(), metadata=LATER)

    @property
    def started(self) -> bool:
        """Whether a training process ever ended with an outcome for it."""
        return bool(self.evaluations)

    @property
    def top(self) -> Evaluation | None:
        """Its feasible evaluation on the most rows."""
        feasible = [evaluation for evaluation in self.evaluations if evaluation.feasible]
        return feasible[-1] if feasible else None


@dataclass(frozen=True)
class NeverStarted:
    """A configuration or a whole method that the cost model ruled out before any process was started.

    Attributes:
        trial: Number in the study; ``None`` for a method that was dropped or cut before the study began.
        exceeded: The limits that it breaks by prediction, with the predicted figures.
    """

    trial: int | None
    method: str
    reason: str
    params: dict[str, ParamValue] = field(default_factory=dict)
    exceeded: tuple[ExceededLimit, ...] = ()


@dataclass(frozen=True)
class RacePoint:
    """One learning rate of the recommended method, on the most rows that all of these ran on.

    Attributes:
        lr_rel: Multiple of the method's default learning rate.
    """

    trial: int
    method: str
    lr_rel: float
    learning_rate: float
    train_rows: int
    metric: float | None
    nll: float | None


@dataclass(frozen=True)
class ParetoPoint:
    """A trial that no other beats in metric, memory and time at once (among those with the most training rows).

    Attributes:
        total_s: Projected wall clock of the final run on all rows.
    """

    trial: int
    method: str
    metric: float
    nll: float
    device_peak_bytes: int | None
    total_s: float | None


@dataclass(frozen=True)
class FinalRun:
    """The study's answer: the best plan, trained on all training rows, judged on rows that no trial ever saw.

    Attributes:
        plan: What was run.
        metric: On the held-out rows of the data set, the test split of the search.
        measurement: The raw figures.
    """

    plan: Plan
    metric: float | None
    measurement: Measurement


@dataclass(frozen=True)
class TuneResult:
    """What ``tune`` answers.

    Attributes:
        best: The best plan so far, on all training rows, its cost predicted.
        best_trial: Number of its trial; ``None`` when no trial says anything yet and it is the recommended default.
        best_reason: Why this plan, one sentence.
        metric_name: What the study optimizes: ``accuracy``, ``perplexity``, or another registered metric.
        trials: All trials, with their evaluations.
        pareto: Trials that no other beats in quality, memory and time at once.
        never_started: Candidates that cannot fit or that there was no time for, with the reason.
        ladder_rows: Training rows of each fidelity of this call, ascending.
        full_rows: Training rows of the final run.
        stopped_because: Which rule ended the study, one sentence.
        elapsed_s: Wall clock of this call.
        study_dir, study_name: Where the study is stored.
        final: The verified final run, if there was time for it.
        final_skipped: Why there was no final run.
        interrupted: Whether Ctrl-C ended the call.
        objective: What the answer is: ``quality``, ``cheapest``, ``fastest`` or ``pareto``.
        leaderboard: Numbers of the started trials: those that came farthest, the lowest loss first.
        race: The recommended method at several learning rates, lowest first; empty with fewer than two.
    """

    best: Plan
    best_trial: int | None
    best_reason: str
    metric_name: str
    trials: tuple[TrialSummary, ...]
    pareto: tuple[ParetoPoint, ...]
    never_started: tuple[NeverStarted, ...]
    ladder_rows: tuple[int, ...]
    full_rows: int
    stopped_because: str
    elapsed_s: float
    study_dir: str
    study_name: str
    final: FinalRun | None = None
    final_skipped: str = ""
    interrupted: bool = False
    objective: str = "quality"
    leaderboard: tuple[int, ...] = ()
    race: tuple[RacePoint, ...] = ()

    @property
    def metric(self) -> Metric:
        """What was searched."""
        return get_metric(self.metric_name)
