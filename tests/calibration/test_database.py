"""What was measured is stored at once, survives a kill, is not mixed with what other versions measured, and is damaged,
full, locked or newer only in typed errors.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.calibration.cross_validation import refit
from advisor.calibration.database import (
    CalibrationDatabase,
    database_path,
    device_lock,
    load_calibration,
    save_calibration,
)
from advisor.calibration.measure import CalibrationRun
from advisor.calibration.replay import ReplayTask
from advisor.core.coefficients import (
    Calibration,
    ClassFit,
    Contribution,
    HeldOutError,
    ReplayPoint,
    ResidentFit,
    StepFit,
    StepPoint,
)
from advisor.core.errors import DeviceError, OutputError
from advisor.core.serialization import to_json
from tests.calibration.calibrations import DEVICE, calibration, item, replays, step_point

MODEL = "bert/sequence-classification/384x6/30522"
FIT = ClassFit(1e-6, 1e-11, 1e-10, 4e-10, 1000, 9, 0.1, 10**9, 10**7)
FULL = Calibration(
    DEVICE.id,
    {"torch": "2.13.0", "cores": "2"},
    "2026-01-01T00:00:00+00:00",
    {"gemm/float32": FIT},
    {"gemm/float32/mm": FIT},
    step=StepFit(1.2, 1e-5, 0.04, 0.01, 6),
    model_ratios={"m": 1.01},
    resident=ResidentFit(500_000_000, 1.1, 0.03, 4),
    held_out=HeldOutError(0.05, 0.09, 4, "held back"),
    replays=(ReplayPoint("mm.default", "gemm/float32/mm", 10, 20, 1e-5, 0.02, 3),),
    points=(
        StepPoint(
            "m", "lora", "e", 8, 64, (0.1, 1 / 3), (("gemm/float32/mm", 10, 20, 3),), 5, 4, 3, 2, 1,
            work_s=(0.25,), evaluation_times_s=(0.03,), configuration="c",
        ),
    ),
    seconds=42.0,
    partial="interrupted",
    notes=("a note",),
    covered=("m lora e 8x64", "m lora e 8x64 +evaluation"),
    provenance=(
        Contribution("2026-01-01T00:00:00+00:00", "0.1.0", {"device": "x"}, 1, 0),
        Contribution("2026-01-02T00:00:00+00:00", "0.1.0", {"device": "y"}, 0, 1, "a.json", "sha256:1"),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    return tmp_path


def task(point: ReplayPoint) -> ReplayTask:
    """The call of a made-up point; its work is its signature."""
    signature = f"{point.name} {point.flops} {point.moved_bytes}"
    return ReplayTask(signature, point.name, point.key, point.flops, point.moved_bytes, point.share)


def fill(run: CalibrationRun, points: list[StepPoint] | None = None) -> None:
    for point in replays():
        run.keep_replay(task(point), point)
    for steps in points if points is not None else [step_point()]:
        run.keep_steps(steps)


def conclude(run: CalibrationRun, **changes: object) -> Calibration:
    """Fit and store what was measured."""
    found = dataclasses.replace(refit(DEVICE, run.points_to_fit()), **changes)  # type: ignore[arg-type]
    run.store(found)
    return found


def stored(points: list[StepPoint] | None = None) -> Calibration:
    with CalibrationRun(DEVICE) as run:
        fill(run, points)
        return conclude(run, seconds=30.0)


# What is written comes back.


def test_it_comes_back_as_it_was() -> None:
    save_calibration(FULL)
    assert load_calibration(DEVICE.id) == FULL


def test_an_uncalibrated_device_has_none_and_no_file(own_home: Path) -> None:
    assert load_calibration("cpu-y-4c") is None
    assert not list((own_home / "calibration").iterdir())


def test_saving_replaces_only_the_same_versions() -> None:
    old = dataclasses.replace(FULL, versions={"torch": "2.11.0"}, created_at="2025-01-01T00:00:00+00:00")
    for one in (old, FULL, dataclasses.replace(FULL, seconds=1.0)):
        save_calibration(one)
    assert load_calibration(DEVICE.id) == dataclasses.replace(FULL, seconds=1.0), "the latest"
    assert load_calibration(DEVICE.id, old.versions) == old, "the one of these versions"
    assert load_calibration(DEVICE.id, {"torch": "1.0"}) == dataclasses.replace(FULL, seconds=1.0)
    with CalibrationDatabase(writing=True) as database, database.transaction():
        assert database.devices() == (DEVICE.id,)
        assert database.forget(DEVICE.id) == 2
    assert load_calibration(DEVICE.id) is None


def test_the_same_measurement_is_stored_once() -> None:
    save_calibration(dataclasses.replace(FULL, points=FULL.points * 2, replays=FULL.replays * 3))
    found = load_calibration(DEVICE.id)
    assert found is not None
    assert (found.points, found.replays) == (FULL.points, FULL.replays)


def test_repeat_noise_needs_no_normality() -> None:
    assert dataclasses.replace(FULL.points[0], step_times_s=(1.0, 1.0, 1.0, 1.0, 9.0)).noise_relative < 6
    assert dataclasses.replace(FULL.points[0], step_times_s=(1.0,) * 5).noise_relative == 0
    assert dataclasses.replace(FULL.points[0], step_times_s=(0.1, 0.2)).noise_relative == pytest.approx(0.05 / 0.15)


# What was measured before is not measured again.


def test_a_stored_calibration_counts_for_the_next() -> None:
    first = stored()
    with CalibrationRun(DEVICE) as run:
        assert all(run.has_call(task(point)) for point in replays())
        assert run.has_steps(MODEL, item())
        assert str(len(replays())) in run.measured_before()
        again = conclude(run, seconds=run.stored.seconds + 2.0)
    assert (again.replays, again.points, again.step) == (first.replays, first.points, first.step)
    assert again.seconds == 32.0
    assert again.provenance == first.provenance
    assert load_calibration(DEVICE.id) == again


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        (step_point(), item(rows=16)),
        (step_point(), item(method="full")),
        (step_point(step_times_s=(0.1,) * 4), item()),
        (step_point(step_times_s=(0.1, 0.3, 0.1, 0.3, 0.2)), item()),
        (step_point(model_key="another"), item()),
    ],
    ids=["another shape", "another method", "too few repeats", "too noisy", "another model"],
)
def test_steps_that_say_too_little_are_measured_again(measured: StepPoint, wanted: object) -> None:
    stored([measured])
    with CalibrationRun(DEVICE) as run:
        assert not run.has_steps(MODEL, wanted)  # type: ignore[arg-type]


def test_a_noisy_call_is_timed_again_and_replaced() -> None:
    noisy = dataclasses.replace(replays()[0], spread=0.9)
    with CalibrationRun(DEVICE) as run:
        run.keep_replay(task(noisy), noisy)
        conclude(run)
    with CalibrationRun(DEVICE) as run:
        assert not run.has_call(task(noisy))
        run.keep_replay(task(noisy), replays()[0])
        [only] = conclude(run).replays
    assert only.spread < 0.1
    found = load_calibration(DEVICE.id)
    assert found is not None
    assert found.replays == (only,)


def test_a_call_that_was_stored_without_a_digest_is_replaced_too() -> None:
    save_calibration(calibration(calls=replays()))
    with CalibrationRun(DEVICE) as run:
        run.keep_replay(task(replays()[3]), dataclasses.replace(replays()[3], median_s=1e-3))
        found = conclude(run).replays
    assert len(found) == len(replays())
    assert (found[-1].median_s, bool(found[-1].call)) == (1e-3, True)


def test_steps_measured_again_replace_those_of_other_calibrations_but_not_each_other() -> None:
    stored([step_point(), step_point(method="full")])
    with CalibrationRun(DEVICE) as run:
        run.keep_steps(step_point(step_times_s=(0.2,) * 5))
        run.keep_steps(step_point(step_times_s=(0.21,) * 5))
        found = conclude(run)
    assert [(p.method, p.step_times_s[0]) for p in found.points] == [
        ("full", 0.1),
        ("lora", 0.2),
        ("lora", 0.21),
    ]
    assert load_calibration(DEVICE.id) == found


def test_a_covered_configuration_need_not_be_traced_again() -> None:
    points = replays()
    with CalibrationRun(DEVICE) as run:
        run.keep_replay(task(points[0]), points[0])
        run.cover(MODEL, item(), [task(points[0]), task(points[1])])
        assert not run.has_operators(MODEL, item()), "one of its calls was not timed"
        run.skip_call(task(points[1]))
        run.cover(MODEL, item(evaluated=True), [task(points[0]), task(points[1])])
        conclude(run)
    with CalibrationRun(DEVICE) as run:
        assert run.has_operators(MODEL, item())
        assert run.has_operators(MODEL, item(evaluated=True))
        assert not run.has_operators(MODEL, item(rows=16))


def test_an_impossible_time_is_noted_and_not_stored() -> None:
    with CalibrationRun(DEVICE) as run:
        run.keep_replay(task(replays()[0]), dataclasses.replace(replays()[0], median_s=-1.0))
        assert "the clock jumped" in run.notes[0]
        assert run.points_to_fit().replays == ()


# Kills, renewals, other versions.

KILLED = """
import os, signal
from advisor.calibration.measure import CalibrationRun
from tests.calibration.calibrations import DEVICE
from tests.calibration.test_database import fill
with CalibrationRun(DEVICE) as run:
    fill(run)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_points_survive_a_kill() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert load_calibration(DEVICE.id) is None, "nothing was fitted"
    with CalibrationRun(DEVICE) as run:
        assert len(run.stored.replays) == len(replays())
        assert run.has_steps(MODEL, item())
        found = conclude(run)
    assert found.step is not None
    assert [entry.replays for entry in found.provenance] == [len(replays())]
    assert load_calibration(DEVICE.id) == found


