"""Records survive a kill, a torn line, a full disk and a second writer; nothing that was written is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.errors import InputError, OutputError
from advisor.experiments.grid import Cell, CellResult
from advisor.experiments.store import CellRecord, GridHeader, RecordStore, cell_format, read_records
from advisor.experiments.validation.records import FORMAT, Header, Record
from tests.experiments.validation.records import MIB, header, predicted, record

FIRST = record("a", promised=predicted(100 * MIB), allocated_bytes=101 * MIB)
SECOND = record("b", promised=predicted(9 * 2**30, fits=False), outcome="out_of_memory")


def store(path: Path, first_line: Header, *, resume: bool = True) -> RecordStore[Header, Record]:
    return RecordStore(path, first_line, FORMAT, resume=resume)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "records.jsonl"


def written(path: Path) -> Path:
    with store(path, header()) as opened:
        opened.add(FIRST)
        opened.add(SECOND)
    return path


def test_records_come_back_as_they_were(path: Path) -> None:
    with store(written(path), header()) as opened:
        assert opened.records == {"a": FIRST, "b": SECOND}
        assert opened.header == header()


def test_the_header_of_the_file_counts_not_the_new_one(path: Path) -> None:
    later = dataclasses.replace(header(), started_at="2030-01-01T00:00:00+00:00")
    with store(written(path), later) as opened:
        assert opened.header.started_at == header().started_at


def test_a_case_that_occurs_twice_counts_with_its_last_line(path: Path) -> None:
    again = dataclasses.replace(FIRST, seconds=7.0)
    with store(written(path), header()) as opened:
        opened.add(again)
    with store(path, header()) as opened:
        assert opened.records["a"] == again


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_torn_last_line_goes_away_and_the_next_record_stands_alone(path: Path, cut: int) -> None:
    whole = written(path).read_bytes()
    path.write_bytes(whole[:-cut])
    with store(path, header()) as opened:
        assert list(opened.records) == ["a"]
        opened.add(SECOND)
    assert path.read_bytes() == whole


def test_a_torn_header_begins_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"kind": "mem')
    with store(path, header()) as opened:
        opened.add(FIRST)
    assert read_records(path, FORMAT) == (header(), {"a": FIRST})


def test_starting_over_moves_the_old_records_aside(path: Path) -> None:
    whole = written(path).read_bytes()
    with store(path, header(), resume=False) as opened:
        assert not opened.records
    assert path.with_name("records.jsonl.old").read_bytes() == whole


def test_two_processes_do_not_write_the_same_file(path: Path) -> None:
    with store(path, header()), pytest.raises(OutputError, match="another one has it open"), store(path, header()):
        pass
    with store(path, header()):
        pass  # the first one is done


def test_damaged_and_newer_files_are_refused_and_left_alone(path: Path) -> None:
    lines = written(path).read_text().splitlines(keepends=True)
    for text, message in (
        (lines[0] + "not json\n" + lines[1], "line 2"),
        (lines[0] + '{"key": 3}\n', "line 2"),
        (lines[0].replace('"schema_version": 1', '"schema_version": 99'), "99"),
    ):
        path.write_text(text)
        with pytest.raises(OutputError, match=message), store(path, header()):
            pass
        assert path.read_text() == text


def test_a_full_disk_is_one_clear_message_and_loses_nothing(path: Path) -> None:
    """The limit on a file's size stands for the end of the disk: the write stops in the middle of a line."""
    before = written(path).read_bytes()
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from advisor.core.errors import OutputError\n"
        "from advisor.experiments.store import RecordStore\n"
        "from advisor.experiments.validation.records import FORMAT\n"
        "from tests.experiments.validation.records import header, record\n"
        f"path, limit = Path({str(path)!r}), {len(before) + 100}\n"
        "with RecordStore(path, header(), FORMAT) as opened:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "    try:\n"
        "        opened.add(record('c', outcome='failed'))\n"
        "    except OutputError as failure:\n"
        "        print(failure.message, '|', 'c' in opened.records)\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert "must be writable, but" in done.stdout
    assert done.stdout.strip().endswith("| False")
    assert path.read_bytes() == before


def test_one_line_per_case(path: Path) -> None:
    lines = written(path).read_text().splitlines()
    assert len(lines) == 3
    assert [json.loads(line)["key"] for line in lines[1:]] == ["a", "b"]
    assert all(len(line) < 1600 for line in lines)


def test_a_file_that_is_only_read_is_left_as_it_is(path: Path) -> None:
    torn = written(path).read_bytes()[:-20]
    path.write_bytes(torn)
    path.chmod(0o444)
    assert read_records(path, FORMAT) == (header(), {"a": FIRST})
    assert path.read_bytes() == torn


def test_what_is_no_file_of_records_says_what_would_be(path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(InputError, match="there is none"):
        read_records(path, FORMAT)
    for text in ("", '{"something": "else"'):
        path.write_text(text)
        with pytest.raises(InputError, match="no complete line") as refused:
            read_records(path, FORMAT)
        assert "advisor validate" in (refused.value.fix or "")


@dataclasses.dataclass(frozen=True)
class Score:
    """A value of a grid without a format of its own."""

    accuracy: float
    curve: tuple[tuple[int, float], ...] = ()


def test_any_dataclass_is_the_value_of_a_record(path: Path) -> None:
    form = cell_format(Score, "advisor bench")
    first_line, score = GridHeader("suite", "cpu-test", {"torch": "2.13"}), Score(0.8, ((1, 0.5), (2, 0.8)))
    with RecordStore(path, first_line, form) as opened:
        opened.save(Cell("a", "first", None), CellResult("completed", score, seconds=1.23456))
        opened.save(Cell("b", "second", None), CellResult("over_time", reason="too slow"))
        assert (opened.is_done("a"), opened.is_done("b"), opened.is_done("c")) == (True, False, False)
    found = read_records(path, form)
    assert found[0] == first_line
    assert found[1]["a"] == CellRecord("a", "first", "completed", "", 1.235, score)
    assert found[1]["b"] == CellRecord("b", "second", "over_time", "too slow", 0.0, None)


def test_without_a_file_records_are_kept_in_memory() -> None:
    with RecordStore(None, GridHeader("suite", "cpu-test"), cell_format(Score, "advisor bench")) as opened:
        opened.save(Cell("a", "first", None), CellResult("completed", Score(0.8)))
        assert opened.is_done("a")
