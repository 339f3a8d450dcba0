"""When held-out rows are evaluated, which evaluation was best, and when there is nothing more to wait for.

Everything follows from the figures that were measured so far, which every checkpoint keeps, so that a resumed run goes
on as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from advisor.core.metrics import Metric
from advisor.training.checkpoints import incompleteness


class EvaluationSchedule(TrainerCallback):
    """Asks for the evaluations within an epoch; the one at its end is the Trainer's own.

    Args:
        steps_per_epoch: Optimizer steps.
        per_epoch: Evaluations, that at the end included.
    """

    def __init__(self, steps_per_epoch: int, per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        within = {round(part * steps_per_epoch / per_epoch) for part in range(1, per_epoch)}
        self._within = frozenset(within - {0, steps_per_epoch})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._steps_per_epoch in self._within and state.global_step < state.max_steps:
            control.should_evaluate = True


class BestCheckpoint(TrainerCallback):
    """Keeps the checkpoint of the best evaluation, and ends training when none was better for a while.

    Args:
        root: Where the Trainer writes its ``checkpoint-*`` folders.
        metric: Decides what is better.
        history: ``(optimizer step, held-out metrics)`` so far; grows with the run.
        patience: Evaluations without a better one after which training ends; ``None`` never ends it.
    """

    def __init__(
        self,
        root: Path,
        metric: Metric,
        history: Sequence[tuple[int, Mapping[str, float]]],
        patience: int | None = None,
    ) -> None:
        self._root, self._metric, self._history, self._patience = root, metric, history, patience

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation, the first of equally good ones; ``None`` before there was any."""
        return self._best()[0]

    def folder(self) -> Path | None:
        """The whole checkpoint of the best evaluation; ``None`` where there is none."""
        if self.best_step is None:
            return None
        folder = self._root / f"checkpoint-{self.best_step}"
        return folder if incompleteness(folder) is None else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._settle(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._settle(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch that ends with a stop has been evaluated at this very step."""
        if control.should_training_stop and self._history and self._history[-1][0] == state.global_step:
            control.should_evaluate = False

    def _settle(self, state: Any, control: Any) -> None:
        step, waited = self._best()
        if step is not None:  # the Trainer never deletes the checkpoint that it is told of
            state.best_model_checkpoint = str(self._root / f"checkpoint-{step}")
        if self._patience is not None and waited >= self._patience:
            control.should_training_stop = True

    def _best(self) -> tuple[int | None, int]:
        """The step of the best evaluation, and how many came after it."""
        best: tuple[float, int] | None = None
        waited = 0
        for step, figures in self._history:
            value = self._metric.measured(figures)
            if value is not None and (best is None or self._metric.score(value) > best[0]):
                best, waited = (self._metric.score(value), step), 0
            else:
                waited += 1
        return (None if best is None else best[1]), waited
