"""A measured run: figures of its own process, typed ends, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError, OutputError
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.costmodel.time.phases import PART_NAMES
from advisor.measurement.run import measure_run
from tests.training.training_runs import tiny_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return tiny_plan(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def measured(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement, list[dict[str, Any]]]:
    output, events = tmp_path_factory.mktemp("runs") / "run", []
    return output, measure_run(plan, output, on_event=events.append), events


def test_every_figure_is_there(measured: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    output, measurement, events = measured
    assert measurement.outcome == "completed"
    assert measurement.allocated_peak_bytes is not None
    assert measurement.baseline_bytes is not None
    assert measurement.device_peak_bytes is not None
    assert 0 < measurement.allocated_peak_bytes < measurement.baseline_bytes < measurement.device_peak_bytes
    assert measurement.reserved_peak_bytes is None
    phases = [event["name"] for event in events if event["kind"] == "phase"]
    assert phases == ["profiling", "loading", "training", "saving"]
    stored = json.loads((output / "measurement.json").read_text())
    assert stored["allocated_peak_bytes"] == measurement.allocated_peak_bytes
    assert len(stored["step_times_s"]) == 80


def test_the_wall_clock_goes_to_named_parts(measured: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    measurement = measured[1]
    assert (*PART_NAMES, "other") == tuple(measurement.parts_s)
    assert sum(measurement.parts_s.values()) == pytest.approx(measurement.total_s)
    assert all(seconds > 0 for name, seconds in measurement.parts_s.items() if name not in ("warm_up", "other"))
    assert abs(measurement.parts_s["other"]) < 0.1 * measurement.total_s
    assert measurement.energy_source, "a meter, or why there is none"


def test_the_profiled_batch_is_the_longest_one(plan: Plan, measured: tuple[Path, Measurement, Any]) -> None:
    """A step on synthetic rows of that length holds the same, but for the batch's own few bytes."""
    from advisor.training.data import prepare_data
    from advisor.training.models import load_tokenizer
    from tests.measurement.profiled import profile_step_memory

    data = prepare_data(plan.data, plan.model, load_tokenizer(plan.model), max_seq_length=32)
    longest = data.longest_batch(4)["input_ids"].shape[1]
    step = profile_step_memory(plan.model, plan.strategy, plan.execution, longest)
    assert measured[1].allocated_peak_bytes == pytest.approx(step.peak_bytes, rel=0.02)


def test_an_evaluation_batch_that_holds_more_than_a_step_is_the_peak(plan: Plan) -> None:
    from advisor.measurement.longest_batch import profile_longest_batch

    execution = dataclasses.replace(plan.execution, eval_batch_size=64)
    found = profile_longest_batch(dataclasses.replace(plan, execution=execution))
    assert found.evaluation_peak_bytes is not None
    assert found.run_peak_bytes == found.evaluation_peak_bytes > found.peak_bytes
    alone = profile_longest_batch(
        dataclasses.replace(plan, execution=dataclasses.replace(execution, eval_batch_size=1))
    )
    assert alone.run_peak_bytes == alone.peak_bytes == found.peak_bytes


def test_a_finished_run_is_only_read(plan: Plan, measured: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    output, measurement, _ = measured
    with pytest.raises(OutputError, match="holds a run of this plan"):
        measure_run(plan, output)
    again = measure_run(plan, output, resume=True)
    assert again.step_times_s == measurement.step_times_s


def test_over_time_and_resume(plan: Plan, tmp_path: Path) -> None:
    endless = dataclasses.replace(plan, strategy=dataclasses.replace(plan.strategy, num_train_epochs=2000.0))
    first = measure_run(endless, tmp_path / "run", time_limit_s=2, profile=False)
    assert first.outcome == "over_time"
    done = len(first.step_times_s)
    events: list[dict[str, Any]] = []

    def stop_once_it_steps(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and not any(earlier["kind"] == "step" for earlier in events):
            os.kill(os.getpid(), signal.SIGINT)
        events.append(event)

    second = measure_run(endless, tmp_path / "run", resume=True, profile=False, on_event=stop_once_it_steps)
    assert second.outcome == "interrupted"
    assert [event["step"] for event in events if event["kind"] == "resumed"] == ([done] if done else [])


def test_data_that_went_away_is_the_users_error(plan: Plan, tmp_path: Path) -> None:
    gone = dataclasses.replace(plan, data=dataclasses.replace(plan.data, source=str(tmp_path / "gone.jsonl")))
    with pytest.raises(DataError):
        measure_run(gone, tmp_path / "run", profile=False)


def test_a_run_that_breaks_names_the_reason_and_the_log(plan: Plan, tmp_path: Path) -> None:
    from tests.training.training_runs import save_model

    broken = save_model(tmp_path / "model")
    other = dataclasses.replace(plan, model=dataclasses.replace(plan.model, source=str(broken)))
    (broken / "model.safetensors").write_bytes(b"not tensors at all")
    try:
        measurement = measure_run(other, tmp_path / "run", profile=False)
    except Exception as failure:  # a typed error of the input is as good
        assert "safetensors" in str(failure).lower() or "header" in str(failure).lower()
    else:
        assert measurement.outcome == "failed"
        assert "run.log" in measurement.reason


@pytest.mark.slow
def test_a_compiler_that_fails_costs_the_run_nothing_but_its_compilation(plan: Plan, tmp_path: Path) -> None:
    """A real compiler that always fails; in a process of its own, because a server's children keep its variables."""
    short = dataclasses.replace(plan, strategy=dataclasses.replace(plan.strategy, num_train_epochs=0.25))
    expected = measure_run(short, tmp_path / "as-written")
    compiled = dataclasses.replace(short, execution=dataclasses.replace(short.execution, torch_compile=True))
    compiled.save(tmp_path / "compiled.json")
    program = (
        "from pathlib import Path\n"
        "from advisor.core.plan import load_plan\n"
        "from advisor.measurement.run import measure_run\n"
        "told = lambda event: print('told:', event['text']) if event['kind'] == 'note' else None\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "measured = measure_run(load_plan(folder / 'compiled.json'), folder / 'compiled', on_event=told)\n"
        "print('outcome:', measured.outcome, measured.reason)\n"
    )
    failing = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), **failing},
    )  # fmt: skip
    assert "told: torch.compile does not work here, training continues without" in done.stdout
    assert "outcome: completed" in done.stdout
    stored = json.loads((tmp_path / "compiled/measurement.json").read_text())
    assert stored["allocated_peak_bytes"] == expected.allocated_peak_bytes
    assert stored["metrics"] == expected.metrics


def test_a_read_only_folder_is_refused_before_anything_is_loaded(plan: Plan, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="permission denied"):
        measure_run(plan, tmp_path / "run")


def test_a_file_in_the_way_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        measure_run(plan, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file"
