"""Energy meters, on counters that the test itself turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.errors import DeviceError
from advisor.hardware.energy import EnergyMeter, RaplCounter, gpu_counter

RANGE_UJ = 1_000_000_000


def zone(powercap: Path, name: str, microjoules: int) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return folder


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 1_000_000)
    with EnergyMeter(lambda: RaplCounter(tmp_path)) as meter:
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            zone(tmp_path, name, 6_000_000)
    assert meter.joules == pytest.approx(10.0)
    assert meter.source == "RAPL, 2 packages"


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", RANGE_UJ - 3_000_000)
    counter = RaplCounter(tmp_path)
    for value in (RANGE_UJ - 3_000_000, 2_000_000, 5_000_000):
        (folder / "energy_uj").write_text(str(value))
        counter.read()
    assert counter.joules == pytest.approx(8.0)


def test_without_a_meter_there_is_a_reason(tmp_path: Path) -> None:
    with EnergyMeter(lambda: RaplCounter(tmp_path)) as meter:
        pass
    assert meter.joules is None
    assert "RAPL" in meter.source


def test_a_counter_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 5)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # as unreadable as a file that belongs to root
    counter = RaplCounter(tmp_path)
    with pytest.raises(DeviceError, match="energy_uj"):
        counter.read()
    with EnergyMeter(lambda: RaplCounter(tmp_path)) as meter:
        pass
    assert meter.joules is None and "energy_uj" in meter.source


def test_a_machine_without_a_gpu_has_no_gpu_meter() -> None:
    with EnergyMeter(lambda: gpu_counter("GPU-none")) as meter:
        pass
    assert meter.joules is None
    assert "NVML" in meter.source
