"""The real probe of the machine that the tests run on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.hardware import load_profile, probe_device, this_device
from advisor.hardware.host import inspect_host

BEFORE = signal.getsignal(signal.SIGINT)
INTERRUPTED = """
import os, signal, sys
from advisor.core.errors import InterruptedByUser
from advisor.hardware import probe_device
def interrupt(text, share):
    if text.startswith("timing"):
        signal.raise_signal(signal.SIGINT)
try:
    probe_device(quick=True, device="cpu", on_progress=interrupt)
except InterruptedByUser as stopped:
    print(stopped)
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def probed() -> tuple[DeviceProfile, list[tuple[str, float]]]:
    told: list[tuple[str, float]] = []
    return probe_device(quick=True, device="cpu", on_progress=lambda text, share: told.append((text, share))), told


def test_it_finds_this_machine(probed: tuple[DeviceProfile, list[tuple[str, float]]]) -> None:
    profile, _ = probed
    assert profile.type == "cpu"
    assert profile.basis == "measured"
    assert "float32" in profile.dtypes
    assert "math" in profile.attention_kernels
    assert 1e8 < profile.flops_per_s["float32"].value < 1e14
    assert 1e8 < profile.bytes_per_s["memory"].value < 1e13
    assert 1e6 < profile.bytes_per_s["storage"].value < 1e12
    assert 1e-7 < profile.launch_s < 1e-3
    assert 100e6 < profile.context_bytes < 3e9
    assert profile.memory_bytes >= (profile.available_bytes or 0) > 0
    assert profile.facts["bitsandbytes"].startswith(("yes (", "no ("))
    assert 1 <= (profile.num_threads or 0) <= inspect_host().cores
    assert profile.sources["num_threads"].startswith(("measured", "the only choice", "physical cores"))
    assert {"memory", "cache", "operator"} <= {*profile.bytes_per_s, *profile.overhead_s}
    wanted = {"float32/skinny", "float32/bmm", "norm", "softmax", "rng", "attention_backward/flash", "optimizer_fused"}
    late = " ".join(name for name, fact in profile.facts.items() if "no time" in fact)  # on a busy machine
    assert not [key for key in wanted - {*profile.flops_per_s, *profile.bytes_per_s} if key not in late]
    overheads = {key: rate.value for key, rate in profile.overhead_s.items()}
    assert profile.launch_s == overheads["operator"]
    assert 1e-8 < overheads["module"] < overheads["operator_autograd"] * 100 < 1e-1
    assert all(rate.source.startswith("probed: ") for rate in profile.flops_per_s.values())
    assert "partial" not in profile.facts


def test_it_is_saved_as_this_device(probed: tuple[DeviceProfile, list[tuple[str, float]]]) -> None:
    assert this_device() == probed[0]
    assert load_profile(probed[0].id) == probed[0]


def test_it_tells_what_it_does(probed: tuple[DeviceProfile, list[tuple[str, float]]]) -> None:
    told = probed[1]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert told[-1] == ("done", 1.0)
    assert any(text.startswith("timing float32") for text, _ in told)


def test_nothing_heavy_stays_in_this_process(probed: tuple[DeviceProfile, list[tuple[str, float]]]) -> None:
    script = (
        "import sys, advisor.hardware; print([m for m in ('torch', 'transformers', 'peft', 'pynvml') if m "
        "in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="cuda:77"):
        probe_device(quick=True, device="cuda:77", save=False)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    environment = {**os.environ, "ADVISOR_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 130, done.stderr
    assert "marked partial" in done.stdout
    kept = list((tmp_path / "profiles").glob("*.json"))
    assert len(kept) == 1
    assert '"partial": "interrupted"' in kept[0].read_text()


def test_signals_are_not_left_changed() -> None:
    assert signal.getsignal(signal.SIGINT) is BEFORE