def test_what_an_interrupted_calibration_measured_is_added_but_not_used_before_it_is_fitted() -> None:
    before = stored()
    with CalibrationRun(DEVICE) as run:
        run.keep_steps(step_point(method="full"))
    assert load_calibration(DEVICE.id) == before
    with CalibrationRun(DEVICE) as run:
        assert {p.method for p in run.stored.points} == {"lora", "full"}
        run.keep_steps(step_point(method="head"))
        found = conclude(run)
    assert [entry.points for entry in found.provenance] == [1, 1, 1]


def test_beginning_anew_counts_nothing_and_loses_nothing_before_it_is_done() -> None:
    old = stored()
    with CalibrationRun(DEVICE, fresh=True) as run:
        assert not run.has_steps(MODEL, item())
        assert run.replaced() == old
        run.keep_steps(step_point(method="full"))
    assert load_calibration(DEVICE.id) == old
    with CalibrationRun(DEVICE) as run:
        assert run.renews, "the next call goes on renewing"
        assert [p.method for p in run.stored.points] == ["full"]
        conclude(run)
    with CalibrationRun(DEVICE, fresh=True) as run:
        assert not run.stored.points, "what a renewal had begun is dropped by the next"
    found = load_calibration(DEVICE.id)
    assert found is not None
    assert [p.method for p in found.points] == ["full"]


