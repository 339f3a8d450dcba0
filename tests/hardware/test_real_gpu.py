"""The real probe of a real GPU."""

from __future__ import annotations

import time

import pytest

from advisor.core.device import DeviceProfile
from advisor.hardware import load_profile, probe_device

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def probed() -> tuple[DeviceProfile, float]:
    begin = time.monotonic()
    profile = probe_device(quick=True, device="cuda")
    return profile, time.monotonic() - begin


def test_it_names_the_card_and_takes_its_time(probed: tuple[DeviceProfile, float]) -> None:
    profile, took_s = probed
    assert profile.type == "cuda"
    assert profile.compute_capability is not None
    assert "partial" not in profile.facts
    assert took_s < 25
    assert load_profile(profile.id) == profile


def test_memory_before_and_after_our_context(probed: tuple[DeviceProfile, float]) -> None:
    profile, _ = probed
    assert 100 * 2**20 < profile.context_bytes < 2 * 2**30
    assert 0 < (profile.available_bytes or 0) <= profile.memory_bytes


def test_rates_of_a_gpu(probed: tuple[DeviceProfile, float]) -> None:
    profile, _ = probed
    half = "bfloat16" if "bfloat16" in profile.dtypes else "float16"
    assert profile.flops_per_s[half].value > profile.flops_per_s["float32"].value
    assert {"host_to_device", "memory", "cache", "softmax", "norm", "rng", "optimizer_fused"} <= set(
        profile.bytes_per_s
    )
    assert 1e9 < profile.bytes_per_s["host_to_device"].value < profile.bytes_per_s["memory"].value
    assert profile.overhead_s["kernel"].value <= profile.overhead_s["operator"].value
    assert not [fact for name, fact in profile.facts.items() if name.startswith("left out") and "no time" not in fact]
    assert profile.num_threads is None


def test_the_driver_was_asked_or_the_reason_is_given(probed: tuple[DeviceProfile, float]) -> None:
    facts = probed[0].facts
    assert "nvml" in facts or {"driver", "max_sm_clock_hz", "ecc", "mig", "pcie", "sm_clock_hz under load"} <= set(
        facts
    )


def test_the_attention_kernel_that_torch_takes_is_one_that_works(probed: tuple[DeviceProfile, float]) -> None:
    profile, _ = probed
    for name in ("chosen attention", "chosen attention with a mask"):
        assert profile.facts[name].split(" (", 1)[0] in profile.attention_kernels
    chosen = profile.facts["chosen attention"].split(" (", 1)[0]
    assert f"attention/{chosen}" in profile.flops_per_s, "a quick probe times that one"
