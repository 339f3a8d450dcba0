"""A study survives being killed at any moment: nothing finished is lost, nothing is run twice, and it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.search.study.optuna_adapter import repair_journal
from tests.search import study_fakes as fakes
from tests.search.study_fakes import MIB, FakeRunner, tune
from tests.search.test_study_loop import optuna_trials, states

REPOSITORY = Path(__file__).parents[2]


def records(folder: Path) -> dict[str, str]:
    """Every finished evaluation, byte for byte."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("rung-*.json"))}


def start(folder: Path, *, sleep_s: float, max_trials: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", fakes.__name__, str(folder), str(sleep_s), str(max_trials), "--resume"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_records(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while len(list(folder.rglob("rung-*.json"))) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the study ended early: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.01)


def test_kill_9_in_the_middle_loses_no_finished_trial(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    seen: dict[str, str] = {}
    counts = []
    for round_number in range(3):
        process = start(folder, sleep_s=0.05, max_trials=200)
        wait_for_records(folder, len(seen) + 5 + round_number, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = {trial.number for trial in optuna_trials(folder) if trial.state.is_finished()}
        now = records(folder)
        assert seen.items() <= now.items()
        seen, count = now, len(finished)
        counts.append(count)
    assert counts == sorted(counts) and counts[-1] > counts[0]

    runner = FakeRunner()
    before = states(folder)
    result = tune(folder, runner, resume=True, time_budget_s=1e6, max_trials=counts[-1] + 8)
    assert seen.items() <= records(folder).items()
    after = states(folder)
    assert all(after[number] == state for number, state in before.items() if state not in ("RUNNING", "WAITING"))
    assert not [state for state in after.values() if state in ("RUNNING", "WAITING")]
    assert len(after) > len(before)
    assert {trial.number for trial in result.trials} == set(after)
    done = {(trial.strategy, e.train_rows) for trial in result.trials for e in trial.evaluations}
    assert len(done) == sum(len(trial.evaluations) for trial in result.trials), "nothing was evaluated twice"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "study"
    tune(folder, FakeRunner(), max_trials=7)
    return folder


def truncated(source: Path, target: Path, keep_bytes: int) -> Path:
    shutil.copytree(source, target)
    journal = target / "journal.log"
    journal.write_bytes(journal.read_bytes()[:keep_bytes])
    return target


@pytest.mark.parametrize("cut_bytes", [1, 2, 17, 60])
def test_a_torn_last_line_is_cut_off(stopped: Path, tmp_path: Path, cut_bytes: int) -> None:
    size = (stopped / "journal.log").stat().st_size
    folder = truncated(stopped, tmp_path / "s", size - cut_bytes)
    result = tune(folder, FakeRunner(), resume=True, max_trials=9)
    assert sum(trial.started for trial in result.trials) == 9
    assert records(stopped).items() <= records(folder).items()


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4, 0.15, 0.0])
def test_a_journal_cut_anywhere_gets_its_trials_back_without_running_them(
    stopped: Path, tmp_path: Path, share: float
) -> None:
    size = (stopped / "journal.log").stat().st_size
    folder = truncated(stopped, tmp_path / "s", int(share * size))
    runner = FakeRunner()
    result = tune(folder, runner, resume=True, max_trials=8)
    old = {trial.number: trial.state.name for trial in optuna_trials(stopped)}
    assert old.items() <= states(folder).items()
    assert sum(trial.started for trial in result.trials) == 8
    known = {json.loads(text)["train_rows"] for text in records(stopped).values()}
    assert known and len(runner.calls) <= len(records(folder)) - len(records(stopped))


def test_a_verdict_on_disk_is_told_without_a_run(stopped: Path, tmp_path: Path) -> None:
    lines = (stopped / "journal.log").read_bytes().splitlines(keepends=True)
    last_tell = max(index for index, line in enumerate(lines) if json.loads(line)["op_code"] == 6)
    folder = truncated(stopped, tmp_path / "s", sum(map(len, lines[:last_tell])))
    assert "RUNNING" in states(folder).values()
    runner = FakeRunner()
    tune(folder, runner, resume=True, max_trials=7)
    assert runner.calls == []
    assert states(folder) == states(stopped)


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(b'{"op_code": 0}\n{"op_co\n{"op_code": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        repair_journal(journal)


def test_a_whole_journal_is_left_alone(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(b'{"op_code": 0}\n{"op_code": 1}\n')
    assert repair_journal(journal) == 0
    assert repair_journal(tmp_path / "missing.log") == 0


def test_a_run_that_kills_the_study_twice_is_told_as_failed(tmp_path: Path) -> None:
    folder = tmp_path / "s"

    class Killed(BaseException):
        """Stands for a kill: nothing after it is executed, so the note that the run began stays."""

    def deadly(plan: object) -> None:
        for begun in list((folder / "trials").rglob("begun-*")):
            shutil.copy(begun, begun.with_suffix(".kept"))
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            tune(folder, FakeRunner(respond=deadly), resume=True, max_trials=3)
        for kept in list((folder / "trials").rglob("*.kept")):
            kept.rename(kept.with_suffix(""))
    result = tune(folder, FakeRunner(), resume=True, max_trials=3)
    assert (result.trials[0].verdict, states(folder)[0]) == ("failed", "FAIL")
    assert "killed 2 times" in result.trials[0].reason


def test_a_stale_lock_file_of_optuna_does_not_block(stopped: Path, tmp_path: Path) -> None:
    folder = truncated(stopped, tmp_path / "s", 10**9)
    (folder / "journal.log.lock").symlink_to(folder / "journal.log")
    started = time.monotonic()
    tune(folder, FakeRunner(), resume=True, max_trials=8)
    assert time.monotonic() - started < 25  # Optuna's own lock waits for 30 s


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"methods": ["head", "lora"]}, "methods"),
        ({"budget": Budget(memory_bytes=500 * MIB)}, "budget"),
        ({"effective_batch_size": 16}, "effective batch size"),
        ({"seed": 1}, "seed"),
    ],
)
def test_resuming_with_another_question_is_refused(
    stopped: Path, tmp_path: Path, changes: dict[str, object], part: str
) -> None:
    folder = truncated(stopped, tmp_path / "s", 10**9)
    with pytest.raises(InputError) as caught:
        tune(folder, FakeRunner(), resume=True, **changes)
    assert any(problem.startswith(part) for problem in caught.value.problems)
    assert records(folder) == records(stopped)


def test_resume_begins_a_study_that_never_began(tmp_path: Path) -> None:
    assert tune(tmp_path / "s", FakeRunner(), resume=True, max_trials=2).trials


def test_more_time_lets_open_trials_climb(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "s", FakeRunner(), FakeRunner()
    before = tune(folder, first, time_budget_s=100.0)
    after = tune(folder, second, time_budget_s=400.0, resume=True)
    assert after.ladder_rows == before.ladder_rows
    assert sum(trial.started for trial in after.trials) > sum(trial.started for trial in before.trials)
    assert all(run not in first.runs for run in second.runs)
    reached = [sum(len(trial.evaluations) == 2 for trial in result.trials) for result in (before, after)]
    assert reached[1] > reached[0]
