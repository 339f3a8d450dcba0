"""What a probe survives, with a stand-in for the probing process: a script that prints findings and then misbehaves."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InterruptedByUser
from advisor.core.store import user_data_dir
from advisor.hardware import load_profile, probe, profile_names
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.host import inspect_host
from advisor.hardware.probe import known_findings
from advisor.hardware.profiles import save_profile

COMMAND: list[str] = []
"""Of the stand-in, as the fixture ``worker`` wrote it."""


def probe_device(**options: Any) -> DeviceProfile:
    return probe.probe_device(**options, worker=COMMAND)


def rate(key: str = "memory") -> dict[str, Any]:
    return {
        "kind": "rate",
        "table": "bytes_per_s",
        "key": key,
        "point": "",
        "label": "a stream",
        "work": 1e8,
        "median_s": 0.01,
        "spread": 0.02,
        "repeats": 9,
        "lost": 0,
    }


DEVICE = {"kind": "device", "device": "cpu", "torch": "2.13.0"}
TRIED = {"kind": "fact", "name": "bitsandbytes", "value": "yes", "reason": "NF4 round trip within 0.14"}
BEGUN = [DEVICE, {"kind": "context", "bytes": 5 * 10**8, "reason": "resident set"}, rate()]
TIMING = {"kind": "timing", "name": "float32 512 x 512 x 512"}
DONE = {"kind": "done"}


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., None]:
    """Replaces the probing process by a script: these findings between two pieces of code."""

    def replace(findings: list[dict[str, Any]], then: str = "", *, first: str = "") -> None:
        script = tmp_path / "worker.py"
        lines = "\n".join(json.dumps(finding) for finding in findings)
        script.write_text(f"import os, sys, signal, time\n{first}\nprint({lines!r}, flush=True)\n{then}\n")
        COMMAND[:] = [sys.executable, str(script)]

    return replace


def this_host() -> str:
    return cpu_id(inspect_host())


def test_findings_become_the_saved_profile(own_home: Path, worker: Callable[..., None]) -> None:
    worker([*BEGUN, DONE])
    profile = probe_device(quick=True, device="cpu")
    assert profile.bytes_per_s["memory"].value == pytest.approx(1e10)
    assert load_profile(profile.id) == profile
    assert "partial" not in profile.facts


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_killed_process_leaves_a_partial_profile_that_names_the_figure(
    own_home: Path, worker: Callable[..., None], name: str
) -> None:
    worker([*BEGUN, TIMING], f"os.kill(os.getpid(), signal.{name})")
    profile = probe_device(quick=True, device="cpu")
    assert name in profile.facts["partial"]
    assert "float32 512 x 512 x 512" in profile.facts["partial"]
    assert profile.bytes_per_s["memory"].value == pytest.approx(1e10)
    assert "partial" in load_profile(profile.id).facts


def test_a_line_that_death_cut_off_is_no_finding(own_home: Path, worker: Callable[..., None]) -> None:
    worker(BEGUN, 'print(\'{"kind": "ra\', flush=True); os._exit(3)')
    profile = probe_device(quick=True, device="cpu")
    assert "exit code 3" in profile.facts["partial"]


def test_death_before_the_first_finding_says_why(own_home: Path, worker: Callable[..., None]) -> None:
    worker([], "sys.exit('ImportError: libtorch is damaged')")
    with pytest.raises(DeviceError, match="libtorch is damaged"):
        probe_device(quick=True, device="cpu")
    assert this_host() not in profile_names()


def test_a_partial_profile_never_replaces_a_complete_one(own_home: Path, worker: Callable[..., None]) -> None:
    complete = DeviceProfile(this_host(), "this machine", "cpu", 2**34, basis="measured")
    save_profile(complete)
    worker([*BEGUN, TIMING], "os.kill(os.getpid(), signal.SIGKILL)")
    profile = probe_device(quick=True, device="cpu")
    assert any("from before is kept" in warning for warning in profile.warnings)
    assert load_profile(this_host()) == complete


def interrupt(text: str, share: float) -> None:
    if text.startswith("timing float32"):
        raise KeyboardInterrupt


def test_ctrl_c_keeps_what_was_found_and_ends_the_process(
    own_home: Path, worker: Callable[..., None], tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    worker([*BEGUN, TIMING], f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(InterruptedByUser) as stopped:
        probe_device(quick=True, device="cpu", on_progress=interrupt)
    assert time.monotonic() - begin < 40
    assert "marked partial" in str(stopped.value)
    assert load_profile(this_host()).facts["partial"] == "interrupted"
    if pid_file.exists() and pid_file.read_text():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


def test_ctrl_c_before_anything_was_found_keeps_nothing(own_home: Path, worker: Callable[..., None]) -> None:
    def at_once(text: str, share: float) -> None:
        raise KeyboardInterrupt

    worker([{"kind": "importing"}, DEVICE], "time.sleep(60)")
    with pytest.raises((InterruptedByUser, KeyboardInterrupt)) as stopped:
        probe_device(quick=True, device="cpu", on_progress=at_once)
    assert isinstance(stopped.value, InterruptedByUser)
    assert "nothing was found" in str(stopped.value)


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_the_file_and_not_the_figures(
    own_home: Path, worker: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.core.store.os.fsync", full_disk)
    worker([*BEGUN, DONE])
    profile = probe_device(quick=True, device="cpu")
    assert profile.bytes_per_s["memory"].value == pytest.approx(1e10)
    assert any("not saved" in warning for warning in profile.warnings)
    assert list(user_data_dir("profiles").glob("*")) == []


def test_ctrl_c_on_a_full_disk_is_still_ctrl_c(
    own_home: Path, worker: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.core.store.os.fsync", full_disk)
    worker([*BEGUN, TIMING], "time.sleep(60)")
    with pytest.raises(InterruptedByUser, match="could not be kept"):
        probe_device(quick=True, device="cpu", on_progress=interrupt)


def test_a_stuck_process_is_ended(own_home: Path, worker: Callable[..., None]) -> None:
    worker([*BEGUN, TIMING], "time.sleep(60)")
    profile = probe_device(quick=True, device="cpu", limit_s=2.0)
    assert "SIGKILL" in profile.facts["partial"]


def test_what_the_process_refuses_is_an_error_with_its_fix(own_home: Path, worker: Callable[..., None]) -> None:
    worker([{"kind": "error", "message": "the device must have room", "fix": "end other processes"}])
    with pytest.raises(DeviceError, match="must have room") as failure:
        probe_device(quick=True, device="cuda:0")
    assert failure.value.fix == "end other processes"


def test_a_second_quick_probe_spares_the_imports(own_home: Path, worker: Callable[..., None], tmp_path: Path) -> None:
    seen = tmp_path / "arguments"
    note = f"open({str(seen)!r}, 'w').write(' '.join(sys.argv[1:]))"
    worker([*BEGUN, TRIED, {"kind": "threads", "value": 3, "reason": "measured on a layer"}, DONE], first=note)
    probe_device(quick=True, device="cpu")
    assert "--known" not in seen.read_text()
    worker([DEVICE, rate(), DONE], first=note)
    for _ in range(2):
        again = probe_device(quick=True, device="cpu")
        assert "--known --threads 3" in seen.read_text()
        assert (again.num_threads, again.sources["num_threads"].count("known from")) == (3, 1)
        assert again.context_bytes == 5 * 10**8
        assert again.sources["context_bytes"] == "resident set; known from an earlier probe with the same libraries"
        assert again.facts["bitsandbytes"].count("NF4 round trip within 0.14; known from") == 1
    probe_device(quick=False, device="cpu")
    assert "--known" not in seen.read_text(), "a full probe finds out anew"
    assert "--threads" not in seen.read_text()


def test_other_library_versions_are_not_known(own_home: Path, worker: Callable[..., None]) -> None:
    worker([*BEGUN, TRIED, DONE])
    probe_device(quick=True, device="cpu")
    assert known_findings("cpu", quick=True)
    assert not known_findings("cuda", quick=True)
    profile = load_profile(this_host())
    save_profile(replace(profile, facts={**profile.facts, "libraries": "peft 99.0, torch 99.0 (installed)"}))
    assert not known_findings("cpu", quick=True)


def test_bitsandbytes_that_kills_the_process_is_a_finding(own_home: Path, worker: Callable[..., None]) -> None:
    worker([*BEGUN, {"kind": "trying", "name": "bitsandbytes"}], "os.kill(os.getpid(), signal.SIGILL)")
    profile = probe_device(quick=True, device="cpu")
    assert "SIGILL" in profile.facts["bitsandbytes"]
    assert "partial" not in profile.facts


def test_a_child_of_the_process_dies_with_it(own_home: Path, worker: Callable[..., None], tmp_path: Path) -> None:
    """A compiler that the probing process has started must not outlive it."""
    pid_file = tmp_path / "child"
    child = f"import subprocess; c = subprocess.Popen(['sleep', '60']); open({str(pid_file)!r}, 'w').write(str(c.pid))"
    worker([*BEGUN], f"{child}\nprint({json.dumps(TIMING)!r}, flush=True)\ntime.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(InterruptedByUser):
        probe_device(quick=True, device="cpu", on_progress=interrupt)
    assert time.monotonic() - begin < 40, "it holds the pipe of the process, so that a survivor would be waited for"
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid_file.read_text()], capture_output=True, text=True)
    assert state.stdout.strip() in ("", "Z"), "ended, at most not yet reaped"


def test_whatever_libraries_write_to_standard_error_is_read(own_home: Path, worker: Callable[..., None]) -> None:
    """More than a pipe holds, in no known encoding: a reader that gave up would leave the process stuck."""
    worker(BEGUN, f"sys.stderr.buffer.write(b'\\xff\\n' * 100_000)\nprint({json.dumps(DONE)!r}, flush=True)")
    begin = time.monotonic()
    assert "partial" not in probe_device(quick=True, device="cpu").facts
    assert time.monotonic() - begin < 40
