"""What was measured once is known, survives a kill, and is not mixed with what other versions measured."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.calibration import load_calibration, save_calibration
from advisor.calibration import recall as recalling
from advisor.calibration.journal import PointJournal, parse_calibration_journal
from advisor.calibration.ledger import CalibrationDatabase
from advisor.calibration.replay import ReplayTask
from advisor.calibration.store import calibration_path, journal_path
from advisor.core.coefficients import Calibration, ReplayPoint, StepPoint
from advisor.core.errors import DeviceError, OutputError
from tests.calibration.calibrations import DEVICE, item, replays, step_point

MODEL = "bert/sequence-classification/384x6/30522"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    return tmp_path


def task(point: ReplayPoint) -> ReplayTask:
    """The call of a made-up point; its work is its signature."""
    signature = f"{point.name} {point.flops} {point.moved_bytes}"
    return ReplayTask(signature, point.name, point.key, point.flops, point.moved_bytes, point.share)


def fill(ledger: CalibrationDatabase, points: list[StepPoint] | None = None) -> None:
    for point in replays():
        assert ledger.keep_replay(task(point), point) == ""
    for steps in points if points is not None else [step_point()]:
        ledger.keep_steps(steps)


def stored(points: list[StepPoint] | None = None, partial: str = "") -> Calibration:
    with CalibrationDatabase(DEVICE) as ledger:
        fill(ledger, points)
        calibration = ledger.calibration(seconds=30.0, partial=partial)
        ledger.store(calibration)
    return calibration


def test_a_stored_calibration_is_known_to_the_next() -> None:
    calibration = stored()
    assert not journal_path(DEVICE.id).exists()
    with CalibrationDatabase(DEVICE) as ledger:
        assert all(ledger.knows_call(task(point)) for point in replays())
        assert ledger.knows_steps(MODEL, item())
        assert str(len(replays())) in ledger.known_in_words()
        again = ledger.calibration(seconds=2.0)
    assert (again.replays, again.points, again.step) == (calibration.replays, calibration.points, calibration.step)
    assert again.seconds == 32.0
    assert again.provenance == calibration.provenance


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
def test_steps_that_say_too_little_are_not_known(measured: StepPoint, wanted: object) -> None:
    stored([measured])
    with CalibrationDatabase(DEVICE) as ledger:
        assert not ledger.knows_steps(MODEL, wanted)  # type: ignore[arg-type]


def test_a_noisy_call_is_timed_again_and_replaced() -> None:
    noisy = dataclasses.replace(replays()[0], spread=0.9)
    with CalibrationDatabase(DEVICE) as ledger:
        ledger.keep_replay(task(noisy), noisy)
        ledger.store(ledger.calibration(seconds=1.0))
    with CalibrationDatabase(DEVICE) as ledger:
        assert not ledger.knows_call(task(noisy))
        ledger.keep_replay(task(noisy), replays()[0])
        [only] = ledger.calibration(seconds=1.0).replays
    assert only.spread < 0.1


def test_a_covered_configuration_need_not_be_traced_again() -> None:
    points = replays()
    with CalibrationDatabase(DEVICE) as ledger:
        ledger.keep_replay(task(points[0]), points[0])
        ledger.cover(MODEL, item(), [task(points[0]), task(points[1])])
        assert not ledger.knows_operators(MODEL, item()), "one of its calls was not timed"
        ledger.skip_call(task(points[1]))
        ledger.cover(MODEL, item(evaluated=True), [task(points[0]), task(points[1])])
        ledger.store(ledger.calibration(seconds=1.0))
    with CalibrationDatabase(DEVICE) as ledger:
        assert ledger.knows_operators(MODEL, item())
        assert ledger.knows_operators(MODEL, item(evaluated=True))
        assert not ledger.knows_operators(MODEL, item(rows=16))


KILLED = """
import os, signal
from advisor.calibration.ledger import CalibrationDatabase
from tests.calibration.calibrations import DEVICE
from tests.calibration.test_ledger import fill
with CalibrationDatabase(DEVICE) as ledger:
    fill(ledger)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_points_survive_a_kill(own_home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with CalibrationDatabase(DEVICE) as ledger:
        assert len(ledger.replays) == len(replays())
        assert ledger.knows_steps(MODEL, item())
        calibration = ledger.calibration(seconds=1.0)
        ledger.store(calibration)
    assert calibration.step is not None
    assert [entry.replays for entry in calibration.provenance] == [len(replays())]
    assert not journal_path(DEVICE.id).exists()


def test_a_journal_adds_to_what_is_stored() -> None:
    stored()
    with CalibrationDatabase(DEVICE) as ledger:
        ledger.keep_steps(step_point(method="full"))
    with CalibrationDatabase(DEVICE) as ledger:
        assert {p.method for p in ledger.points} == {"lora", "full"}
        ledger.keep_steps(step_point(method="head"))
        calibration = ledger.calibration(seconds=1.0)
    assert [entry.points for entry in calibration.provenance] == [1, 1, 1]


def test_other_versions_are_not_added_to_and_their_files_are_kept() -> None:
    calibration = stored()
    save_calibration(dataclasses.replace(calibration, versions={**calibration.versions, "torch": "2.0"}))
    with CalibrationDatabase(DEVICE) as ledger:
        assert not ledger.replays
        assert "torch: calibrated with 2.0" in ledger.notes[0]
        fill(ledger)
        assert load_calibration(DEVICE.id) is not None, "until there is something to replace it"
        ledger.store(ledger.calibration(seconds=1.0))
    kept = json.loads((calibration_path(DEVICE.id).parent / f"{DEVICE.id}.json.old").read_text())
    assert kept["versions"]["torch"] == "2.0"


def test_a_journal_of_other_versions_is_put_aside() -> None:
    with CalibrationDatabase(DEVICE) as ledger:
        fill(ledger)
    path = journal_path(DEVICE.id)
    path.write_text(path.read_text().replace('"torch": "', '"torch": "0.'))
    with CalibrationDatabase(DEVICE) as ledger:
        assert not ledger.replays
        assert not ledger.points
    assert len(path.with_name(path.name + ".old").read_text().splitlines()) == 2 + len(replays())


@pytest.mark.parametrize("text", ["", "{", '{"device_id": 3}'])
def test_a_damaged_calibration_is_replaced_and_kept_beside(text: str) -> None:
    calibration_path(DEVICE.id).write_text(text)
    with CalibrationDatabase(DEVICE) as ledger:
        assert "cannot be used" in ledger.notes[0]
        fill(ledger)
        ledger.store(ledger.calibration(seconds=1.0))
    assert load_calibration(DEVICE.id) is not None
    assert calibration_path(DEVICE.id).with_name(f"{DEVICE.id}.json.old").read_text() == text


def test_a_newer_calibration_is_replaced_only_on_demand() -> None:
    path = save_calibration(stored())
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(DeviceError, match="99"), CalibrationDatabase(DEVICE):
        pass
    with CalibrationDatabase(DEVICE, fresh=True) as ledger:
        assert not ledger.replays


def test_damaged_lines_are_left_out_and_the_rest_counts() -> None:
    with CalibrationDatabase(DEVICE) as ledger:
        fill(ledger)
    path = journal_path(DEVICE.id)
    lines = path.read_text().splitlines()
    lines[2], lines[4] = "{not json", '{"replay": {"name": 3}}'
    path.write_text("\n".join(lines) + '\n{"replay": {"na')
    with CalibrationDatabase(DEVICE) as ledger:
        assert len(ledger.replays) == len(replays()) - 2
        assert ledger.points
        assert "2 damaged lines" in ledger.notes[0]


def test_a_journal_without_a_header_begins_anew() -> None:
    journal_path(DEVICE.id).write_text("what is this\n")
    with CalibrationDatabase(DEVICE) as ledger:
        assert not ledger.replays
        fill(ledger)
    header, content, damaged = parse_calibration_journal(journal_path(DEVICE.id).read_text())
    assert header is not None
    assert (len(content.replays), damaged) == (len(replays()), 0)


def test_beginning_anew_knows_nothing_and_loses_nothing_before_it_is_done() -> None:
    old = stored()
    with CalibrationDatabase(DEVICE, fresh=True) as ledger:
        assert not ledger.knows_steps(MODEL, item())
        ledger.keep_steps(step_point(method="full"))
    assert load_calibration(DEVICE.id) == old
    with CalibrationDatabase(DEVICE) as ledger:
        assert ledger.keeps_complete_one, "the next call goes on renewing"
        assert [p.method for p in ledger.points] == ["full"]
        ledger.store(ledger.calibration(seconds=1.0))
    now = load_calibration(DEVICE.id)
    assert now is not None
    assert [p.method for p in now.points] == ["full"]


def test_two_at_once_are_refused() -> None:
    with (
        CalibrationDatabase(DEVICE),
        pytest.raises(OutputError, match="one calibration at a time"),
        CalibrationDatabase(DEVICE),
    ):
        pass


def test_a_home_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match="writable"), CalibrationDatabase(DEVICE):
        pass


