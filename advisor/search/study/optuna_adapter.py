"""The one place that speaks to Optuna's study: asks, reports, tells, and finds what a killed process left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from advisor.core.metrics import Metric
from advisor.search.study.files import TrialFiles
from advisor.search.study.records import Evaluation, ParamValue, TrialSummary

if TYPE_CHECKING:
    import optuna


class OptunaAdapter:
    """Ask-and-tell on one study that nobody else works on.

    Intermediate values are the held-out loss per item (negated when the objective is maximised), so that Optuna ranks
    pruned trials by how far they came and then by loss. The final value is the objective itself.

    Args:
        direction: ``"maximize"`` stores the metric's score, ``"minimize"`` the loss per item.
        metric: What is searched.
    """

    def __init__(
        self, study: optuna.Study, storage: optuna.storages.BaseStorage, direction: str, metric: Metric
    ) -> None:
        self._study = study
        self._storage = storage
        self._maximize = direction == "maximize"
        self._metric = metric

    def enqueue_default(self, method: str, params: Mapping[str, ParamValue]) -> None:
        """Queue the first trial of a method, once per study."""
        if all(trial.user_attrs.get("default_of") != method for trial in self._study.get_trials(deepcopy=False)):
            self._study.enqueue_trial(dict(params), user_attrs={"origin": "default", "default_of": method})

    def restore_lost(self, files: TrialFiles) -> None:
        """Queue trials that have records but are missing at the end of the journal (it was cut short).

        They get their old numbers, and with them their finished evaluations, without being run again.
        """
        from optuna.trial import TrialState, create_trial

        for number in files.numbers():
            known = files.trial(number)
            while known is not None and number > len(self._study.get_trials(deepcopy=False)):
                self._study.add_trial(create_trial(state=TrialState.FAIL))
            if known is not None and number == len(self._study.get_trials(deepcopy=False)):
                attributes: dict[str, str] = {"origin": known.origin}
                if known.origin == "default":
                    attributes["default_of"] = known.strategy.method
                self._study.enqueue_trial(dict(known.params), user_attrs=attributes)

    def finished_numbers(self) -> list[int]:
        return [trial.number for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def orphans(self) -> list[optuna.Trial]:
        """Trials left running by a process that is gone, as live trials again.

        The journal has no heartbeat, and TPE would count them as running for ever; the study's lock proves that they
        are nobody's.
        """
        import optuna

        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        ids = [self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number) for trial in running]
        return [optuna.trial.Trial(self._study, trial_id) for trial_id in ids]

    def has_waiting(self) -> bool:
        from optuna.trial import TrialState

        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def ask(self) -> optuna.Trial:
        """The next waiting trial, else a new one."""
        return self._study.ask()

    def report(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        """Report a finished evaluation, once."""
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if evaluation.nll is not None and evaluation.feasible and evaluation.train_rows not in known:
            trial.report(-evaluation.nll if self._maximize else evaluation.nll, step=evaluation.train_rows)

    def tell(self, trial: optuna.Trial, summary: TrialSummary) -> None:
        """Tell a verdict.

        Out of memory, out of time and infeasible are data (pruned, with a positive constraint); TPE ignores failures,
        so only crashes are told as such.
        """
        from optuna.trial import TrialState

        for name, value in summary.constraints.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)
        trial.set_user_attr("verdict", summary.verdict)
        trial.set_user_attr("reason", summary.reason)
        top = summary.top
        if top is not None and top.metric is not None:
            trial.set_user_attr("metric", top.metric)
        if summary.verdict == "completed" and top is not None:
            score = self._metric.score(top.metric) if top.metric is not None else None
            self._study.tell(trial, score if self._maximize else top.nll, TrialState.COMPLETE)
        elif summary.verdict == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)
