"""Calibrations on disk: what is written comes back; what does not belong together is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from advisor.calibration import load_calibration, save_calibration
from advisor.calibration.store import calibration_path, current_versions
from advisor.core.coefficients import (
    Calibration,
    ClassFit,
    HeldOutError,
    ReplayPoint,
    ResidentFit,
    StepFit,
    StepPoint,
)
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError

DEVICE = DeviceProfile("cpu-x-2c", "x", "cpu", 2**34, basis="measured", facts={"cores": "2 (2 in the affinity mask)"})
FIT = ClassFit(1e-6, 1e-11, 1e-10, 4e-10, 1000, 9, 0.1, 10**9, 10**7)
FULL = Calibration(
    "cpu-x-2c",
    current_versions(DEVICE),
    "2026-01-01T00:00:00+00:00",
    {"gemm/float32": FIT},
    {"gemm/float32/mm": FIT},
    step=StepFit(1.2, 1e-5, 0.04, 0.01, 6),
    model_ratios={"m": 1.01},
    resident=ResidentFit(500_000_000, 1.1, 0.03, 4),
    held_out=HeldOutError(0.05, 0.09, 4, "held back"),
    replays=(ReplayPoint("mm.default", "gemm/float32/mm", 10, 20, 1e-5, 0.02, 3),),
    points=(StepPoint("m", "lora", "e", 8, 64, (0.1, 0.2), (("gemm/float32/mm", 10, 20, 3),)),),
    seconds=42.0,
    notes=("a note",),
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))


def test_it_comes_back_as_it_was() -> None:
    save_calibration(FULL)
    assert load_calibration("cpu-x-2c") == FULL
    assert load_calibration("cpu-x-2c", device=DEVICE) == FULL


def test_an_uncalibrated_device_has_none() -> None:
    assert load_calibration("cpu-y-4c") is None


def test_other_versions_are_refused_by_name() -> None:
    older = {**FULL.versions, "torch": "2.11.0", "cores": "8"}
    save_calibration(dataclasses.replace(FULL, versions=older))
    with pytest.raises(DeviceError) as failure:
        load_calibration("cpu-x-2c", device=DEVICE)
    assert sorted(problem.split(":")[0] for problem in failure.value.problems) == ["cores", "torch"]
    assert "advisor calibrate" in (failure.value.fix or "")
    assert load_calibration("cpu-x-2c") is not None


def test_another_devices_file_is_refused() -> None:
    path = save_calibration(FULL)
    path.rename(calibration_path("cpu-y-4c"))
    with pytest.raises(DeviceError, match="cpu-y-4c"):
        load_calibration("cpu-y-4c")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"device_id": 3}'])
def test_a_damaged_file_is_refused(text: str) -> None:
    calibration_path("cpu-x-2c").write_text(text)
    with pytest.raises(DeviceError):
        load_calibration("cpu-x-2c")


def test_a_newer_file_is_refused() -> None:
    path = save_calibration(FULL)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(DeviceError, match="99"):
        load_calibration("cpu-x-2c")


def test_repeat_noise_needs_no_normality() -> None:
    assert dataclasses.replace(FULL.points[0], step_times_s=(1.0, 1.0, 1.0, 1.0, 9.0)).noise_relative < 6
    assert dataclasses.replace(FULL.points[0], step_times_s=(1.0,) * 5).noise_relative == 0
    assert FULL.points[0].noise_relative == pytest.approx(0.05 / 0.15)
