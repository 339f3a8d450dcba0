"""The job: predictions first, then real steps, records that resume, and a comparison of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import DeviceError, InputError, OutputError
from advisor.experiments.validation.cases import Case
from advisor.pipeline.validating import recorded_validation, validate

CASES = (
    Case("bert-small", "full", 2, 16, execution={"num_threads": 1}),
    Case("bert-small", "lora", 2, 16, execution={"num_threads": 1, "gradient_checkpointing": True}),
    Case("bert-small", "lora", 2, 1024),
)
"""Two that run and one that has more tokens than positions."""


@pytest.fixture(autouse=True)
def this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.hardware import save_profile

    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    save_profile(
        DeviceProfile(
            id="cpu-test",
            name="a pretended CPU",
            type="cpu",
            memory_bytes=8 * 2**30,
            context_bytes=400 * 2**20,
            flops_per_s={"float32": Rate(5e10, "probed")},
            bytes_per_s={"memory": Rate(1e10, "probed")},
            launch_s=5e-6,
            basis="measured",
        )
    )


def test_a_grid_is_predicted_run_and_compared_and_not_repeated(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    found = validate("memory", grid="cpu", cases=CASES, output=tmp_path / "out", on_event=events.append)
    assert (found.remaining, found.stopped) == (0, "")
    assert found.comparison.outcomes == {"completed": 2, "refused": 1}
    errors = {row.quantity: row for row in found.comparison.errors if row.by == "all"}
    assert errors["allocated_bytes"].max < 1e-3
    assert errors["device_bytes"].count == 2
    assert [bound.passed for bound in found.comparison.thresholds] == [True, True, True]
    assert found.path.name.startswith("memory-cpu-cpu-test-")

    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert lines[0]["versions"]["torch"]
    assert {line["outcome"] for line in lines[1:]} == {"completed", "refused"}
    assert all(line["predicted"]["allocated_bytes"] > 0 for line in lines[1:] if line["outcome"] == "completed")
    phases = [event["name"] for event in events if event["kind"] == "phase"]
    assert [name.split(" ")[0] for name in phases] == ["predicting", "running"]

    before = found.path.read_bytes()
    again = validate("memory", grid="cpu", cases=CASES, output=tmp_path / "out")
    assert found.path.read_bytes() == before
    assert again.records == found.records
    assert again.comparison == found.comparison

    shown = recorded_validation(found.path)
    assert shown.comparison == found.comparison
    renewed = recorded_validation(found.path, predict_again=True)
    assert [record.predicted for record in renewed.records] == [record.predicted for record in found.records]


def test_shards_and_time_limits_leave_the_rest_for_later(tmp_path: Path) -> None:
    output = tmp_path / "out"
    none = validate("memory", grid="cpu", cases=CASES, output=output, time_limit_s=1e-6)
    assert (len(none.records), none.remaining, none.stopped) == (0, 3, "time limit")
    third = validate("memory", grid="cpu", cases=CASES, output=output, shard=(3, 3))
    assert ([record.outcome for record in third.records], third.remaining) == (["refused"], 0)
    first = validate("memory", grid="cpu", cases=CASES, output=output, shard=(1, 3))
    assert [record.outcome for record in first.records] == ["completed", "refused"]


@pytest.mark.parametrize("shard", [(3, 2), (0, 2), (1, 0)])
def test_shards_that_do_not_exist(tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 <= i <= n"):
        validate("memory", grid="cpu", shard=shard, output=tmp_path)


def test_grids_that_do_not_exist_or_not_here(tmp_path: Path) -> None:
    import torch

    with pytest.raises(InputError, match="medium"):
        validate("memory", grid="medium", output=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--device cuda"):
        validate("memory", grid="cpu", device="cuda", output=tmp_path)
    if not torch.cuda.is_available():
        for options in ({"grid": "cuda"}, {"grid": "quick", "device": "cuda"}):
            with pytest.raises(DeviceError, match="CUDA"):
                validate("memory", output=tmp_path, **options)  # type: ignore[arg-type]


def test_records_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for path in (tmp_path / "none.jsonl", tmp_path / "empty.jsonl", tmp_path):
        with pytest.raises(InputError, match="--records"):
            recorded_validation(path)


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(OutputError):
            validate("memory", grid="cpu", output=folder)


@pytest.mark.gpu
def test_the_quick_grid_keeps_the_bars_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "gpu-home"))
    found = validate("memory", grid="quick", device="cuda", output=tmp_path / "out")
    assert found.comparison.outcomes.get("completed", 0) >= 6
    assert all(bound.passed is not False for bound in found.comparison.thresholds), found.comparison.worst