def test_other_versions_are_not_added_to_and_kept() -> None:
    first = stored()
    save_calibration(dataclasses.replace(first, versions={**first.versions, "torch": "2.0"}))
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.run("DELETE FROM calibration WHERE versions NOT LIKE '%\"2.0\"%'")
    with CalibrationRun(DEVICE) as run:
        assert not run.stored.replays
        assert "torch: calibrated with 2.0" in run.notes[0]
        fill(run)
        conclude(run)
    versions = {**first.versions, "torch": "2.0"}
    kept, new = load_calibration(DEVICE.id, versions), load_calibration(DEVICE.id, first.versions)
    assert kept is not None
    assert new is not None
    assert (kept.versions, new.versions) == (versions, first.versions)


def _hold(ready: object, done: object) -> None:
    with device_lock(DEVICE.id):
        ready.set()  # type: ignore[attr-defined]
        done.wait(30)  # type: ignore[attr-defined]


def test_two_calibrations_of_a_device_at_once_are_refused(own_home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(ready, done))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(OutputError, match="one calibration at a time"), CalibrationRun(DEVICE):
        pass
    with CalibrationRun(dataclasses.replace(DEVICE, id="cpu-y-4c")):
        pass
    holder.kill()
    holder.join()
    with (
        CalibrationRun(DEVICE),
        pytest.raises(OutputError, match="one calibration at a time"),
        CalibrationRun(DEVICE),
    ):
        pass


def test_a_calibration_can_be_loaded_while_another_is_measured() -> None:
    before = stored()
    with CalibrationRun(DEVICE) as run:
        run.keep_steps(step_point(method="head"))
        assert load_calibration(DEVICE.id) == before


# Files that cannot be used.


def test_a_home_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match="writable"), CalibrationRun(DEVICE):
        pass


def test_a_disk_without_space_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(OutputError, match="bytes free"), CalibrationRun(DEVICE, needed_bytes=2**62):
        pass


def test_a_disk_that_fills_up_is_a_typed_error_and_keeps_what_was_measured() -> None:
    before = stored()
    with CalibrationRun(DEVICE) as run:
        run.keep_steps(step_point(method="full"))
        fitted = refit(DEVICE, run.points_to_fit())
        [(pages,)] = run.database.rows("PRAGMA page_count")
        run.database.run(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutputError, match="the disk is full") as failure:
            for seq_length in range(64):
                run.keep_steps(step_point(method="head", seq_length=seq_length))
        assert "ADVISOR_HOME" in (failure.value.fix or "")
        long = dataclasses.replace(fitted, notes=("x" * 10**6,))
        with pytest.raises(OutputError, match="the disk is full") as failure:
            run.store(long)
        assert f"is kept in {database_path()}" in (failure.value.fix or "")
    assert load_calibration(DEVICE.id) == before
    with CalibrationRun(DEVICE) as run:
        assert {p.method for p in run.stored.points} >= {"lora", "full"}


