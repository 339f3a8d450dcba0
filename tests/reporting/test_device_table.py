"""A probed device on one screen: grouped, each figure with its spread, markup in facts harmless."""

from __future__ import annotations

import io

from rich.console import Console

from advisor.core.device import DeviceProfile, Rate
from advisor.reporting.device import print_device


def probed(**changes: object) -> DeviceProfile:
    fields: dict[str, object] = {
        "id": "cpu-example-2c",
        "name": "Example, 2 cores",
        "type": "cpu",
        "memory_bytes": 2**34,
        "available_bytes": 2**33,
        "context_bytes": 5 * 10**8,
        "flops_per_s": {
            "float32": Rate(1.2e11, "probed: median over 2 shapes", 0.04),
            "float32/256x256x256": Rate(1e11, "probed", 0.01),
            "float32/512x512x512": Rate(1.4e11, "probed", 0.04),
            "float32/skinny": Rate(3e10, "probed: 1024 x 768 x 8", 0.02),
            "float32/skinny/1024x768x8": Rate(3e10, "probed: 1024 x 768 x 8", 0.02),
            "attention/flash": Rate(5e10, "probed: 128 tokens", 0.03),
        },
        "bytes_per_s": {"memory": Rate(9e9, "probed: a stream", 0.2), "softmax/65536": Rate(2e10, "probed", 0.0)},
        "overhead_s": {"operator": Rate(1.3e-6, "probed: add", 0.01)},
        "launch_s": 1.3e-6,
        "num_threads": 2,
        "basis": "measured",
        "sources": {"num_threads": "measured: 1: 20 ms, 2: 11 ms"},
        "facts": {"cores": "2 (all [bold])", "left out: float32 9": "no time was left", "partial": "interrupted"},
        "warnings": ("unstable: memory ±20% [x]",),
    }
    return DeviceProfile(**{**fields, **changes})  # type: ignore[arg-type]


def printed(profile: DeviceProfile) -> str:
    stream = io.StringIO()
    print_device(Console(file=stream, width=140), profile)
    return stream.getvalue()


def line(text: str, start: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(start))


def test_each_key_is_one_line_with_spread_and_range() -> None:
    text = printed(probed())
    assert line(text, "float32 ").split()[1:8] == ["120", "GFLOP/s", "±4%", "100", "–", "140", "probed:"]
    assert line(text, "float32/skinny ").split()[1:4] == ["30", "GFLOP/s", "±2%"]
    assert "256x256x256" not in text, "points are in the file and under --json"
    assert line(text, "attention/flash").split()[1:3] == ["50", "GFLOP/s"]
    assert line(text, "memory ").split()[1:] == ["16.0", "GiB"]
    assert "9 GB/s" in text
    assert line(text, "operator").split()[1:4] == ["1.3", "µs", "±1%"]
    assert "11 ms" in line(text, "training threads")


def test_a_gpu_counts_in_teraflops() -> None:
    text = printed(probed(flops_per_s={"bfloat16": Rate(7.9e14, "probed", 0.01)}))
    assert "790 TFLOP/s" in text


def test_facts_and_warnings_are_printed_as_they_are() -> None:
    text = printed(probed())
    assert "cores: 2 (all [bold])" in text
    assert "warning: unstable: memory ±20% [x]" in text
    assert "not measured for lack of time: 1 figure (" in text


def test_a_profile_without_rates_prints() -> None:
    assert "Example" in printed(probed(flops_per_s={}, bytes_per_s={}, overhead_s={}, num_threads=None))
