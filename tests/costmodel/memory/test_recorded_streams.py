"""Recorded requests of torch's CUDA allocator, and the peaks that it counted, against the models of both.

The records come from `tools/phantom_gpu/record.py`: the real allocator of a CUDA build of torch over a driver that was
stood in for. Nothing of that is needed to replay them.
"""

from __future__ import annotations

from typing import Any

import pytest

from advisor.costmodel.memory.caching_allocator import CachingAllocator
from tools.phantom_gpu.record import difference, read_records, read_stream

RECORDS = [record for record in read_records() if record["outcome"] == "completed"]


def _name(record: dict[str, Any]) -> str:
    return f"{record['card']} {record['case']}"


def test_there_are_records_of_several_kinds() -> None:
    cases = " ".join(record["case"] for record in RECORDS)
    assert len(RECORDS) >= 18
    for kind in (" full ", " lora ", " qlora ", " head ", "checkpointed", "amp-fp16", "8bit", "mixed_lengths", "bf16"):
        assert kind in cases, kind


@pytest.mark.parametrize("record", RECORDS, ids=_name)
def test_replayed_requests_give_the_allocators_own_segments(record: dict[str, Any]) -> None:
    """To the byte: the reserve after every request that changed it, and both peaks."""
    stream, allocator = read_stream(record), CachingAllocator()
    expected = dict(stream.reserved)
    found = {}
    for number, event in enumerate(stream.events):
        if number == stream.begin:
            allocator.peak_allocated_bytes = allocator.allocated_bytes
            allocator.peak_reserved_bytes = allocator.reserved_bytes
        if event is None:
            allocator.return_free_segments()
        elif event >= 0:
            assert allocator.allocate(event, stream.sizes[event])
        else:
            allocator.release(~event)
        if number + 1 in expected:
            found[number + 1] = allocator.reserved_bytes
    assert found == expected
    assert allocator.peak_allocated_bytes == record["allocated_bytes"]
    assert allocator.peak_reserved_bytes == record["reserved_bytes"]


EVERYDAY = ("distilbert-base lora 32x128 amp", "distilbert-base head 64x64")
WORST_ALLOCATED, WORST_RESERVED = 0.015, 0.08
MIXED = "mixed_lengths"
"""The predicted reserve of mixed lengths is that of a fresh process; the recorded one has a history."""


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(record, id=_name(record), marks=[] if record["case"] in EVERYDAY else [pytest.mark.slow])
        for record in RECORDS
    ],
)
def test_predictions_agree_with_the_records(record: dict[str, Any]) -> None:
    found = difference(record)
    assert abs(found.allocated) < WORST_ALLOCATED, f"{found.allocated:+.2%} allocated"
    if MIXED not in record["case"]:
        assert abs(found.reserved) < WORST_RESERVED, f"{found.reserved:+.2%} reserved"
