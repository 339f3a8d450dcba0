"""Limits of the host, replayed from files of machines that are not here."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.hardware.host import busy_load, cpu_quota, inspect_host, memory_limit, other_work
from advisor.hardware.host_process import resident_bytes

MEMINFO = "MemTotal:       16384 kB\nMemFree:        9000 kB\nMemAvailable:   12288 kB\n"
CPUINFO = "processor : 0\nmodel name : Example CPU 9000\nflags : fpu avx2 fma avx512f\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, "proc/cpuinfo": CPUINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_limits_the_machine_itself_counts(tmp_path: Path) -> None:
    host = inspect_host(machine(tmp_path, {}), affinity=4)
    assert (host.cores, host.core_quota) == (4, None)
    assert (host.memory_bytes, host.available_bytes) == (16384 * 1024, 12288 * 1024)
    assert host.model_name == "Example CPU 9000"
    assert host.vector_flags == ("avx2", "fma", "avx512f")
    assert "MemTotal" in host.reasons["memory_bytes"]


def test_version_2_limits_of_an_ancestor_count(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job\n",
            "sys/fs/cgroup/user/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user/memory.max": "8388608\n",
            "sys/fs/cgroup/user/memory.current": "6291456\n",
            "sys/fs/cgroup/user/memory.stat": "inactive_file 1048576\nactive_file 1048576\nanon 4194304\n",
            "sys/fs/cgroup/user/job/memory.max": "max\n",
        },
    )
    host = inspect_host(root, affinity=8)
    assert host.core_quota == 1.5
    assert host.cores == 2
    assert host.memory_bytes == 8388608
    assert host.available_bytes == 8388608 - (6291456 - 2 * 1048576)
    assert "sys/fs/cgroup/user" in host.reasons["memory_bytes"]


def test_version_1_limits_count(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "4194304\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1048576\n",
        },
    )
    host = inspect_host(root, affinity=2)
    assert host.core_quota == 0.5
    assert host.cores == 1, "half a core still runs one thread"
    assert (host.memory_bytes, host.available_bytes) == (4194304, 3145728)


def test_unlimited_version_1_values_are_no_limits(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n2:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    root = machine(tmp_path, files)
    assert cpu_quota(root) == (None, "no cgroup quota")
    assert memory_limit(root)[0] == 16384 * 1024


@pytest.mark.parametrize("content", ["", "garbage\n", "max\n", "12"])
def test_damaged_control_files_are_no_limits(tmp_path: Path, content: str) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": content})
    assert cpu_quota(root)[0] is None


def test_hyper_threads_are_no_cores(tmp_path: Path) -> None:
    siblings = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n"
        for cpu in range(8)
    }
    host = inspect_host(machine(tmp_path, siblings), affinity=8)
    assert (host.cores, host.physical_cores) == (8, 4)
    assert "siblings" in host.reasons["physical_cores"]


def test_core_ids_serve_where_sysfs_is_hidden(tmp_path: Path) -> None:
    blocks = [f"processor : {cpu}\nphysical id : 0\ncore id : {cpu // 2}\ncpu MHz : 2300.5\n" for cpu in range(6)]
    host = inspect_host(machine(tmp_path, {"proc/cpuinfo": "\n".join(blocks)}), affinity=6)
    assert (host.cores, host.physical_cores) == (6, 3)
    assert host.clock_hz == 2300.5e6


def test_a_quota_below_the_cores_throttles(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}
    host = inspect_host(machine(tmp_path, files), affinity=8)
    assert (host.cores, host.physical_cores, host.core_quota) == (1, 1, 0.5)
    assert host.throttled
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    whole = inspect_host(tmp_path, affinity=8)
    assert (whole.cores, whole.throttled) == (2, False), "two threads on two cores' worth of time are never stopped"


def test_a_machine_without_proc_still_answers(tmp_path: Path) -> None:
    host = inspect_host(tmp_path, affinity=3)
    assert host.cores == 3
    assert host.vector_flags == ()
    assert host.model_name


def test_this_process_has_a_resident_set() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 32 * 2**20) as fresh:  # what malloc hands out may be resident already
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1
        assert resident_bytes() - before > 24 * 2**20


@pytest.mark.parametrize(("load", "busy"), [(4.9, False), (5.1, True), (31.0, True)])
def test_a_machine_is_busy_when_others_keep_its_cpus(monkeypatch: pytest.MonkeyPatch, load: float, busy: bool) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert bool(busy_load()) == busy
    assert not busy or f"{load:.1f} on 4" in busy_load()


def test_a_system_without_a_load_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[float, float, float]:
        raise OSError("no load average")

    monkeypatch.setattr("os.getloadavg", refuse)
    assert busy_load() == ""


def idle_for(root: Path, idle_cores: float) -> Callable[[float], None]:
    """A wait in which so many cores of the replayed machine were idle."""
    ticks = os.sysconf("SC_CLK_TCK")

    def wait(seconds: float) -> None:
        text = f"cpu  100 0 100 {1000 + round(idle_cores * seconds * ticks)} 50 0 0 0 0 0\ncpu0 1 1 1 1 1\n"
        (root / "proc/stat").write_text(text)

    wait(0)
    return wait


@pytest.mark.parametrize(("used_cores", "busy"), [(0.0, False), (0.3, False), (1.0, True), (-30.0, False)])
def test_other_processes_are_seen_in_the_idle_time(tmp_path: Path, used_cores: float, busy: bool) -> None:
    (tmp_path / "proc").mkdir()
    cores = len(os.sched_getaffinity(0))
    words = other_work(tmp_path, sample_s=10.0, sleep=idle_for(tmp_path, cores - used_cores))
    assert bool(words) == busy, words
    if busy:
        assert f"of {cores} core" in words


def test_a_quota_is_no_free_machine(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert "quota" in other_work(tmp_path, sleep=lambda _: None)


def test_without_proc_the_load_decides(tmp_path: Path) -> None:
    assert other_work(tmp_path, sleep=lambda _: None) == busy_load()
