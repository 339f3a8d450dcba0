"""Energy: measured power times predicted time, an upper bound, or the reason why there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advisor.core.cost import Interval
from advisor.core.device import DeviceProfile
from advisor.costmodel.time.run import power_limit_w, predicted_energy
from advisor.hardware.energy import known_watts, remember_power

CPU = DeviceProfile("cpu-x-2c", "x", "cpu", 2**34)
RUN = Interval(80.0, 150.0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))


def test_earlier_runs_decide() -> None:
    for joules in (4000.0, 5000.0, 6000.0):
        remember_power(CPU.id, joules, 100.0)
    energy_j, interval, basis = predicted_energy(CPU, 100.0, RUN, known_watts(CPU.id))
    assert energy_j == pytest.approx(5000.0)
    assert interval is not None and interval.low < 80 * 50 < 150 * 50 < interval.high
    assert "3 earlier runs" in basis


def test_the_power_limit_is_an_upper_bound() -> None:
    card = DeviceProfile("card", "card", "cuda", 2**34, facts={"power_limit_w": "350.0 (NVML)"})
    energy_j, interval, basis = predicted_energy(card, 100.0, RUN, [])
    assert energy_j == pytest.approx(35_000.0)
    assert interval is not None and interval.high == pytest.approx(52_500.0) and interval.low < 0.5 * energy_j
    assert "upper bound" in basis


def test_nothing_known_is_said() -> None:
    energy_j, interval, basis = predicted_energy(CPU, 100.0, RUN, known_watts(CPU.id))
    assert (energy_j, interval) == (None, None)
    assert CPU.id in basis


def test_limits_as_profiles_state_them() -> None:
    def limit(text: str) -> float | None:
        return power_limit_w(DeviceProfile("a", "a", "cuda", 1, facts={"power_limit": text}))

    assert limit("72 W (datasheet): long runs lower the clock") == 72.0
    assert limit("not stated") is None
    assert power_limit_w(DeviceProfile("a", "a", "cuda", 1, facts={"power_limit_w": "unknown (refused)"})) is None


def test_a_damaged_memory_counts_as_none(tmp_path: Path) -> None:
    remember_power(CPU.id, 4000.0, 100.0)
    next((tmp_path / "power").iterdir()).write_text("{")
    assert known_watts(CPU.id) == []


def test_a_data_sheet_states_its_limit_too() -> None:
    card = DeviceProfile("card", "card", "cuda", 2**34, power_limit_watts=70.0)
    assert power_limit_w(card) == 70.0
    assert power_limit_w(dataclasses.replace(card, facts={"power_limit_w": "60.0 (NVML)"})) == 60.0
