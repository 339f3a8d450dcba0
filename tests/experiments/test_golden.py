"""Files of version 1 stay readable, and the tables made of them keep their figures.

``golden/*.jsonl`` are cut from the recorded validations, a few outcomes changed by hand; ``golden/expected.json`` is
what version 0.1 (commit 2296578) computed from them and from the whole recorded files, under today's names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from advisor.core.serialization import to_dict, to_json
from advisor.core.store import resource_dir
from advisor.experiments.store import RecordStore
from advisor.experiments.validation.compare import compare_memory, compare_times
from advisor.experiments.validation.records import FORMAT, file_name, read_validation

GOLDEN = Path(__file__).parent / "golden"
RECORDED = resource_dir("calibration") / "validation"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
FILES = {
    "memory-v1": GOLDEN / "memory-v1.jsonl",
    "time-v1": GOLDEN / "time-v1.jsonl",
    "time-v1-memory": GOLDEN / "time-v1.jsonl",
    "recorded-memory": RECORDED / "memory-cpu-cpu-intel-xeon-2c-541637fc.jsonl",
    "recorded-time": RECORDED / "time-cpu-wide-cpu-intel-xeon-2c-541637fc.jsonl",
}


def check(expected: Any, found: Any, where: str) -> None:
    """Every expected figure is found; further keys may be there."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            check(value, found[key], f"{where}.{key}")
    elif isinstance(expected, float):
        same = found is not None and math.isclose(expected, found, rel_tol=1e-12, abs_tol=1e-15)
        assert same, (where, expected, found)
    elif isinstance(expected, list):
        for index, (value, other) in enumerate(zip(expected, found, strict=True)):
            check(value, other, f"{where}[{index}]")
    else:
        assert expected == found, (where, expected, found)


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, tables in EXPECTED.items() for what in tables])
def test_the_tables_keep_their_figures(name: str, what: str) -> None:
    header, records = read_validation([FILES[name]])
    tables = {
        "memory": lambda: compare_memory(records, header.device_type),
        "times": lambda: compare_times(records, header.device_type, header.device),
    }
    expected, found = EXPECTED[name][what], to_dict(tables[what]())
    errors = {(row["by"], row["value"], row["quantity"]): row for row in found.pop("errors")}
    wanted = {(row["by"], row["value"], row["quantity"]): row for row in expected["errors"]}
    assert list(wanted) == [key for key in errors if key in wanted]
    assert wanted.keys() == errors.keys() or name.startswith("recorded"), "of the whole files not every group is kept"
    for key, row in wanted.items():
        check(row, errors[key], str(key))
    if what == "memory":
        for key, labels in found["fits"].items():
            found["fits"][key] = len(labels) if isinstance(expected["fits"][key], int) else labels
    check({key: value for key, value in expected.items() if key != "errors"}, found, name)


@pytest.mark.parametrize("name", ["memory-v1", "time-v1"])
def test_files_of_version_1_can_be_continued(name: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(FILES[name].read_bytes())
    header, records = read_validation([path])
    with RecordStore(path, header, FORMAT) as store:
        assert tuple(store.records.values()) == records
        assert [r.key for r in records if not store.is_done(r.key)] == [r.key for r in records if r.outcome == "failed"]
        store.add(records[0])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:-1] == FILES[name].read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1]) == json.loads(to_json(records[0]))


def test_recorded_files_keep_their_names() -> None:
    for path in (FILES["recorded-memory"], FILES["recorded-time"]):
        header, _ = read_validation([path])
        assert file_name(header) == path.name
