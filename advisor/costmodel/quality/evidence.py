"""What short real runs showed, kept row by row: the record that turns the prior into a prediction for this task."""

from __future__ import annotations

from dataclasses import dataclass, field

from advisor.core.chance import is_chance_accuracy
from advisor.core.run import Outcome
from advisor.core.strategy import StrategyConfig


@dataclass(frozen=True)
class EvidenceRun:
    """One short run of a candidate on a prefix of the training rows.

    Attributes:
        strategy: The candidate, with the knobs of its plan.
        train_rows: Rows of the prefix; prefixes of one order, so that each contains the smaller ones.
        target_train_rows: Rows of the full run.
        eval_rows: Fixed held-out items that the figures below are over.
        eval_loss: Mean negative log-likelihood on them, nats; ``None`` when the run did not finish.
        accuracy: Their share that is right; ``None`` where that is not the task's metric and when the run did not
            finish.
        elapsed_s: What the run cost.
        outcome, reason: How it ended.
        diverged: The training loss rose or stopped being a number.
        train_losses: ``(step, loss)`` as logged.
        chance_accuracy: Of always answering the most frequent class; ``None`` where there are no classes.
    """

    strategy: StrategyConfig
    train_rows: int
    target_train_rows: int
    eval_rows: int
    eval_loss: float | None
    accuracy: float | None
    elapsed_s: float
    outcome: Outcome
    reason: str = ""
    diverged: bool = False
    train_losses: tuple[tuple[int, float], ...] = ()
    chance_accuracy: float | None = None

    @property
    def at_chance(self) -> bool:
        """Whether a finished run is no better than always answering the most frequent class, as far as its held-out
        items can tell: it has not begun to learn, and says nothing about the full run.
        """
        if not self.usable or self.accuracy is None or self.chance_accuracy is None:
            return False
        return is_chance_accuracy(self.accuracy, self.chance_accuracy, self.eval_rows)

    @property
    def usable(self) -> bool:
        return self.outcome == "completed" and not self.diverged and self.eval_loss is not None


@dataclass(frozen=True)
class QualityEvidence:
    """All runs bought for one task (model, data, hold-out).

    Attributes:
        runs: In the order they were made, failed ones too.
        data_fingerprint: Of the rows they are about.
        target_eval_rows: Held-out items of the full run.
        elapsed_s, budget_s: Spent and allowed.
        seed: Shared by all runs.
    """

    runs: tuple[EvidenceRun, ...] = ()
    data_fingerprint: str = ""
    target_eval_rows: int = 0
    elapsed_s: float = 0.0
    budget_s: float = 0.0
    seed: int = 42
    notes: tuple[str, ...] = field(default_factory=tuple)

    def of(self, method: str) -> tuple[EvidenceRun, ...]:
        """The usable runs of a method, fewest rows first."""
        runs = [run for run in self.runs if run.strategy.method == method and run.usable]
        return tuple(sorted(runs, key=lambda run: run.train_rows))

    def diverged(self, method: str) -> bool:
        """Whether a run of the method lost its footing and none succeeded."""
        return not self.of(method) and any(run.diverged for run in self.runs if run.strategy.method == method)

    @property
    def at_chance(self) -> tuple[EvidenceRun, ...]:
        """Runs that have not left chance level."""
        return tuple(run for run in self.runs if run.at_chance)

    @property
    def at_chance_in_words(self) -> str:
        """Which these are."""
        return " and ".join(f"{run.strategy.method} on {run.train_rows} rows" for run in self.at_chance)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with at least one usable run."""
        return tuple(dict.fromkeys(run.strategy.method for run in self.runs if run.usable))
