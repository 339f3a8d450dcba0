"""What a run has done so far and where its wall clock went: kept with every checkpoint, measured from at the end."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from advisor.core.run import Measurement, Outcome
from advisor.training.callbacks import OnEvent, ProgressEvents, StepClock
from advisor.training.stopping import StopReason

Part = Literal["data", "loading", "set_up", "features", "training", "fitting", "saving"]

LEAST_STEPS = 3
"""Fewer steps cannot tell what the first one took beyond the others."""

STOPPED: dict[StopReason, str] = {
    "interrupted": "stopped by Ctrl-C after {steps} optimizer steps; resume to continue from there",
    "over_time": "the time limit was reached after {steps} optimizer steps; resume to continue from there",
    "diverged": "after {steps} optimizer steps the weights or the loss are no finite numbers",
}


class RunAccount:
    """The account of one training process.

    Args:
        on_event: Told about steps, evaluations and metrics.
        earlier_s: Wall clock of the attempt before this one.

    Attributes:
        clock, progress: For the Trainer to call: step times, losses and metrics.
        parameters: Trainable and total.
        achieved_sparsity: Of a method that has one.
    """

    def __init__(self, on_event: OnEvent, *, earlier_s: float = 0.0) -> None:
        self.clock = StepClock(waiting=False)
        self.progress = ProgressEvents(on_event)
        self.parameters = (0, 0)
        self.achieved_sparsity: float | None = None
        self._earlier_s = earlier_s
        self._began_s = time.perf_counter()
        self._times_s: dict[Part, float] = dict.fromkeys(
            ("data", "loading", "set_up", "features", "training", "fitting", "saving"), 0.0
        )
        self._preparing_s = 0.0
        self._restored_steps = 0

    @property
    def elapsed_s(self) -> float:
        """Wall clock of the whole run, earlier processes and attempts included."""
        return self._earlier_s + time.perf_counter() - self._began_s

    @contextlib.contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Put the block's wall clock down to ``part``, however it ends."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            ended_s = time.perf_counter()
            self._times_s[part] += ended_s - started_s
            if part == "training":
                self._preparing_s = (self.clock.first_began_s or ended_s) - started_s

    def samples(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step_times_s": self.clock.step_times_s,
            "train_losses": self.progress.train_losses,
            "metric_history": self.progress.metric_history,
            "elapsed_s": self.elapsed_s,
        }

    def restore(self, samples: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept. An attempt of this process was longer than its last checkpoint knows."""
        self.clock.step_times_s[:] = samples["step_times_s"]
        self._restored_steps = len(self.clock.step_times_s)
        self.progress.train_losses[:] = [(step, loss) for step, loss in samples["train_losses"]]
        self.progress.metric_history[:] = [(step, metrics) for step, metrics in samples["metric_history"]]
        self._earlier_s = max(self._earlier_s, samples["elapsed_s"])

    def completed(self, metrics: dict[str, float], *, checkpoints_s: float) -> Measurement:
        """The figures of a run that came to its end, with ``checkpoints_s`` seconds spent on writing checkpoints."""
        return self._measurement("completed", "", metrics, checkpoints_s)

    def stopped(self, why: StopReason, *, checkpoints_s: float) -> Measurement:
        """The figures of a run that was stopped."""
        done = len(self.clock.step_times_s)
        return self._measurement(why, STOPPED[why].format(steps=done), {}, checkpoints_s)

    def _measurement(
        self, outcome: Outcome, reason: str, metrics: dict[str, float], checkpoints_s: float
    ) -> Measurement:
        times_s: dict[str, float] = {str(part): seconds for part, seconds in self._times_s.items()}
        evaluation_s, total_s = self.progress.evaluation_s, self.elapsed_s
        trainable_parameters, total_parameters = self.parameters
        return Measurement(
            outcome=outcome,
            reason=reason,
            step_times_s=tuple(self.clock.step_times_s),
            loading_s=times_s["data"] + times_s["loading"],
            training_s=max(0.0, times_s["training"] - evaluation_s - checkpoints_s)
            + times_s["features"]
            + times_s["fitting"],
            evaluation_s=evaluation_s,
            saving_s=times_s["saving"] + checkpoints_s,
            total_s=total_s,
            parts_s=run_parts(
                self.clock.step_times_s[self._restored_steps :],
                {
                    **times_s,
                    "set_up": times_s["set_up"] + self._preparing_s,
                    "preparing": self._preparing_s,
                    "evaluation": evaluation_s,
                    "checkpoints": checkpoints_s,
                    "earlier": self._earlier_s,
                    "total": total_s,
                },
            ),
            train_losses=tuple(self.progress.train_losses),
            metrics=metrics,
            metric_history=tuple(self.progress.metric_history),
            trainable_parameters=trainable_parameters,
            total_parameters=total_parameters,
            achieved_sparsity=self.achieved_sparsity,
        )


def run_parts(step_times_s: Sequence[float], seconds: Mapping[str, float]) -> dict[str, float]:
    """Where the wall clock of a run went, in the parts that the cost model predicts (``TimeEstimate.parts``).

    With ``earlier`` (of a resumed run) and ``other`` they add up to the whole run.

    Args:
        step_times_s: Every optimizer step of this process.
        seconds: ``data``, ``loading``, ``set_up`` (up to the first step), ``training`` (all of ``Trainer.train``),
            ``preparing`` (of that, before the first step), ``evaluation`` and ``checkpoints`` within training,
            ``features`` before and ``fitting`` after it where there are any, ``saving``, ``earlier`` (other processes
            and attempts of the run), ``total``.
    """
    steps_s, warm_up_s = sum(step_times_s), 0.0
    if len(step_times_s) >= LEAST_STEPS:
        warm_up_s = max(0.0, step_times_s[0] - statistics.median(step_times_s[1:]))
    inside_s = seconds["preparing"] + steps_s + seconds["evaluation"] + seconds["checkpoints"]
    parts = {
        "data": seconds["data"],
        "loading": seconds["loading"],
        "set_up": seconds["set_up"],
        "warm_up": warm_up_s,
        "training": steps_s - warm_up_s,
        "between_steps": max(0.0, seconds["training"] - inside_s),
        "evaluation": seconds["evaluation"],
        "checkpoints": seconds["checkpoints"],
        "saving": seconds["saving"],
    }
    parts |= {name: seconds[name] for name in ("features", "fitting") if seconds.get(name)}
    if seconds["earlier"]:
        parts["earlier"] = seconds["earlier"]
    return parts | {"other": seconds["total"] - sum(parts.values())}
