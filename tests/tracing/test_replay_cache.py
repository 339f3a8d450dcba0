"""Replays are made once: what is on disk is believed unless it is damaged."""

from __future__ import annotations

from pathlib import Path

from advisor.tracing.full_depth import ReplayCache

FOUND = (10, 20, 15)


def refuse() -> tuple[int, ...]:
    raise AssertionError("replayed again")


def test_another_process_reads_what_one_found(tmp_path: Path) -> None:
    path = tmp_path / "family.holdings.json"
    assert ReplayCache(path).get("a", lambda: FOUND) == FOUND
    assert ReplayCache(path).get("a", refuse) == FOUND


def test_two_writers_keep_both_entries(tmp_path: Path) -> None:
    path = tmp_path / "family.holdings.json"
    first, second = ReplayCache(path), ReplayCache(path)
    first.get("a", lambda: FOUND)
    second.get("b", lambda: (1, 2, 3))
    first.get("c", lambda: FOUND)
    third = ReplayCache(path)
    assert third.get("b", refuse) == (1, 2, 3)
    assert third.get("c", refuse) == FOUND


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "family.holdings.json"
    path.write_text('{"a": [1, 2')
    assert ReplayCache(path).get("a", lambda: FOUND) == FOUND
    assert ReplayCache(path).get("a", refuse) == FOUND
    path.write_text('{"a": "ten"}')
    assert ReplayCache(path).get("a", lambda: FOUND) == FOUND


def test_without_a_place_everything_is_replayed() -> None:
    memory = ReplayCache()
    assert memory.get("a", lambda: FOUND) == FOUND
    assert memory.get("a", lambda: (1, 1, 1)) == (1, 1, 1)


def test_an_unwritable_place_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert ReplayCache(blocked / "family.holdings.json").get("a", lambda: FOUND) == FOUND
