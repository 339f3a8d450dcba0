"""Records survive a kill, a torn line, a full disk and a second writer; nothing that was written is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.errors import OutputError
from advisor.experiments.validation.journal import Journal, parse_journal
from tests.experiments.validation.records import MIB, header, predicted, record

FIRST = record("a", promised=predicted(100 * MIB), allocated_bytes=101 * MIB)
SECOND = record("b", promised=predicted(9 * 2**30, fits=False), outcome="out_of_memory")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "records.jsonl"


def written(path: Path) -> Path:
    with Journal(path, header()) as journal:
        journal.append(FIRST)
        journal.append(SECOND)
    return path


def test_records_come_back_as_they_were(path: Path) -> None:
    with Journal(written(path), header()) as journal:
        assert journal.records == {"a": FIRST, "b": SECOND}
        assert journal.header == header()


def test_the_header_of_the_file_counts_not_the_new_one(path: Path) -> None:
    later = dataclasses.replace(header(), started_at="2030-01-01T00:00:00+00:00")
    with Journal(written(path), later) as journal:
        assert journal.header.started_at == header().started_at


def test_a_case_that_occurs_twice_counts_with_its_last_line(path: Path) -> None:
    again = dataclasses.replace(FIRST, seconds=7.0)
    with Journal(written(path), header()) as journal:
        journal.append(again)
    with Journal(path, header()) as journal:
        assert journal.records["a"] == again


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_torn_last_line_goes_away_and_the_next_record_stands_alone(path: Path, cut: int) -> None:
    whole = written(path).read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, header()) as journal:
        assert list(journal.records) == ["a"]
        journal.append(SECOND)
    assert path.read_bytes() == whole


def test_a_torn_header_begins_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"kind": "mem')
    with Journal(path, header()) as journal:
        journal.append(FIRST)
    assert parse_journal(path.read_text(), "it") == (header(), {"a": FIRST})


def test_starting_over_moves_the_old_records_aside(path: Path) -> None:
    whole = written(path).read_bytes()
    with Journal(path, header(), resume=False) as journal:
        assert not journal.records
    assert path.with_name("records.jsonl.old").read_bytes() == whole


def test_two_validations_do_not_write_the_same_file(path: Path) -> None:
    with Journal(path, header()), pytest.raises(OutputError, match="another one has it open"), Journal(path, header()):
        pass
    with Journal(path, header()):
        pass  # the first one is done


def test_damaged_and_newer_files_are_refused_and_left_alone(path: Path) -> None:
    lines = written(path).read_text().splitlines(keepends=True)
    for text, message in (
        (lines[0] + "not json\n" + lines[1], "line 2"),
        (lines[0] + '{"key": 3}\n', "line 2"),
        (lines[0].replace('"schema_version": 1', '"schema_version": 99'), "99"),
    ):
        path.write_text(text)
        with pytest.raises(OutputError, match=message), Journal(path, header()):
            pass
        assert path.read_text() == text


def test_a_full_disk_is_one_clear_message_and_loses_nothing(path: Path) -> None:
    """The limit on a file's size stands for the end of the disk: the write stops in the middle of a line."""
    before = written(path).read_bytes()
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from advisor.core.errors import OutputError\n"
        "from advisor.experiments.validation.journal import Journal\n"
        "from tests.experiments.validation.records import header, record\n"
        f"path, limit = Path({str(path)!r}), {len(before) + 100}\n"
        "with Journal(path, header()) as journal:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "    try:\n"
        "        journal.append(record('c', outcome='failed'))\n"
        "    except OutputError as failure:\n"
        "        print(failure.message, '|', 'c' in journal.records)\n"
    )
    repository = Path(__file__).parents[3]
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
