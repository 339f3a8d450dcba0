"""The study on disk: Optuna's RDB storage on SQLite is its only truth, and one process at a time owns it.

Layout::

    study.db                      the Optuna study: trials, their evaluations, how they ended, the final run
    study.lock                    held by the process that works on the study
    plan.json                     the best plan so far, from the first second on
    trials/0007/run-000388/       output of a run in progress; removed when its evaluation is stored
    final/                        output of the verified final run

A trial's records are user attributes: ``record`` (a ``TrialSummary`` without its evaluations), ``evaluation/ROWS``,
``begun/ROWS`` and, where trials may be packed, ``pack/ROWS`` (the numbers of those in its pass). Each is one
transaction, so that a kill at any moment leaves whole records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from advisor.core.errors import InputError, OutputError
from advisor.core.serialization import from_dict, to_dict
from advisor.core.store import ensure_writable_dir
from advisor.search.study.context import identity_hash
from advisor.search.study.records import Evaluation, FinalRun, Origin, ParamValue, TrialSummary
from advisor.search.study.space import Space

if TYPE_CHECKING:
    import optuna

LOCK_PATIENCE_S = 5.0
"""How long to wait for the lock: the children of a killed study die with it, but not in the same instant."""

STARTUP_TRIALS = 10
"""Sampled trials before TPE's model is used: Optuna's own default."""

DATABASE = "study.db"


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


@contextlib.contextmanager
def _storage_errors(study_dir: Path) -> Iterator[None]:
    """A full or read-only disk, or a damaged database, in words.

    Raises:
        OutputError: the database cannot be read or written.
    """
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as failure:
        cause = str(failure.__cause__ or failure).splitlines()[0]
        raise OutputError(
            f"the study's database must be readable and writable, but {study_dir / DATABASE} is not: {cause}",
            fix="free some space or restore write access, then continue with --resume; finished trials are kept",
        ) from failure


def open_storage(path: Path) -> optuna.storages.RDBStorage:
    """SQLite storage in a file; created.

    With a write-ahead log that is flushed at checkpoints: a kill loses nothing, a power cut the last transactions.
    """
    import optuna

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=LOCK_PATIENCE_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    with _storage_errors(path.parent):
        return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}", engine_kwargs={"creator": connect})


def open_study(
    study_dir: Path,
    identity: Mapping[str, str],
    space: Space,
    *,
    seed: int,
    resume: bool,
    storage: optuna.storages.BaseStorage | None = None,
) -> StudyStorage:
    """Create the folder's study or take it up again; call while it is ``owned``.

    Raises:
        OutputError: a study is there and ``resume`` was not given; the database cannot be written.
        InputError: the study there is about something else, or damaged.
    """
    from advisor.search.study.import_journal import import_first_version, is_first_version

    database = study_dir / DATABASE
    there = database.exists() or is_first_version(study_dir)
    if there and not resume:
        raise OutputError(
            f"a new study needs a folder of its own, but {study_dir} holds one",
            fix="pass --resume, or name another folder",
        )
    if storage is None and not database.exists() and is_first_version(study_dir):
        import_first_version(study_dir, database, space)
    with _storage_errors(study_dir):
        return _loaded(study_dir, storage or open_storage(database), identity, seed)


def _loaded(
    study_dir: Path, storage: optuna.storages.BaseStorage, identity: Mapping[str, str], seed: int
) -> StudyStorage:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = optuna.get_all_study_names(storage)
    name = names[0] if names else f"tune-{identity_hash(identity)}"
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    before = study.user_attrs.get("identity")
    if before is None:
        study.set_user_attr("identity", dict(identity))
        before = identity
    # Parts that an earlier version did not store cannot be compared.
    changed = [
        f"{part}: was {before[part]}, is {now}"
        for part, now in identity.items()
        if part in before and before[part] != now
    ]
    if any(problem.startswith("limits: ") for problem in changed):
        changed = [problem for problem in changed if not problem.startswith("budget: ")]  # the same, as a hash
    if changed:
        raise InputError(
            f"a resumed study must be about the same thing, but the one in {study_dir} differs",
            problems=changed,
            fix="repeat the first command's options, or start a new study in another folder",
        )
    return StudyStorage(study, study_dir, seed)


class StudyStorage:
    """Ask-and-tell on one study that nobody else works on, and the records of its trials.

    The objective is the held-out loss per item on the most rows; intermediate values are the losses by rows, so that
    Optuna ranks pruned trials by how far they came and then by loss.
    """

    def __init__(self, study: optuna.Study, study_dir: Path, seed: int) -> None:
        from optuna.trial import TrialState

        self._study = study
        self._dir = study_dir
        self._seed = seed
        # What this process, the only owner, need not ask the database for again.
        frozen = self._trials()
        self._points = [(trial.user_attrs.get("origin", "sampled"), _params(trial)) for trial in frozen]
        self._waiting = sum(trial.state == TrialState.WAITING for trial in frozen)
        self._ids = {trial.number: trial._trial_id for trial in frozen}
        self._begun = {
            (trial.number, int(name.removeprefix("begun/"))): int(value)
            for trial in frozen
            for name, value in trial.user_attrs.items()
            if name.startswith("begun/")
        }
        self._packs = {
            (trial.number, int(name.removeprefix("pack/"))): tuple(value)
            for trial in frozen
            for name, value in trial.user_attrs.items()
            if name.startswith("pack/")
        }
        self._reported = {(trial.number, step) for trial in frozen for step in trial.intermediate_values}

    @property
    def name(self) -> str:
        return str(self._study.study_name)

    # --- folders of runs ------------------------------------------------------------------------------------------

    def run_dir(self, number: int, train_rows: int) -> Path:
        return self._dir / "trials" / f"{number:04d}" / f"run-{train_rows:06d}"

    @property
    def final_dir(self) -> Path:
        return self._dir / "final"

    # --- records --------------------------------------------------------------------------------------------------

    def trials(self) -> list[TrialSummary]:
        """Every trial that has a record, as far as it came."""
        frozen = self._trials()
        return [summary for trial in frozen if (summary := _summary(trial, self._dir)) is not None]

    def save_trial(self, summary: TrialSummary) -> None:
        self._set(summary.number, "record", to_dict(dataclasses.replace(summary, evaluations=())))

    def save_evaluation(self, number: int, evaluation: Evaluation) -> None:
        self._set(number, f"evaluation/{evaluation.train_rows}", to_dict(evaluation))

    def attempts(self, number: int, train_rows: int) -> int:
        """How often this run was begun without coming to an end."""
        return self._begun.get((number, train_rows), 0)

    def begin(self, number: int, train_rows: int) -> None:
        """Note that a run begins, so that one that takes the whole study down is not begun for ever."""
        self._begun[number, train_rows] = self.attempts(number, train_rows) + 1
        self._set(number, f"begun/{train_rows}", self._begun[number, train_rows])

    def forgive(self, number: int, train_rows: int) -> None:
        """The run was stopped by its limit or the user: not an attempt that counts."""
        self._begun[number, train_rows] = 0
        self._set(number, f"begun/{train_rows}", 0)

    def pack_of(self, number: int, train_rows: int) -> tuple[int, ...]:
        """The trials that this one is trained with on so many rows, itself included; empty when that is open."""
        return self._packs.get((number, train_rows), ())

    def save_pack(self, numbers: Sequence[int], train_rows: int) -> None:
        """Note which trials are trained together, so that a resumed study adds no others to them."""
        for number in numbers:
            self._packs[number, train_rows] = tuple(numbers)
            self._set(number, f"pack/{train_rows}", list(numbers))

    @property
    def final(self) -> FinalRun | None:
        """The verified final run, if there was one."""
        stored = self._study.user_attrs.get("final")
        return from_dict(FinalRun, stored, what="the final run") if stored else None

    def save_final(self, final: FinalRun) -> None:
        with _storage_errors(self._dir):
            self._study.set_user_attr("final", to_dict(final))

    # --- ask and tell ---------------------------------------------------------------------------------------------

    def enqueue(self, params: Mapping[str, ParamValue], origin: Origin) -> None:
        """Queue a point; one transaction, so that a kill loses all of it or nothing."""
        with _storage_errors(self._dir):
            self._study.enqueue_trial(dict(params), user_attrs={"origin": origin})
        self._points.append((origin, dict(params)))
        self._waiting += 1

    def points(self) -> list[tuple[Origin, dict[str, ParamValue]]]:
        """The points of all trials, waiting ones included, and why they were tried."""
        return [(origin, params) for origin, params in self._points if params]

    @property
    def waiting(self) -> int:
        """How many trials are queued."""
        return self._waiting

    def ask(self) -> optuna.Trial:
        """The next waiting trial."""
        with _storage_errors(self._dir):
            trial = self._study.ask()
        self._waiting -= 1
        self._ids[trial.number] = trial._trial_id
        return trial

    def orphans(self) -> list[optuna.Trial]:
        """Trials left running by a process that is gone, as live trials again.

        TPE would count them as running for ever; the study's lock proves that they are nobody's.
        """
        import optuna

        running = [trial for trial in self._trials() if trial.state == optuna.trial.TrialState.RUNNING]
        return [optuna.trial.Trial(self._study, trial._trial_id) for trial in running]

    def sample(self, space: Space) -> dict[str, ParamValue]:
        """A point from the multivariate TPE, with one group per conditional branch of the space.

        It is drawn on a copy in memory with a seed that moves with the number of trials: the same history gives the
        same point, whatever was killed in between.
        """
        import warnings

        import optuna

        history = [trial for trial in self._trials() if trial.state.is_finished()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                n_startup_trials=STARTUP_TRIALS,
                seed=(self._seed + len(self._trials())) % 2**32,
            )
            copy = optuna.create_study(direction="minimize", sampler=sampler)
        copy.add_trials(history)
        return space.suggest(copy.ask())

    def report(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        """Report a finished evaluation, once."""
        key = (trial.number, evaluation.train_rows)
        if evaluation.nll is not None and evaluation.feasible and key not in self._reported:
            with _storage_errors(self._dir):
                trial.report(evaluation.nll, step=evaluation.train_rows)
            self._reported.add(key)

    def tell(self, trial: optuna.Trial, summary: TrialSummary) -> None:
        """Tell a verdict.

        Out of memory, out of time and infeasible are data (pruned, with a positive constraint); TPE ignores failures,
        so only crashes are told as such.
        """
        from optuna.trial import TrialState

        with _storage_errors(self._dir):
            for name, value in summary.constraints.items():
                if name not in trial.constraints:
                    trial.set_constraint(name, value)
            top = summary.top
            if summary.verdict == "completed" and top is not None:
                self._study.tell(trial, top.nll, TrialState.COMPLETE)
            elif summary.verdict == "failed":
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, state=TrialState.PRUNED)

    def _trials(self) -> Sequence[optuna.trial.FrozenTrial]:
        with _storage_errors(self._dir):
            return self._study.get_trials(deepcopy=False)

    def _set(self, number: int, name: str, value: Any) -> None:
        with _storage_errors(self._dir):
            self._study._storage.set_trial_user_attr(self._ids[number], name, value)


def _summary(trial: optuna.trial.FrozenTrial, study_dir: Path) -> TrialSummary | None:
    stored = trial.user_attrs.get("record")
    if stored is None:
        return None
    what = f"trial {trial.number} in {study_dir / DATABASE}"
    evaluations = [
        from_dict(Evaluation, value, what=what)
        for name, value in trial.user_attrs.items()
        if name.startswith("evaluation/")
    ]
    ordered = tuple(sorted(evaluations, key=lambda item: item.train_rows))
    return dataclasses.replace(from_dict(TrialSummary, stored, what=what), number=trial.number, evaluations=ordered)


def _params(trial: optuna.trial.FrozenTrial) -> dict[str, ParamValue]:
    return dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {}))


def discard(run_dir: Path) -> None:
    """Remove the output of a run whose evaluation is stored: weights of beaten trials would only fill the disk."""
    shutil.rmtree(run_dir, ignore_errors=True)
