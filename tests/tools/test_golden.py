"""The golden guard compares strictly, says where two files differ, and can be stopped at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tools.loading import load_tool

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "golden.py"
ESTIMATE = {"memory": {"allocated_bytes": 2**40, "intervals": [1.5, 2.5]}, "notes": ["in words"], "fits": None}


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    return load_tool("golden")


def written(path: Path, results: dict[str, Any]) -> Path:
    lines = [json.dumps({"key": key, "result": result}) for key, result in results.items()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def exit_code(golden: ModuleType, *arguments: object) -> int:
    code: int = golden.main(["compare", *map(str, arguments)])
    return code


def test_equal_files(golden: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    barely = {**ESTIMATE, "memory": {"allocated_bytes": 2**40, "intervals": [1.5 * (1 + 1e-10), 2.5]}}
    old = written(tmp_path / "old.jsonl", {"a": ESTIMATE, "b": ESTIMATE})
    new = written(tmp_path / "new.jsonl", {"b": barely, "a": ESTIMATE})
    assert exit_code(golden, old, new) == 0
    assert "2 cases, 0 with differences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"memory": {"allocated_bytes": 2**40 + 1, "intervals": [1.5, 2.5]}}, "a $.memory.allocated_bytes: 109951162"),
        ({"memory": {"allocated_bytes": 2**40, "intervals": [1.5, 2.5000001]}}, "a $.memory.intervals[1]: 2.5"),
        ({"memory": {"allocated_bytes": 2**40, "intervals": [1.5]}}, "a $.memory.intervals.length: 2 -> 1"),
        ({"notes": ["in other words"]}, 'a $.notes[0]: "in words" -> "in other words"'),
        ({"fits": True}, "a $.fits: null -> true"),
        ({"more": 1}, "a $.more: (absent) -> 1"),
    ],
)  # fmt: skip
def test_each_kind_of_difference(
    golden: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    line: str,
) -> None:
    old = written(tmp_path / "old.jsonl", {"a": ESTIMATE, "b": ESTIMATE})
    new = written(tmp_path / "new.jsonl", {"a": {**ESTIMATE, **changes}, "b": ESTIMATE})
    assert exit_code(golden, old, new) == 1
    out = capsys.readouterr().out
    assert line in out
    assert "2 cases, 1 with differences, 1 differences" in out
    assert exit_code(golden, old, new, "--only", "b") == 0


def test_a_missing_case_is_a_difference(golden: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path / "old.jsonl", {"a": ESTIMATE, "b": ESTIMATE})
    new = written(tmp_path / "new.jsonl", {"a": ESTIMATE})
    assert exit_code(golden, old, new) == 1
    assert "b $: " in capsys.readouterr().out
    assert exit_code(golden, old, new, "--only", "c") == 1, "nothing was compared"


def test_ignored_paths_and_many_differences(
    golden: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"case-{number}" for number in range(50)]
    old = written(tmp_path / "old.jsonl", dict.fromkeys(keys, ESTIMATE))
    new = written(tmp_path / "new.jsonl", {key: {**ESTIMATE, "notes": ["in other words"]} for key in keys})
    assert exit_code(golden, old, new) == 1
    out = capsys.readouterr().out
    assert out.count("$.notes") == golden.MOST_LINES
    assert "... and 10 more" in out
    assert exit_code(golden, old, new, "--ignore", "$*.notes*") == 0


def test_a_torn_line_is_computed_again(golden: ModuleType, tmp_path: Path) -> None:
    path = written(tmp_path / "out.jsonl", {"a": ESTIMATE})
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "b", "resu')
    assert golden.read(path) == {"a": ESTIMATE}
    golden.append(path, json.dumps({"key": "b", "result": 1}))
    assert golden.read(path) == {"a": ESTIMATE, "b": 1}


def test_folders_of_this_machine_are_left_out(golden: ModuleType) -> None:
    value = {"source": "/somewhere/home/chats.jsonl", "notes": ["see /somewhere/x"], "rows": 3}
    places = {"/somewhere": "REPOSITORY", "/somewhere/home": "HOME"}
    assert golden.without_places(value, places) == {
        "source": "HOME/chats.jsonl",
        "notes": ["see REPOSITORY/x"],
        "rows": 3,
    }


def test_every_recorded_case_is_asked_about(golden: ModuleType) -> None:
    recorded = [key for unit in golden.recorded_units() for key in unit.keys]
    files = (golden.repository() / "calibration" / "validation").glob("*.jsonl")
    assert len(recorded) == len(set(recorded)) == sum(len(path.read_text().splitlines()) - 1 for path in files)


def test_the_recorded_calibration_decides(golden: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", "")  # put back afterwards, whatever prepare_home says
    golden.prepare_home(tmp_path)
    unit = next(golden.recorded_units())
    result = golden.outcome(unit, unit.keys[0])
    assert result["estimate"]["time"]["basis"] in ("measured", "calibrated")
    assert result["estimate"]["upper_bytes"] > result["estimate"]["memory"]["allocated_bytes"] > 0
    assert golden.outcome(unit, "recorded/memory/nothing")["error"] == "KeyError"
