"""A study survives being killed at any moment: nothing finished is lost, nothing is run twice, and it goes on."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.errors import InputError, OutputError
from advisor.core.plan import load_plan
from advisor.search.study.import_journal import import_first_version
from advisor.search.study.space import LR_REL
from tests.search import study_fakes as fakes
from tests.search.study_fakes import MIB, FakeRunner, tune
from tests.search.test_study_loop import optuna_trials, states

REPOSITORY = Path(__file__).parents[2]
FIRST_VERSION = Path(__file__).parent / "golden" / "study-0.1"
FEW = {name: fakes.strategies()[name] for name in ("lora", "head")}


def records(folder: Path) -> dict[tuple[int, str], Any]:
    """Every finished evaluation."""
    return {
        (trial.number, name): value
        for trial in optuna_trials(folder)
        for name, value in trial.user_attrs.items()
        if name.startswith("evaluation/")
    }


def environment_of_fakes() -> dict[str, str]:
    """Of a process that runs the fakes as a script."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def start(folder: Path, *, sleep_s: float, max_trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", fakes.__name__, str(folder), str(sleep_s), str(max_trials), "--resume"]
    return subprocess.Popen(command, env=environment_of_fakes(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_plan(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "plan.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the study ended early: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.02)


def killed_at_random(folder: Path, kills: int, *, max_trials: int) -> None:
    """Kill a live study again and again; after every kill, what was finished before is there."""
    draw, seen = random.Random(7), {}
    for _ in range(kills):
        process = start(folder, sleep_s=0.1, max_trials=max_trials)
        wait_for_plan(folder, process)
        time.sleep(draw.uniform(0.0, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert load_plan(folder / "plan.json").strategy.method in fakes.strategies(), "a usable plan at every exit"
        now = records(folder)
        assert seen.items() <= now.items()
        seen = now
        (folder / "plan.json").unlink()
    runner = FakeRunner()
    result = tune(folder, runner, resume=True, time_budget_s=1e6, max_trials=max_trials, on_disk=True)
    assert seen.items() <= records(folder).items()
    assert not [state for state in states(folder).values() if state in ("RUNNING", "WAITING")], "dead trials are reaped"
    undisturbed = tune(folder.with_name("undisturbed"), FakeRunner(), time_budget_s=1e6, max_trials=max_trials)
    assert result.best == undisturbed.best
    points = [(trial.params, [e.train_rows for e in trial.evaluations]) for trial in result.trials]
    assert points == [(trial.params, [e.train_rows for e in trial.evaluations]) for trial in undisturbed.trials]


def test_kill_9_loses_no_finished_trial_and_changes_no_result(tmp_path: Path) -> None:
    killed_at_random(tmp_path / "study", 2, max_trials=9)


@pytest.mark.slow
def test_a_full_disk_ends_a_study_in_words_and_it_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """Half of a file with byte code would outlive the test: none is written."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", fakes.__name__, str(tmp_path / "study"), "0", "4", "--resume"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    full = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=limited)
    assert full.returncode == 1 and "OutputError: the study's database must be" in full.stderr
    subprocess.run(command, env=environment, check=True)
    assert load_plan(tmp_path / "study" / "plan.json").strategy.method in fakes.strategies()


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    killed_at_random(tmp_path / "study", 20, max_trials=30)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "study"
    tune(folder, FakeRunner(), max_trials=5, strategies=FEW, on_disk=True)
    return folder


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_finished_study_runs_nothing_again(stopped: Path, tmp_path: Path) -> None:
    runner = FakeRunner()
    result = tune(copied(stopped, tmp_path / "s"), runner, resume=True, max_trials=5, strategies=FEW, on_disk=True)
    assert runner.calls == []
    assert result.final is not None and sum(trial.started for trial in result.trials) == 5


def test_a_damaged_database_is_named(stopped: Path, tmp_path: Path) -> None:
    folder = copied(stopped, tmp_path / "s")
    for log in folder.glob("study.db-*"):
        log.unlink()  # a write-ahead log that holds every page would mend the file
    (folder / "study.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(OutputError, match=r"study\.db"):
        tune(folder, FakeRunner(), resume=True, on_disk=True, strategies=FEW)
    assert load_plan(folder / "plan.json")


def test_a_run_that_kills_the_study_again_and_again_is_told_as_failed(tmp_path: Path) -> None:
    from advisor.search.study import loop, storage

    folder = tmp_path / "s"
    tune(folder, FakeRunner(), max_trials=1, on_disk=True, strategies=FEW)
    opened = storage.open_storage(folder / "study.db")
    study = fakes.optuna.load_study(study_name=fakes.optuna.get_all_study_names(opened)[0], storage=opened)
    study.enqueue_trial(fakes.declared("lora", "head").default_params("head"), user_attrs={"origin": "default"})
    killed = study.ask()
    for rows in (640, 810, 2430):
        killed.set_user_attr(f"begun/{rows}", loop.MAX_ATTEMPTS)
    opened.engine.dispose()
    result = tune(folder, FakeRunner(), resume=True, max_trials=2, on_disk=True, strategies=FEW)
    assert (result.trials[1].verdict, states(folder)[1]) == ("failed", "FAIL")
    assert "was killed" in result.trials[1].reason


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"methods": ["head"]}, "methods"),
        ({"budget": Budget(memory_bytes=500 * MIB)}, "limits: was --memory 600 MiB, is --memory 500 MiB"),
        ({"effective_batch_size": 16}, "effective batch size"),
        ({"seed": 1}, "seed"),
    ],
)
def test_resuming_with_another_question_is_refused(
    stopped: Path, tmp_path: Path, changes: dict[str, object], part: str
) -> None:
    folder = copied(stopped, tmp_path / "s")
    with pytest.raises(InputError) as caught:
        tune(folder, FakeRunner(), resume=True, on_disk=True, **{"strategies": FEW, **changes})
    assert any(problem.startswith(part) for problem in caught.value.problems)


def test_a_longer_call_reconsiders_methods_and_rungs(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "s", FakeRunner(), FakeRunner()
    before = tune(folder, first, time_budget_s=60.0, on_disk=True)
    after = tune(folder, second, time_budget_s=1200.0, resume=True, max_trials=9, on_disk=True)
    assert before.ladder_rows == (640,)
    assert {entry.method for entry in before.never_started} >= {"partial", "ia3", "head"}
    assert after.ladder_rows[-1] > 2000 and after.ladder_rows[0] == 640, "what was evaluated stays comparable"
    assert {trial.strategy.method for trial in after.trials} >= {"lora", "hira", "partial", "ia3", "head"}
    assert not [run for run in second.runs if run in first.runs]


def test_a_study_of_the_first_version_is_imported_once(tmp_path: Path) -> None:
    folder = copied(FIRST_VERSION, tmp_path / "s")
    (folder / "study.json").write_text((folder / "study.json").read_text())
    runner = FakeRunner()
    result = tune(folder, runner, resume=True, max_trials=7, on_disk=True)
    assert [trial.verdict for trial in result.trials[:5]] == ["pruned", "completed", "pruned", "completed", "completed"]
    assert [len(trial.evaluations) for trial in result.trials[:5]] == [1, 3, 1, 3, 3]
    assert runner.resumed[0], "the trial that was cut off goes on from its checkpoint"
    assert result.trials[5].started and result.trials[5].params[LR_REL] == pytest.approx(
        runner.plans[0].strategy.lr_rel
    )
    assert (folder / "journal.log").read_bytes() == (FIRST_VERSION / "journal.log").read_bytes()

    again = FakeRunner()
    assert tune(folder, again, resume=True, max_trials=7, on_disk=True).trials == result.trials
    assert again.calls == []


@pytest.mark.parametrize("cut_bytes", [1, 60])
def test_a_torn_last_line_of_an_old_journal_is_ignored(tmp_path: Path, cut_bytes: int) -> None:
    folder = copied(FIRST_VERSION, tmp_path / "s")
    whole = (folder / "journal.log").read_bytes()
    (folder / "journal.log").write_bytes(whole[:-cut_bytes])
    import_first_version(folder, folder / "study.db", fakes.declared())
    assert len(optuna_trials(folder)) == 6


def test_a_damaged_old_journal_is_named(tmp_path: Path) -> None:
    folder = copied(FIRST_VERSION, tmp_path / "s")
    (folder / "journal.log").write_bytes(b'{"op_code": 0}\n{"op_co\n{"op_code": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        import_first_version(folder, folder / "study.db", fakes.declared())
    assert not (folder / "study.db").exists()
