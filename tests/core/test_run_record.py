"""record.json: every format that was ever written can still be read, and nothing that it says is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict, to_dict
from tests.core.records import make_plan

WRITTEN = [json.loads(line) for line in (Path(__file__).parent / "golden" / "records.jsonl").read_text().splitlines()]
"""One record of each format, oldest first, as the versions of that time wrote it: before 4-bit up-casts and other loops
were switches of a plan, before host memory was predicted, before grouping by length, before parts and energy of a run,
before inference was predicted, with the knobs of all methods in one list, before the benchmark core, before models had
fingerprints, and as today."""


def differences(written: Any, read: Any, path: str = "record") -> list[str]:
    """Where ``read`` does not say what ``written`` says; it may say more."""
    if isinstance(written, dict) and isinstance(read, dict):
        lost = [f"{path}.{name} is lost" for name in written if name not in read]
        shared = (name for name in written if name in read)
        return lost + [found for name in shared for found in differences(written[name], read[name], f"{path}.{name}")]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [found for i, (old, new) in pairs for found in differences(old, new, f"{path}[{i}]")]
    return [] if written == read else [f"{path}: {written!r} became {read!r}"]


@pytest.mark.parametrize("number", range(len(WRITTEN)))
def test_every_format_ever_written_is_read_whole(number: int) -> None:
    written = WRITTEN[number]
    record = from_dict(RunRecord, written, what="the record")
    assert record.plan.strategy == make_plan().strategy
    knobs = {name: value for name, value in written["plan"]["strategy"].items() if value is not None}  # null: unset
    expected = {**written, "plan": {**written["plan"], "strategy": knobs}}
    assert differences(expected, to_dict(record)) == []


def test_what_today_writes_is_the_last_of_these_formats() -> None:
    """A field that is added, moved or renamed needs a line of its own in the golden file."""
    newest = WRITTEN[-1]
    assert to_dict(from_dict(RunRecord, newest, what="the record")) == newest
