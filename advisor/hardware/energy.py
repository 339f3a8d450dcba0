"""Energy of a stretch of work, from the device's own meters; without one, the reason.

GPU: NVML's energy counter (Volta and later), else its power readings integrated over time. CPU: the kernel's RAPL
counters, which cover the whole package (everything that ran there), and mostly only root may read.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from advisor.core.errors import DeviceError
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.core.units import counted

POWERCAP = Path("/sys/class/powercap")
RAPL_FOLDERS = "intel-rapl:[0-9]*"
"""Top-level zones, one a package (Linux kernel documentation, power/powercap); their parts ``intel-rapl:0:0`` are
contained in them. AMD's counters appear under the same name."""
SAMPLING_S = 0.1
"""Power readings are this far apart; the driver itself averages over 0.1 to 1 s."""
UNREADABLE = "the meter stopped answering"
WRAP_CHECK_S = 30.0
"""RAPL counters wrap after some 65 kJ or more, minutes at full load: they are read at least this often."""


class Counter(Protocol):
    """A meter that can be read at any time.

    Attributes:
        source: What it is, for records.
        every_s: How often it must be read.
    """

    source: str
    every_s: float

    def read(self) -> None:
        """Take a reading.

        Raises:
            DeviceError: the meter cannot be read.
        """

    @property
    def joules(self) -> float:
        """Between the first and the last reading."""


class EnergyMeter:
    """Measures what the device takes while the ``with`` block runs.

    Args:
        counter: Opens the device's counter.

    Attributes:
        joules: ``None`` where no meter can be read.
        source: Which meter, or why there is none.
    """

    def __init__(self, counter: Callable[[], Counter]) -> None:
        self.joules: float | None = None
        self.source = ""
        self._open = counter
        self._counter: Counter | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, daemon=True)

    def __enter__(self) -> EnergyMeter:
        try:
            self._counter = self._open()
            self._counter.read()
        except DeviceError as failure:
            self._counter, self.source = None, failure.message
            return self
        self.source = self._counter.source
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._counter is None:
            return
        self._done.set()
        self._thread.join()
        try:
            self._counter.read()
        except DeviceError as failure:
            self.joules, self.source = None, failure.message
            return
        if not self.source.startswith(UNREADABLE):
            self.joules = self._counter.joules

    def _keep_reading(self) -> None:
        while self._counter is not None and not self._done.wait(self._counter.every_s):
            try:
                self._counter.read()
            except DeviceError as failure:
                self.source = f"{UNREADABLE}: {failure.message}"
                return


class RaplCounter:
    """Sum of all packages' RAPL counters.

    Args:
        powercap: The folder of the zones.

    Raises:
        DeviceError: there are none, or they may not be read.
    """

    every_s = WRAP_CHECK_S

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._zones = sorted(path for path in powercap.glob(RAPL_FOLDERS) if path.name.count(":") == 1)
        if not self._zones:
            raise DeviceError(f"energy needs RAPL counters, but {powercap} has none (a virtual machine, or no driver)")
        self._ranges = [self._number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last: list[int] | None = None
        self._microjoules = 0
        self.source = f"RAPL, {counted(len(self._zones), 'package')}"

    def read(self) -> None:
        """Add what was taken since the last reading; a counter that went backwards has wrapped once."""
        now = [self._number(zone / "energy_uj") for zone in self._zones]
        for before, here, wraps_at in zip(self._last or now, now, self._ranges, strict=True):
            self._microjoules += here - before if here >= before else here - before + wraps_at
        self._last = now

    @property
    def joules(self) -> float:
        return self._microjoules / 1e6

    @staticmethod
    def _number(path: Path) -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError) as failure:
            raise DeviceError(f"the RAPL counter must be readable, but {path} is not: {failure}") from None


class NvmlCounter:
    """The driver's own energy counter of one GPU, or its power readings, integrated by the trapezoidal rule.

    Args:
        uuid: Of the GPU.
        from_power: Integrate power readings: a GPU before Volta has no energy counter.

    Raises:
        DeviceError: no NVML, or the driver refuses; from the first reading on.
    """

    def __init__(self, uuid: str, *, from_power: bool) -> None:
        self._uuid, self._from_power = uuid, from_power
        self.source = "NVML power readings" if from_power else "NVML energy counter"
        self.every_s = SAMPLING_S if from_power else WRAP_CHECK_S
        self._last: tuple[float, float] | None = None
        self.joules = 0.0

    def read(self) -> None:
        from advisor.hardware.nvml import handle_of, nvml_library

        question = "nvmlDeviceGetPowerUsage" if self._from_power else "nvmlDeviceGetTotalEnergyConsumption"
        with nvml_library() as nvml:
            value = float(getattr(nvml, question)(handle_of(nvml, self._uuid))) / 1e3
        now_s = time.perf_counter()
        if self._last is not None:
            before, before_s = self._last
            self.joules += (now_s - before_s) * (value + before) / 2 if self._from_power else value - before
        self._last = value, now_s


def gpu_counter(uuid: str) -> Counter:
    """The best meter that this GPU has.

    Raises:
        DeviceError: it has none, or NVML cannot be used.
    """
    counter = NvmlCounter(uuid, from_power=False)
    try:
        counter.read()
    except DeviceError:
        counter = NvmlCounter(uuid, from_power=True)
        counter.read()
    return counter


# --------------------
# The power that earlier runs took, kept for predictions.

RUNS_KEPT = 50
"""Newest runs whose power is remembered for a device."""


def remember_power(device_id: str, joules: float, seconds: float) -> None:
    """Keep the mean power of a finished run, for predictions on the same device."""
    if joules > 0 and seconds > 0:
        kept = [*known_watts(device_id), joules / seconds][-RUNS_KEPT:]
        write_text_atomically(_power_file(device_id), json.dumps({"device_id": device_id, "watts": kept}))


def known_watts(device_id: str) -> list[float]:
    """Mean power of this device's earlier runs, oldest first; a damaged file counts as none."""
    try:
        return [float(value) for value in json.loads(_power_file(device_id).read_text(encoding="utf-8"))["watts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _power_file(device_id: str) -> Path:
    return user_data_dir("power") / f"{re.sub(r'[^A-Za-z0-9._-]', '_', device_id)}.json"
