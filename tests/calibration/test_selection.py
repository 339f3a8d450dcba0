"""Which calibration a prediction uses, and the rule about versions; which measured times are plausible."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration.database import database_path, save_calibration
from advisor.calibration.exchange import Exchanged, write_exchange
from advisor.calibration.measure import plausible_times
from advisor.calibration.plan import MOST_PATIENCE, timeout_scale
from advisor.calibration.selection import calibrated_now, calibration_for, shipped_calibration
from advisor.core.coefficients import Calibration, version_differences
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import DeviceError
from advisor.hardware.backends.cuda import kernel_driver
from advisor.hardware.versions import current_versions
from tests.calibration.calibrations import DEVICE, calibration, replays, step_point


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))


def of_other_versions(found: Calibration) -> Calibration:
    return dataclasses.replace(found, versions={**found.versions, "torch": "2.0"})


def shipped(folder: Path, found: Calibration, device: DeviceProfile = DEVICE) -> Path:
    write_exchange(folder / f"{device.id}.json", [Exchanged(device, found)])
    return folder


def test_ones_own_comes_first(tmp_path: Path) -> None:
    save_calibration(calibration(notes=("mine",)))
    found, note = calibration_for(DEVICE, at_hand=True, shipped_folder=shipped(tmp_path, calibration()))
    assert found is not None
    assert (found.notes, found.transferred, note) == (("mine",), (), "")


def test_of_several_versions_those_in_use_now_are_chosen(tmp_path: Path) -> None:
    save_calibration(calibration(notes=("now",)))
    later = dataclasses.replace(of_other_versions(calibration()), created_at="2999-01-01T00:00:00+00:00")
    save_calibration(later)
    for at_hand in (True, False):
        found, note = calibration_for(DEVICE, at_hand=at_hand, shipped_folder=tmp_path)
        assert found is not None
        assert (found.notes, found.transferred, note) == (("now",), (), "")
    assert calibrated_now(DEVICE) == found


def test_a_calibration_of_other_versions_is_refused_by_name(tmp_path: Path) -> None:
    versions = {**calibration().versions, "torch": "2.0", "cores": "8"}
    save_calibration(dataclasses.replace(calibration(), versions=versions))
    with pytest.raises(DeviceError) as failure:
        calibrated_now(DEVICE)
    assert sorted(problem.split(":")[0] for problem in failure.value.problems) == ["cores", "torch"]
    assert "advisor calibrate" in (failure.value.fix or "")


def test_a_database_that_cannot_be_read_is_said_and_the_shipped_one_used(tmp_path: Path) -> None:
    database_path().write_bytes(b"no database" * 999)
    found, note = calibration_for(DEVICE, at_hand=True, shipped_folder=shipped(tmp_path, calibration()))
    assert found is not None
    assert "it is damaged" in note
    assert "move it away" in note


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert calibration_for(DEVICE, at_hand=True, shipped_folder=tmp_path) == (None, "")
    assert calibration_for(DEVICE, at_hand=True, shipped_folder=tmp_path / "missing") == (None, "")


def test_on_the_machine_at_hand_other_versions_are_refused(tmp_path: Path) -> None:
    save_calibration(of_other_versions(calibration()))
    found, note = calibration_for(DEVICE, at_hand=True, shipped_folder=tmp_path)
    assert found is None
    assert "torch: calibrated with 2.0" in note
    assert "advisor calibrate" in note


def test_for_a_machine_elsewhere_they_are_transferred(tmp_path: Path) -> None:
    save_calibration(of_other_versions(calibration()))
    found, note = calibration_for(DEVICE, at_hand=False, shipped_folder=tmp_path)
    assert found is not None
    assert len(found.transferred) == 1
    assert "torch" in found.transferred[0]
    assert found.resident is None
    assert "wider" in note


def test_a_shipped_one_of_equal_versions_is_calibrated(tmp_path: Path) -> None:
    found, note = calibration_for(DEVICE, at_hand=True, shipped_folder=shipped(tmp_path, calibration()))
    assert found is not None
    assert (found.transferred, note) == ((), "")


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_shipped_one_of_other_versions_is_transferred(tmp_path: Path, at_hand: bool) -> None:
    folder = shipped(tmp_path, of_other_versions(calibration()))
    found, note = calibration_for(DEVICE, at_hand=at_hand, shipped_folder=folder)
    assert found is not None
    assert found.transferred
    assert "transferred" in note


def test_a_damaged_one_of_ones_own_is_said_and_the_shipped_one_used(tmp_path: Path) -> None:
    (database_path().parent / f"{DEVICE.id}.json").write_text("{")
    found, note = calibration_for(DEVICE, at_hand=True, shipped_folder=shipped(tmp_path, calibration()))
    assert found is not None
    assert "must be JSON" in note


def test_a_card_is_found_by_its_driver_name_and_by_its_datasheet_name(tmp_path: Path) -> None:
    probed = dataclasses.replace(DEVICE, id="h200", type="cuda")
    folder = shipped(tmp_path, calibration(device=probed), probed)
    assert shipped_calibration("h200", folder) is not None
    planned = dataclasses.replace(probed, id="h200-sxm")
    found, _ = calibration_for(planned, at_hand=False, shipped_folder=folder)
    assert found is not None
    assert found.device_id == "h200-sxm"
    assert shipped_calibration("t4", folder) is None


def test_every_shipped_calibration_can_be_read() -> None:
    from advisor.core.store import resource_dir

    for path in (resource_dir("calibration") / "devices").glob("*.json"):
        assert shipped_calibration(path.stem) is not None, path


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build  (dvs-builder)\n",
    ],
)
def test_the_kernel_tells_the_driver_where_nvml_does_not(tmp_path: Path, text: str) -> None:
    file = tmp_path / "version"
    file.write_text(text)
    assert kernel_driver(file) == "535.104.05"
    card = dataclasses.replace(DEVICE, type="cuda", facts={"nvml": "no (no permission)"})
    assert current_versions(card, driver=kernel_driver(file))["driver"] == "535.104.05"
    old = dataclasses.replace(card, facts={"driver": "525.1 (NVML)"})
    assert current_versions(old, driver=kernel_driver(file))["driver"] == "535.104.05", "updated after the probe"


def test_without_nvml_and_kernel_file_the_driver_is_the_profiles_or_unknown(tmp_path: Path) -> None:
    card = dataclasses.replace(DEVICE, type="cuda", facts={"driver": "unknown (NVML: no permission)"})
    assert "driver" not in current_versions(card, driver="")
    with_fact = dataclasses.replace(card, facts={"driver": "525.1 (NVML)"})
    assert current_versions(with_fact, driver="")["driver"] == "525.1"
    (tmp_path / "odd").write_text("nothing of the kind")
    assert kernel_driver(tmp_path / "odd") == ""


def test_the_threads_of_a_cpu_are_a_version() -> None:
    assert "threads" not in current_versions(DEVICE)
    two = dataclasses.replace(DEVICE, num_threads=2)
    assert current_versions(two)["threads"] == "2"
    one = current_versions(dataclasses.replace(DEVICE, num_threads=1))
    assert version_differences(current_versions(two), one, first="a", second="b") == ["threads: a 2, b 1"]


def test_a_version_that_one_side_does_not_know_differs() -> None:
    assert version_differences({"driver": "1"}, {}, first="a", second="b") == ["driver: a 1, b unknown"]
    assert version_differences({}, {"driver": "1"}, first="a", second="b") == ["driver: a unknown, b 1"]
    assert version_differences({"torch": "2"}, {"torch": "2"}, first="a", second="b") == []


def test_ordinary_repeats_are_all_believed() -> None:
    assert plausible_times((0.1, 0.2, 0.4, 0.1)) == ((0.1, 0.2, 0.4, 0.1), "")
    assert plausible_times((0.1,)) == ((0.1,), "")


@pytest.mark.parametrize("odd", [0.0, -1.0, 1000.0, 1e-9, math.nan, math.inf])
def test_a_time_that_cannot_be_is_dropped(odd: float) -> None:
    kept, note = plausible_times((0.1, odd, 0.11, 0.1))
    assert kept == (0.1, 0.11, 0.1)
    assert "1 of 4" in note


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12))
def test_what_is_kept_is_always_believable(times_s: list[float]) -> None:
    kept, note = plausible_times(times_s)
    assert all(math.isfinite(t) and t > 0 for t in kept)
    assert bool(note) == (len(kept) != len(times_s))
    if kept:
        assert step_point(step_times_s=kept).is_plausible


def test_points_without_a_positive_time_are_not_believed() -> None:
    assert not step_point(step_times_s=()).is_plausible
    assert not step_point(evaluation_times_s=(0.1, -0.1)).is_plausible
    assert not step_point(work_s=(math.nan,)).is_plausible
    assert step_point(work_s=(0.0,), evaluation_times_s=(0.1,)).is_plausible
    assert not dataclasses.replace(replays()[0], median_s=0.0).is_plausible
    assert replays()[0].is_plausible


@pytest.mark.parametrize(
    ("quota", "rate", "expected"),
    [(None, 5e10, 1.0), (4.0, 9e13, 1.0), (0.5, 5e10, 2.0), (0.5, 1e10, 5.0), (0.01, 1e9, 16)],
)
def test_time_outs_grow_with_the_slowness_of_the_machine(quota: float | None, rate: float, expected: float) -> None:
    device = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(rate, "probed")})
    assert timeout_scale(device, quota if quota is not None else 8.0) == pytest.approx(expected)
    assert 1 <= timeout_scale(dataclasses.replace(DEVICE, flops_per_s={})) <= MOST_PATIENCE
