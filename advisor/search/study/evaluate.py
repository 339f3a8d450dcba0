"""One evaluation: train a plan on a prefix of the rows in its own process, and turn what happened into figures."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.errors import AdvisorError, InterruptedByUser, OutputError
from advisor.core.events import OnMemberEvent
from advisor.core.metrics import LOSS
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.search.study.context import OnEvent, PackRunner, Runner, StudyContext
from advisor.search.study.records import Evaluation
from advisor.search.study.storage import discard

ENDED_BY_BOUND = 1e-6
"""Least violation of a bound that ended a run: TPE only looks at the sign and the order of violations."""


def run_evaluation(
    setting: StudyContext,
    runner: Runner,
    plan: Plan,
    train_rows: int,
    run_dir: Path,
    *,
    time_limit_s: float,
    on_event: OnEvent | None,
) -> Evaluation | None:
    """Train ``plan`` (the final run's plan) on ``train_rows`` rows; ``None`` when the study's own time ran out first.

    Everything that goes wrong inside the run becomes an outcome; only the user's Ctrl-C gets through.

    Raises:
        InterruptedByUser: the run was interrupted; its checkpoints stay in ``run_dir``.
        OutputError: the study's folder is full or read-only.
    """
    trial_plan = setting.trial_plan(plan, train_rows)
    limit_s = min(time_limit_s, setting.budget.time_s or math.inf)
    measurement = train(runner, trial_plan, run_dir, limit_s, on_event)
    if measurement.outcome == "interrupted":
        raise InterruptedByUser(measurement.reason or "the trial was interrupted")
    if measurement.outcome == "over_time" and limit_s < (setting.budget.time_s or math.inf):
        return None
    return judge(setting, plan, train_rows, finite(measurement))


@dataclass(frozen=True)
class PackResult:
    """How a pack ended.

    Attributes:
        evaluations: Of each member; ``None`` where it says nothing about the configuration.
        interrupted: Ctrl-C.
        out_of_time: The study's own time ran out first.
        problem: Why members without an evaluation must run alone; empty when none must.
    """

    evaluations: tuple[Evaluation | None, ...]
    interrupted: bool = False
    out_of_time: bool = False
    problem: str = ""


def run_pack(
    setting: StudyContext,
    runner: PackRunner,
    plans: Sequence[Plan],
    train_rows: int,
    run_dirs: Sequence[Path],
    *,
    time_limit_s: float,
    on_event: OnMemberEvent | None,
) -> PackResult:
    """Train plans in one pass on ``train_rows`` rows each.

    A member that failed, or ended with its process, says nothing about its configuration, which may do well alone.

    Raises:
        OutputError: the study's folder is full or read-only.
    """
    together = [setting.trial_plan(plan, train_rows) for plan in plans]
    bound_s = len(plans) * (setting.budget.time_s or math.inf)
    limit_s = min(time_limit_s, bound_s)
    measurements = _train_together(runner, together, run_dirs, limit_s, on_event)
    if isinstance(measurements, str):
        return PackResult((None,) * len(plans), problem=measurements)
    outcomes = [measurement.outcome for measurement in measurements]
    of_study = limit_s < bound_s
    silent = {"interrupted", "failed", "out_of_memory", *(("over_time",) if of_study else ())}
    evaluations = [
        None if measurement.outcome in silent else judge(setting, plan, train_rows, finite(measurement))
        for plan, measurement in zip(plans, measurements, strict=True)
    ]
    broken = [measurement for measurement in measurements if measurement.outcome in ("failed", "out_of_memory")]
    return PackResult(
        tuple(evaluations),
        interrupted="interrupted" in outcomes,
        out_of_time=of_study and "over_time" in outcomes,
        problem=broken[0].reason or broken[0].outcome.replace("_", " ") if broken else "",
    )


def _train_together(
    runner: PackRunner,
    plans: Sequence[Plan],
    run_dirs: Sequence[Path],
    limit_s: float,
    on_event: OnMemberEvent | None,
) -> list[Measurement] | str:
    """The figures of all members, or why there are none."""
    resume = any(_holds_a_run(run_dir) for run_dir in run_dirs)
    try:
        return runner(plans, run_dirs, resume=resume, time_limit_s=limit_s, on_event=on_event)
    except (KeyboardInterrupt, InterruptedByUser):
        return [Measurement("interrupted", "the pack was interrupted") for _ in plans]
    except OutputError:
        if not resume:
            raise
        for run_dir in run_dirs:
            discard(run_dir)
        return _train_together(runner, plans, run_dirs, limit_s, on_event)
    except AdvisorError as failure:
        return failure.message
    except Exception as failure:  # a broken pack must not end the study
        return f"{type(failure).__name__}: {failure}"


def _holds_a_run(run_dir: Path) -> bool:
    return run_dir.is_dir() and any(run_dir.iterdir())


def train(runner: Runner, plan: Plan, run_dir: Path, limit_s: float, on_event: OnEvent | None) -> Measurement:
    """Run a plan, from its checkpoint where there is one; every failure but a full disk or Ctrl-C is an outcome.

    Raises:
        InterruptedByUser: the run was interrupted.
        OutputError: the study's folder is full or read-only.
    """
    resume = _holds_a_run(run_dir)
    try:
        return runner(plan, run_dir, resume=resume, time_limit_s=limit_s, on_event=on_event)
    except (KeyboardInterrupt, InterruptedByUser):
        raise InterruptedByUser("the trial was interrupted") from None
    except OutputError:
        if not resume:
            raise
        discard(run_dir)  # left by a run whose plan has changed since, for example after a new calibration
        return train(runner, plan, run_dir, limit_s, on_event)
    except AdvisorError as failure:
        return Measurement("failed", failure.message)
    except Exception as failure:  # a broken run must not end the study
        return Measurement("failed", f"{type(failure).__name__}: {failure}")


def judge(setting: StudyContext, plan: Plan, train_rows: int, measurement: Measurement) -> Evaluation:
    """The figures that rank a run and hold it against the budgets; of a member of a pack, as if it had run alone."""
    speed_up = 1.0 if measurement.pack is None else setting.pack_speed_up(plan, measurement.members)
    peak_bytes = measurement.device_peak_bytes
    if measurement.pack is not None:
        predicted = plan.predicted
        peak_bytes = predicted.memory.device_bytes if predicted is not None else None
    nll = measurement.metrics.get(LOSS.name)
    metric = setting.metric.measured(measurement.metrics)
    completed = measurement.outcome == "completed"
    diverged = measurement.outcome == "diverged" or (completed and nll is None)
    projected_s = _projected_total_s(setting, plan, measurement, speed_up) if completed else None
    return Evaluation(
        train_rows=train_rows,
        outcome=measurement.outcome,
        reason="training diverged: the held-out loss is not a finite number" if diverged else measurement.reason,
        nll=nll if completed else None,
        metric=metric if completed else None,
        device_peak_bytes=peak_bytes,
        total_s=measurement.total_s / measurement.members,
        projected_total_s=projected_s,
        constraints=_constraints(setting, measurement, peak_bytes, projected_s),
        measurement=measurement,
        at_chance=completed and _at_chance(setting, nll, metric),
        pack=measurement.pack,
        pack_speed_up=speed_up,
    )


def _at_chance(setting: StudyContext, nll: float | None, metric: float | None) -> bool:
    share = metric if setting.metric.is_share else None
    return setting.chance is not None and setting.chance.holds(nll, share)


def _constraints(
    setting: StudyContext, measurement: Measurement, peak_bytes: int | None, projected_s: float | None
) -> dict[str, float]:
    """Measured figures over their limits, minus one. A run that a bound ended has broken that bound."""
    ended_by_time = measurement.outcome == "over_time"
    needed = {
        "memory_bytes": peak_bytes,
        "time_s": measurement.total_s / measurement.members if ended_by_time else projected_s,
        "max_energy_j": _projected_energy_j(measurement, projected_s),
    }
    values = setting.budget.check_figures(needed, setting.cost_model.device).excesses()
    broken = {"out_of_memory": "memory", "over_time": "time"}.get(measurement.outcome)
    if broken is not None:
        values[broken] = max(values.get(broken, 0.0), ENDED_BY_BOUND)
    return values


def _projected_energy_j(measurement: Measurement, projected_s: float | None) -> float | None:
    """The final run's energy at the mean power of this one; unknown where no meter says so."""
    if measurement.energy_j is None or projected_s is None or measurement.total_s <= 0:
        return None
    return measurement.energy_j / measurement.total_s * projected_s


def _projected_total_s(setting: StudyContext, plan: Plan, measurement: Measurement, speed_up: float) -> float | None:
    """The final run's wall clock: this run's loading and saving, and its median step times the final run's steps.

    Evaluation grows with the held-out rows. The first steps (warm-up) are in the median, not in the sum. A pack's step
    and evaluation are those of all members, and take ``speed_up`` times as long one after the other.
    """
    if not measurement.step_times_s:
        return None
    steps_per_epoch = math.ceil(setting.data_profile.train_rows / plan.execution.effective_batch_size)
    steps = math.ceil(steps_per_epoch * plan.strategy.num_train_epochs)
    evaluation_s = measurement.evaluation_s * setting.data_profile.eval_rows / setting.eval_rows
    passes_s = statistics.median(measurement.step_times_s) * steps + evaluation_s
    return measurement.loading_s + passes_s * speed_up / measurement.members + measurement.saving_s


def finite(measurement: Measurement) -> Measurement:
    """Without not-a-numbers, which JSON cannot hold."""
    return dataclasses.replace(
        measurement,
        metrics=_finite_metrics(measurement.metrics),
        metric_history=tuple((step, _finite_metrics(metrics)) for step, metrics in measurement.metric_history),
        train_losses=tuple((step, loss) for step, loss in measurement.train_losses if math.isfinite(loss)),
    )


def _finite_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
