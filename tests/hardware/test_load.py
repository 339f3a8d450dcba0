"""Other programs' work is noticed while something is measured, and disturbed figures are taken again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.hardware.host import Host
from advisor.hardware.load import LoadMeter
from advisor.hardware.probe_results import least_disturbed
from advisor.hardware.threads import choose_threads

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """``/proc/stat`` and clocks of a machine; ``work`` lets time pass on it."""

    def __init__(self, root: Path, cores: int) -> None:
        self.root, self.cores = root, cores
        self.now_s = self.own_s = self.idle_s = 0.0
        (root / "proc").mkdir()
        self._write()

    def work(self, seconds: float, *, own_cores: float, other_cores: float) -> None:
        self.now_s += seconds
        self.own_s += own_cores * seconds
        self.idle_s += max(0.0, self.cores - own_cores - other_cores) * seconds
        self._write()

    def meter(self) -> LoadMeter:
        return LoadMeter(self.root, own=lambda: self.own_s, clock=lambda: self.now_s, cores=self.cores)

    def _write(self) -> None:
        (self.root / "proc/stat").write_text(f"cpu  100 0 100 {round(self.idle_s * TICKS)} 0 0 0 0 0 0\n")


@pytest.mark.parametrize(
    ("own", "others", "threads", "busy"),
    [
        (2.0, 0.0, 2, False),
        (1.0, 1.0, 2, True),  # two threads that shared one core
        (1.0, 1.0, 1, False),  # one thread had a core of its own
        (0.6, 1.4, 1, False),
        (0.4, 1.6, 1, True),
        (1.8, 0.2, 2, False),  # the system's own work
    ],
)
def test_a_block_knows_what_it_could_have_had(
    tmp_path: Path, own: float, others: float, threads: int, busy: bool
) -> None:
    machine = Machine(tmp_path, 2)
    with machine.meter() as meter:
        machine.work(10.0, own_cores=own, other_cores=others)
    assert bool(meter.load(threads)) == busy
    if busy:
        assert f"left {own:.1f} of 2 cores" in meter.load(threads)


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    with LoadMeter(tmp_path, cores=2) as meter:
        pass
    assert meter.load(2) == ""
    machine = Machine(tmp_path, 2)
    with machine.meter() as meter:
        machine.work(0.01, own_cores=0.0, other_cores=2.0)  # too short for the system's clock
    assert meter.load(2) == ""


def test_a_disturbed_figure_gives_way_to_a_quiet_one() -> None:
    def point(rate: float, load: str = "") -> dict[str, Any]:
        return {
            "table": "flops_per_s",
            "key": "float32",
            "point": "8x8",
            "label": "8x8",
            "median_s": rate,
            "load": load,
        }

    busy, quiet, busier = point(3.0, "x"), point(1.0), point(4.0, "x")
    assert least_disturbed([busy, quiet]) == [quiet]
    assert least_disturbed([quiet, busier]) == [quiet]
    assert least_disturbed([busy, busier]) == [busy, busier]


def test_a_probe_takes_disturbed_figures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from advisor.hardware import worker

    taken: list[str] = []

    def measure(figures: list[str], *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        for figure in figures:
            yield {"kind": "timing", "name": figure}
            taken.append(figure)
            yield {"kind": "rate", "name": figure}

    class Meter:
        """Disturbed while the first figure is taken for the first time."""

        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *_: object) -> None: ...

        def load(self, threads: int) -> str:
            return "other programs left 0.5 of 2 cores" if taken == ["a"] else ""

    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(worker, "LoadMeter", Meter)
    emitted: list[dict[str, Any]] = []
    probe = object.__new__(worker.Probe)
    probe.__dict__ |= {
        "host": SimpleNamespace(cores=2),
        "backend": SimpleNamespace(is_host=True),
        "device": "cpu",
        "pace": None,
        "options": SimpleNamespace(until=float("inf")),
        "emit": lambda **finding: emitted.append(finding),
    }
    probe._measure(["a", "b"], float("inf"))  # type: ignore[list-item]
    assert taken == ["a", "b", "a"]
    assert [finding.get("load", "") != "" for finding in emitted if finding["kind"] == "rate"] == [True, False, False]


def test_threads_are_not_chosen_by_noise_that_begins_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.hardware import threads

    class Busy(LoadMeter):
        def load(self, threads: int | None = None) -> str:
            return "other programs left 0.3 of 2 cores"

    monkeypatch.setattr(threads, "LoadMeter", Busy)
    monkeypatch.setattr(threads, "compare", lambda *_, **__: {1: [[1.0]], 2: [[2.0]]})
    host = Host(2, None, 2**34, 2**33, "Example", (), {"cores": "", "memory_bytes": ""}, 2)
    choice = choose_threads(host, budget_s=0.0, quick=True)
    assert choice.threads == 2
    assert "other programs left" in choice.reason
