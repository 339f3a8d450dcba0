"""Every format in which calibrations were ever kept or exported can still be read.

``*-v1.*`` were written by the code before calibrations moved to SQLite: what it kept, the journal of a calibration that
was killed afterwards, and an export. ``export.json`` and ``calibrations.sql`` are of the present code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest

from advisor.calibration.database import CalibrationDatabase, load_calibration, read_calibration
from advisor.calibration.exchange import read_exchange
from advisor.calibration.merging import import_files
from advisor.calibration.selection import calibration_in
from advisor.core.coefficients import Calibration
from advisor.core.store import resource_dir
from tests.calibration.calibrations import DEVICE, replays

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of calibrations, empty."""
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    (tmp_path / "calibration").mkdir()
    return tmp_path / "calibration"


def check_the_kept_one(found: Calibration | None) -> None:
    """Six products and two configurations, as the files say."""
    assert found is not None
    assert (found.device_id, found.seconds, found.notes, found.partial) == (DEVICE.id, 30.0, ("a note",), "")
    assert found.versions["torch"] == "2.13.0"
    assert [p.median_s for p in found.replays] == [p.median_s for p in replays()[:6]]
    assert all(p.call for p in found.replays)
    lora, full = found.points
    assert (lora.method, lora.step_times_s) == ("lora", (0.1, 0.104, 0.099, 0.101, 0.1))
    assert (lora.work, lora.work_s) == ((("gemm/float32/mm", 600 * 2**16, 2**18, 200),), (3e-4,))
    assert (lora.evaluation_times_s, lora.evaluation_work_s) == ((0.03, 0.031, 0.029), (2e-4,))
    assert (lora.resident_peak_bytes, lora.heap_bytes, lora.configuration) == (10**9, 3 * 10**8, "c1")
    assert (full.method, full.evaluation_times_s) == ("full", ())
    assert found.covered == (f"{lora.model_key} lora {lora.execution_key} 8x64",)
    [entry] = found.provenance
    assert (entry.advisor_version, entry.replays, entry.points) == ("0.1.0", 6, 2)
    assert entry.machine["device"] == "a made-up machine"
    assert found.step is not None
    assert found.step.factor == 2.0064310951200244
    assert found.classes["gemm/float32"].samples == 8


def test_what_version_1_kept(folder: Path) -> None:
    shutil.copy(GOLDEN / "calibration-v1.json", folder / f"{DEVICE.id}.json")
    found = load_calibration(DEVICE.id)
    check_the_kept_one(found)
    assert found == read_calibration(GOLDEN / "calibration-v1.json")
    assert calibration_in(GOLDEN / "calibration-v1.json", DEVICE.id) == found


def test_the_journal_of_version_1(folder: Path) -> None:
    shutil.copy(GOLDEN / "calibration-v1.json", folder / f"{DEVICE.id}.json")
    shutil.copy(GOLDEN / "journal-v1.jsonl", folder / f"{DEVICE.id}.jsonl")
    kept = load_calibration(DEVICE.id)
    check_the_kept_one(kept)
    assert kept is not None
    with CalibrationDatabase(writing=True) as database:
        found = database.read(database.number_of(DEVICE.id, kept.versions))
    assert [p.median_s for p in found.replays] == [p.median_s for p in replays()[:9]]
    assert [p.method for p in found.points] == ["lora", "full", "head"]
    assert len(found.covered) == 2
    assert [(entry.replays, entry.points) for entry in found.provenance] == [(6, 2), (3, 1)]


@pytest.mark.parametrize("name", ["export-v1.json", "export.json"])
def test_exports(name: str) -> None:
    [entry] = read_exchange(GOLDEN / name).calibrations
    assert entry.device == DEVICE
    check_the_kept_one(entry.calibration)
    [imported], _ = import_files([GOLDEN / name])
    assert imported.new == (6, 2)
    assert imported.calibration.points == entry.calibration.points
    assert load_calibration(DEVICE.id) == imported.calibration


def test_the_database(folder: Path) -> None:
    """Kept as SQL, which can be read and compared."""
    with contextlib.closing(sqlite3.connect(folder / "calibrations.db")) as connection:
        connection.executescript((GOLDEN / "calibrations.sql").read_text(encoding="utf-8"))
    check_the_kept_one(load_calibration(DEVICE.id))
    with CalibrationDatabase(writing=True) as database:
        assert [p.method for p in database.read(1).points] == ["lora", "full", "head"], "the last one is not fitted yet"


def test_recorded_calibrations() -> None:
    [path] = (resource_dir("calibration") / "recorded").glob("*.json")
    found = calibration_in(path, path.stem)
    assert (len(found.replays), len(found.points)) == (37, 64)
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.save(found)
    assert load_calibration(path.stem) == dataclasses.replace(found, transferred=())
