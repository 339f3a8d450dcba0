"""The table says everything that was compared, on one screen's width."""

from __future__ import annotations

import io

from rich.console import Console

from advisor.costmodel.validation.comparison import compare
from advisor.costmodel.validation.record import Record
from advisor.reporting.validation import print_validation
from tests.costmodel.validation.records import MIB, header, predicted, record


def printed(records: list[Record]) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_validation(console, header(), records, compare(records, "cpu"))
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
        "a pretended CPU", "torch 2.13.0", "all cases", "method full", "method lora", "size 100M-500M", "0.50 %",
        "11.11 %", "inside the 90 % interval: allocated 2 of 2 (100 %), device 1 of 2 (50 %)",
        "1 fitted but ran out of memory", "fitted but ran out: case c",
        "fail  allocated worst: 0.50 % (at most 0.10 %)",
        "fail  fits but ran out of memory: 1 (none)", "refused: case d: for a reason",
        "cases: 2 completed, 1 out of memory, 1 refused",
    ):  # fmt: skip
        assert words in text, words
    assert "reserved" not in text


def test_nothing_yet_is_said() -> None:
    text = printed([])
    assert "cases: none yet" in text
    assert "not measured" in text
