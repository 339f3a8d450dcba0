"""Killed, interrupted or out of disk: a run always leaves something that continues to the same result."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import OutputError
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.measurement import server
from advisor.measurement.isolation import isolated
from advisor.strategies.sparse_lora import SparseLoraKnobs
from advisor.training.checkpoints import discard_incomplete, incompleteness, newest_complete, step_of
from advisor.training.run_folder import RunFolder
from tests.training import training_runs

WEIGHTS = "model/adapter_model.safetensors"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return training_runs.tiny_plan(tmp_path_factory.mktemp("tiny"), gradient_accumulation_steps=2)


@pytest.fixture(scope="module")
def uninterrupted(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement]:
    output = tmp_path_factory.mktemp("whole") / "run"
    return output, isolated(training_runs.train_here, plan, output, 60.0).unwrap()


def assert_same_result(resumed: Measurement, output: Path, whole: tuple[Path, Measurement]) -> None:
    assert resumed.outcome == "completed"
    assert resumed.metrics == whole[1].metrics
    assert resumed.train_losses == whole[1].train_losses
    assert len(resumed.step_times_s) == len(whole[1].step_times_s)
    assert (output / WEIGHTS).read_bytes() == (whole[0] / WEIGHTS).read_bytes()


def started(function: Callable[..., Any], *args: Any) -> Any:
    """The function in a process of its own that nobody waits for."""
    process = server.context().Process(target=function, args=args)
    server.start(process)
    return process


def test_sigkill_at_any_moment_costs_nothing_but_time(
    plan: Plan, uninterrupted: tuple[Path, Measurement], tmp_path: Path
) -> None:
    output, drawn, kills = tmp_path / "run", random.Random(3), 0
    while kills < 4:
        process = started(training_runs.train_here, plan, output, 0.0)
        process.join(drawn.uniform(0.4, 2.0))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 1
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert_same_result(resumed, output, uninterrupted)


@pytest.mark.parametrize(
    ("dies", "on_call"),
    [
        (training_runs.train_and_die_while_saving, 2),  # the second file of the first checkpoint: nothing to resume yet
        (training_runs.train_and_die_while_saving, 10),  # in the third checkpoint
        (training_runs.train_and_die_before_marking, 3),
    ],
)
def test_sigkill_in_the_middle_of_a_checkpoint(
    plan: Plan, uninterrupted: tuple[Path, Measurement], tmp_path: Path, dies: Callable[..., None], on_call: int
) -> None:
    output = tmp_path / "run"
    result = isolated(dies, plan, output, 0.0, on_call)
    assert result.outcome == "out_of_memory"  # what a SIGKILL from outside most likely means
    checkpoints = RunFolder(output).checkpoints
    broken = [folder for folder in checkpoints.iterdir() if incompleteness(folder) is not None]
    assert len(broken) == 1
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert_same_result(resumed, output, uninterrupted)
    assert all(incompleteness(folder) is None for folder in checkpoints.iterdir())


def test_ctrl_c_finishes_the_step_saves_and_resumes(
    plan: Plan, uninterrupted: tuple[Path, Measurement], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    measurement = isolated(training_runs.train_with_interrupts, plan, output, 7).unwrap()
    assert measurement.outcome == "interrupted"
    assert "7 optimizer steps" in measurement.reason
    assert "resume" in measurement.reason
    newest = newest_complete(RunFolder(output).checkpoints)
    assert newest is not None
    assert step_of(newest) == 7
    assert not (output / "model").exists()
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert_same_result(resumed, output, uninterrupted)


def test_a_run_resumed_after_its_last_step_only_evaluates_and_saves(
    plan: Plan, uninterrupted: tuple[Path, Measurement], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted[0], output)
    shutil.rmtree(output / "model")
    (output / "measurement.json").unlink()
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert_same_result(resumed, output, uninterrupted)


def test_sparse_masks_survive_a_resume(tmp_path: Path) -> None:
    knobs = SparseLoraKnobs(rank=4, lora_alpha=8)
    strategy = dataclasses.replace(training_runs.lora_strategy(), method="sparse_lora", knobs=knobs)
    plan = training_runs.tiny_plan(tmp_path, strategy=strategy)
    whole = isolated(training_runs.train_here, plan, tmp_path / "whole", 60.0).unwrap()
    assert whole.achieved_sparsity == pytest.approx(0.5, abs=0.02)
    isolated(training_runs.train_with_interrupts, plan, tmp_path / "run", 55)
    resumed = isolated(training_runs.train_here, plan, tmp_path / "run", 60.0).unwrap()
    assert_same_result(resumed, tmp_path / "run", (tmp_path / "whole", whole))


def test_a_full_disk_is_named_and_the_run_continues_once_there_is_room(
    plan: Plan, uninterrupted: tuple[Path, Measurement], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = isolated(training_runs.train_into_full_disk, plan, output, 12_000)
    assert isinstance(result.error, OutputError)
    assert "resume" in str(result.error)
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert_same_result(resumed, output, uninterrupted)


def test_damage_is_noticed(uninterrupted: tuple[Path, Measurement], tmp_path: Path) -> None:
    shutil.copytree(uninterrupted[0] / "checkpoints", tmp_path / "checkpoints")
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert incompleteness(newest) == "adapter_model.safetensors was changed"
    weights.unlink()
    assert incompleteness(newest) == "adapter_model.safetensors is missing"
    assert discard_incomplete(tmp_path / "checkpoints") == [newest]
    earlier = newest_complete(tmp_path / "checkpoints")
    assert earlier is not None
    assert step_of(earlier) < step_of(newest)


def test_checkpoints_are_rotated(uninterrupted: tuple[Path, Measurement]) -> None:
    assert len(list((uninterrupted[0] / "checkpoints").iterdir())) == 2


def test_saving_takes_a_bounded_share_of_the_time() -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from advisor.training.checkpoints import SAVING_SHARE, CheckpointKeeper

    keeper = CheckpointKeeper(Path("nowhere"), dict, save_every_s=0.0)
    arguments, state, control = TrainingArguments(output_dir="unused"), TrainerState(max_steps=10**6), TrainerControl()
    state.epoch = 0.5
    keeper.on_train_begin(arguments, state, control)
    keeper._interval_s = 0.2 / SAVING_SHARE  # as after a checkpoint that took 0.2 s
    keeper.on_step_end(arguments, state, control)
    assert not control.should_save
    keeper._last_save_s = time.perf_counter() - 0.2 / SAVING_SHARE
    keeper.on_step_end(arguments, state, control)
    assert control.should_save
