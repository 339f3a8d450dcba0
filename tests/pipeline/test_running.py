"""What a run refuses before it starts, and which record it keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advisor.core.errors import DeviceError, InterruptedByUser, OutputError, RunFailed
from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.hardware import load_profile
from advisor.hardware.profiles import save_profile
from advisor.hardware.versions import installed_versions
from advisor.pipeline.environment import check_runs_here, named_device, this_machine
from advisor.pipeline.outputs import refuse_existing_file
from advisor.pipeline.running import _failure, _kept_record, _ResumeListener, run
from tests.core.records import make_plan, measurement, model_spec


def record(**changes: object) -> RunRecord:
    return RunRecord(make_plan(), measurement(**changes), (), "cpu-test", {}, "2026-01-01T00:00:00+00:00", "out")


def test_a_finished_record_is_kept_for_the_same_plan_only(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert _kept_record(path, make_plan()) is None
    path.write_text(to_json(record()))
    assert _kept_record(path, make_plan()) == record()
    assert _kept_record(path, make_plan(seed=1)) is None
    path.write_text(to_json(record(outcome="failed")))
    assert _kept_record(path, make_plan()) is None


def test_the_listener_notices_training_and_resuming() -> None:
    seen: list[dict[str, object]] = []
    listener = _ResumeListener(seen.append)
    assert listener.trained_nothing
    listener({"kind": "phase", "name": "training"})
    listener({"kind": "resumed", "step": 40})
    assert not listener.trained_nothing
    assert listener.resumed_from_step == 40
    assert len(seen) == 2


@pytest.mark.parametrize("claimed", [True, False])
def test_ctrl_c_before_training_says_how_to_go_on_where_there_is_something_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    """The training process, which would take half a minute to start and to stop, is the only thing pretended."""
    config = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2}

    def stopped(_plan: object, directory: Path, **_: object) -> None:
        if claimed:
            (directory / "plan.json").write_text("{}")
        raise InterruptedByUser("interrupted")

    monkeypatch.setattr("advisor.measurement.run.measure_run", stopped)
    with pytest.raises(InterruptedByUser) as failure:
        run(make_plan(model=model_spec(config=config)), tmp_path, any_device=True)
    resuming = f"`advisor run {tmp_path / 'plan.json'} --output {tmp_path} --resume` continues it"
    assert failure.value.fix == (resuming if claimed else None)


@pytest.mark.parametrize(("outcome", "text"), [("out_of_memory", "fit"), ("over_time", "time"), ("failed", "finish")])
def test_every_bad_end_has_its_rule(tmp_path: Path, outcome: str, text: str) -> None:
    failure = _failure(make_plan(), measurement(outcome=outcome, reason="because"), tmp_path)
    assert isinstance(failure, RunFailed)
    assert text in failure.message
    assert "because" in failure.message
    assert "record.json" in str(failure.fix)


def test_an_existing_file_or_a_folder_is_not_written_over(tmp_path: Path) -> None:
    refuse_existing_file(tmp_path / "new" / "plan.json")
    (tmp_path / "plan.json").write_text("x")
    with pytest.raises(OutputError, match="does"):
        refuse_existing_file(tmp_path / "plan.json")
    with pytest.raises(OutputError, match="is a folder"):
        refuse_existing_file(tmp_path)


def test_a_plan_of_an_unprobed_machine_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    assert check_runs_here(make_plan(), any_device=False) == "cpu-test"


def test_devices_are_checked_by_name() -> None:
    assert named_device("auto") is None
    assert named_device("RTX 4090").id == "rtx-4090"
    with pytest.raises(DeviceError, match="t5"):
        named_device("t5")


def test_a_probe_that_was_interrupted_before_any_rate_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    bare = dataclasses.replace(load_profile("t4"), id="this-card", flops_per_s={}, bytes_per_s={}, basis="measured")
    save_profile(bare)
    complete = dataclasses.replace(load_profile("t4"), id="this-card", basis="measured")
    assert this_machine(probe=lambda **_: complete) == complete
    save_profile(complete)
    assert this_machine(probe=lambda **_: pytest.fail("probed again")) == complete


def test_versions_name_what_decides_a_run() -> None:
    assert {"finetune-advisor", "python", "torch", "transformers", "peft"} <= set(installed_versions())
