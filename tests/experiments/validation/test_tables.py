"""The table says everything that was compared, on one screen's width."""

from __future__ import annotations

import io

from rich.console import Console

from advisor.core.device import DeviceProfile, Rate
from advisor.experiments.validation.compare import compare_memory, compare_times
from advisor.experiments.validation.records import Record, TracedWork
from advisor.reporting.validation import print_validation
from tests.experiments.validation.records import MIB, header, predicted, record, timed


def printed(records: list[Record]) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_validation(console, header(), records, compare_memory(records, "cpu"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_errors_coverage_verdicts_bars_and_reasons_are_all_there() -> None:
    records = [
        record("a", promised=predicted(100 * MIB), allocated_bytes=100 * MIB, device_bytes=90 * MIB, method="full"),
        record("b", promised=predicted(200 * MIB), allocated_bytes=201 * MIB, device_bytes=200 * MIB),
        record("c", promised=predicted(MIB), outcome="out_of_memory"),
        record("d", outcome="refused"),
    ]
    text = printed(records)
    for words in (
        "a pretended CPU", "torch 2.13.0", "all cases", "method: full", "method: lora", "size: 100M-500M", "0.50 %",
        "11.1 %", "coverage of the 90 % intervals: allocated 2 of 2 (100.0 %), device 1 of 2 (50.0 %)",
        "predicted to fit: 2 ran, 1 ran out of memory; predicted not to fit: 0 ran out of memory, 0 ran",
        "predicted to fit, but ran out of memory: case c",
        "fail  allocated max: 0.50 % (at most 0.10 %)",
        "fail  fits but ran out of memory: 1 (at most 0)", "refused: case d: for a reason",
        "cases: 2 completed, 1 out of memory, 1 refused",
    ):  # fmt: skip
        assert words in text, words
    assert "reserved" not in text


def test_step_times_stand_beside_noise_order_coverage_and_rules_of_thumb() -> None:
    work = TracedWork(100, {"float32": 10**9}, 10**6, 10**6, 0.1)
    records = [
        timed("a", 0.2, 0.25, work=work, method="full", reference_s=(0.05, 0.05)),
        timed("b", (0.1, 0.11, 0.09, 0.1, 0.1), 0.1, work=work, rows=4, reference_s=(0.05, 0.05)),
        timed("c", 0.4, 0.4, seen=True, rows=2, reference_s=(0.05, 0.1)),
        timed("d", 0.21, 0.25, method="full", again=1),
    ]
    console = Console(file=io.StringIO(), width=140)
    device = DeviceProfile("cpu-test", "a CPU", "cpu", 2**30, flops_per_s={"float32": Rate(1e10, "probed")})
    print_validation(console, header("time"), records, None, compare_times(records, "cpu", device))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for words in (
        "Step time 2 configurations; 1 more were measured by the calibration itself and do not count",
        "method: full", "model: bert-base", "tokens: up to 512", "switch: none", "25.0 %", "+25.0 %",
        "noise: measured twice", "4.76 %", "timed with every case; 50",
        "steady: machine within 10%",
        "pairs in the right order: 100.0 % (at least 95.0 %; 1 of 1; 2 cases; a verdict needs 60)",
        "coverage of the 90 % intervals: step time 1 of 2 (50.0 %)",
        "baseline: two-ceiling roofline", "6 x parameters x tokens / peak",
        "not judged  step time p50: 12.5 % (at most 8.00 %; 2 cases; a verdict needs 60)",
        "not judged  coverage of the 90 % intervals: 50.0 % (85.0 % to 95.0 %; 2 intervals; a verdict needs 200)",
        "largest errors", "±5.00 %", "1.00x", "cases: 4 completed",
    ):  # fmt: skip
        assert words in text, words + text
    assert "Memory" not in text


def test_nothing_yet_is_said() -> None:
    text = printed([])
    assert "cases: none yet" in text
    assert "not judged" in text
