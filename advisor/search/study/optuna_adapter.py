"""The one place that speaks to Optuna, and the study's folder: one owner at a time, a journal that a kill cannot break.

Layout::

    study.json                    what the study is about, its space and its ladder
    study.lock                    held by the process that works on the study
    journal.log                   Optuna's journal
    trials/0007/rung-000388.json  one finished evaluation (written before Optuna is told)
    trials/0007/trial.json        the trial's parameters and how it ended (written before Optuna is told)
    trials/0007/run-000388/       output of the run in progress; removed when its evaluation is on disk
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from advisor.core.errors import InputError, OutputError
from advisor.core.metrics import Metric
from advisor.core.store import ensure_writable_dir
from advisor.search.study.files import TrialFiles
from advisor.search.study.records import Evaluation, ParamValue, TrialSummary

if TYPE_CHECKING:
    import optuna

LOCK_PATIENCE_S = 5.0
"""How long to wait for the lock: the children of a killed study die with it, but not in the same instant."""

STARTUP_TRIALS = 10
"""Random samples before TPE's model is used: Optuna's own default, here not counting the defaults of the methods."""


@contextlib.contextmanager
def owned(study_dir: Path) -> Iterator[None]:
    """Hold the study for the length of the block. The kernel releases the lock when its owner dies, however it dies.

    Raises:
        OutputError: another process works on the study, or the folder cannot be written.
    """
    ensure_writable_dir(study_dir)
    lock = FileLock(study_dir / "study.lock")
    try:
        lock.acquire(timeout=LOCK_PATIENCE_S)
    except Timeout:
        raise OutputError(
            f"a study may have one process at a time, but another one works in {study_dir}",
            fix="wait for it to end, or name another folder",
        ) from None
    try:
        yield
    finally:
        lock.release()


def repair_journal(path: Path) -> int:
    """Cut off what a kill left half written at the journal's end; returns the number of bytes removed.

    Only the last line can be torn: Optuna appends whole lines and flushes each to disk before it goes on.

    Raises:
        InputError: a line before the last one is damaged, which no kill does.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    good = 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not _whole(line):
            if good + len(line) < len(content):
                raise InputError(
                    f"the study's journal must be one JSON object a line, but {path} is damaged in line {number}",
                    fix="move the study's folder away and start a new study; finished evaluations stay under trials/",
                )
            break
        good += len(line)
    torn = len(content) - good
    if torn:
        with path.open("r+b") as stream:
            stream.truncate(good)
            os.fsync(stream.fileno())
    return torn


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def open_study(
    study_dir: Path, name: str, direction: str, *, seed: int, defaults: int
) -> tuple[optuna.Study, optuna.storages.BaseStorage]:
    """Create or load the study in its journal; call while the study is ``owned``.

    The sampler is the multivariate TPE with one group per conditional branch of the space. Its seed moves with the
    number of trials, so that a resumed study does not draw the same points again.

    Args:
        study_dir: Holds ``journal.log``.
        name: Of the study in the journal.
        direction: Of the stored objective.
        seed: Of the sampler.
        defaults: How many trials are not the sampler's own choice; so many more come before it trusts its model.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = study_dir / "journal.log"
    repair_journal(journal)
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_alone(journal)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        study.sampler = optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=STARTUP_TRIALS + defaults,
            seed=seed + len(study.trials),
        )
    return study, storage


def _alone(path: Path) -> Any:
    """The journal's lock where ``owned`` already excludes everybody else.

    Optuna's own lock is a file that outlives a killed owner and blocks the next one for its 30 s of grace.
    """
    from optuna.storages.journal import JournalFileOpenLock

    class Alone(JournalFileOpenLock):
        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            return None

    return Alone(str(path))


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