def test_a_database_that_cannot_be_written_is_a_typed_error() -> None:
    with CalibrationRun(DEVICE) as run:
        run.database.run("PRAGMA query_only = ON")
        with pytest.raises(OutputError, match="read-only"):
            run.keep_steps(step_point())


def test_a_damaged_database_is_refused_and_left_as_it_is(own_home: Path) -> None:
    content = b"this is no database, but it is long enough to be one" * 99
    database_path().write_bytes(content)
    with pytest.raises(DeviceError, match="damaged") as failure:
        load_calibration(DEVICE.id)
    assert "move it away" in (failure.value.fix or "")
    with pytest.raises(DeviceError, match="damaged"), CalibrationRun(DEVICE):
        pass
    assert database_path().read_bytes() == content


def test_torn_pages_and_values_that_are_no_json_are_refused() -> None:
    stored([step_point(seq_length=n) for n in range(1, 300)])
    raw = bytearray(database_path().read_bytes())
    half = len(raw) // 2
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.run("UPDATE point SET record = '{' WHERE id = 1")
    with pytest.raises(DeviceError, match="damaged"):
        load_calibration(DEVICE.id)
    raw[half:] = b"\xff" * (len(raw) - half)
    database_path().write_bytes(bytes(raw))
    with pytest.raises(DeviceError, match="damaged"):
        load_calibration(DEVICE.id)


def test_a_newer_database_is_refused(own_home: Path) -> None:
    stored()
    with sqlite3.connect(database_path()) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (lambda: load_calibration(DEVICE.id), lambda: CalibrationRun(DEVICE, fresh=True).__enter__()):
        with pytest.raises(DeviceError, match="has 99") as failure:
            use()
        assert "upgrade" in (failure.value.fix or "")


# Files of version 1.


def test_files_of_version_1_are_taken_over_once(own_home: Path) -> None:
    path = own_home / "calibration" / f"{DEVICE.id}.json"
    path.parent.mkdir()
    path.write_text(to_json(FULL))
    assert load_calibration(DEVICE.id) == FULL
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.forget(DEVICE.id)
    assert load_calibration(DEVICE.id) is None, "it is not taken over again"
    assert path.read_text() == to_json(FULL), "and left as it is"
    path.write_text(to_json(dataclasses.replace(FULL, seconds=1.0)))
    assert load_calibration(DEVICE.id) == dataclasses.replace(FULL, seconds=1.0), "an older advisor calibrated again"


def test_a_file_of_version_1_does_not_replace_something_later(own_home: Path) -> None:
    later = dataclasses.replace(FULL, created_at="2026-05-05T00:00:00+00:00")
    save_calibration(later)
    (own_home / "calibration" / f"{DEVICE.id}.json").write_text(to_json(FULL))
    assert load_calibration(DEVICE.id) == later


@pytest.mark.parametrize("text", ["", "{", "[]", '{"device_id": 3}', '{"schema_version": 99}'])
def test_a_damaged_file_of_version_1_is_refused_for_its_device_only(own_home: Path, text: str) -> None:
    path = own_home / "calibration" / f"{DEVICE.id}.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DeviceError):
        load_calibration(DEVICE.id)
    assert load_calibration("cpu-y-4c") is None
    with CalibrationRun(DEVICE) as run:
        assert "cannot be used" in run.notes[0]
        fill(run)
        found = conclude(run)
    assert load_calibration(DEVICE.id) == found
    assert path.read_text() == text


def test_another_devices_file_of_version_1_is_refused(own_home: Path) -> None:
    path = own_home / "calibration" / "cpu-y-4c.json"
    path.parent.mkdir()
    path.write_text(to_json(FULL))
    with pytest.raises(DeviceError, match="cpu-y-4c"):
        load_calibration("cpu-y-4c")


def test_damaged_lines_of_a_journal_of_version_1_are_left_out(own_home: Path) -> None:
    header = {
        "device_id": DEVICE.id,
        "versions": CalibrationRun(DEVICE).versions,
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    lines = [json.dumps(header), *(json.dumps({"replay": dataclasses.asdict(point)}) for point in replays())]
    lines[2], lines[4] = "{not json", '{"replay": {"name": 3}}'
    path = own_home / "calibration" / f"{DEVICE.id}.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join([*lines, '{"covered": "something"}', '{"replay": {"na']))
    with CalibrationRun(DEVICE) as run:
        assert len(run.stored.replays) == len(replays()) - 2
        assert run.stored.covered == ("something",)
        assert not run.renews


def test_a_journal_of_version_1_without_a_header_is_ignored(own_home: Path) -> None:
    path = own_home / "calibration" / f"{DEVICE.id}.jsonl"
    path.parent.mkdir()
    path.write_text("what is this\n")
    with CalibrationRun(DEVICE) as run:
        assert not run.stored.replays