def test_a_disk_without_space_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "NEEDED_BYTES", 2**62)
    with pytest.raises(OutputError, match="bytes free") as failure, CalibrationDatabase(DEVICE):
        pass
    assert "ADVISOR_HOME" in (failure.value.fix or "")


def test_without_keeping_nothing_is_written(own_home: Path) -> None:
    with CalibrationDatabase(DEVICE, keep=False) as ledger:
        fill(ledger)
    assert not list((own_home / "calibration").iterdir())


class FullDisk:
    """Takes some bytes, then none."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = os.write(descriptor, data[: self.room])
        self.room -= taken
        return taken


def test_a_disk_that_fills_up_does_not_end_the_measuring(tmp_path: Path) -> None:
    with CalibrationDatabase(DEVICE) as whole:
        fill(whole)
    text = journal_path(DEVICE.id).read_text()
    header, content, _ = parse_calibration_journal(text)
    assert header is not None
    journal = PointJournal(tmp_path / "full.jsonl", write=FullDisk(len(text) // 2))
    journal.open()
    journal.begin(header)
    for point in content.replays:
        journal.append("replay", point)
    journal.append("steps", content.points[0])
    journal.close()
    assert "No space left" in journal.trouble
    _, kept, damaged = parse_calibration_journal((tmp_path / "full.jsonl").read_text())
    assert damaged == 0, "the line that did not fit is gone as a whole"
    assert 0 < len(kept.replays) < len(content.replays)
