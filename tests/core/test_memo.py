"""Answers kept on disk, and the versions of code that they depend on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core import code_version as versions
from advisor.core.code_version import code_version, source_digest
from advisor.core.errors import InputError
from advisor.core.memo import DATABASE, recall
from advisor.core.store import USER_DATA_VARIABLE, user_data_dir

CODE = '"""Module."""\n\nLIMIT = 3\n"""What is allowed."""\n\n\ndef double(x):\n    """Twice."""\n    return 2 * x\n'


def test_sets_have_one_digest_in_every_process() -> None:
    program = (
        "from advisor.core.code_version import source_digest\n"
        'print(source_digest(\'def known(name):\\n    return name in {"a", "b", ("c", 1), "d", 2.5, "e"}\'))'
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1 and found.pop().strip()


def test_rewording_a_docstring_keeps_the_digest() -> None:
    reworded = CODE.replace("Twice.", "Two times.").replace("What is allowed.", "Most.").replace("Module.", "M.")
    assert source_digest(CODE) == source_digest(reworded + "\n# a comment\n")


@pytest.mark.parametrize("change", [("LIMIT = 3", "LIMIT = 4"), ("2 * x", "x * 2"), ("def double", "def twice")])
def test_a_changed_statement_changes_the_digest(change: tuple[str, str]) -> None:
    assert source_digest(CODE) != source_digest(CODE.replace(*change))


def test_a_function_of_a_docstring_alone_has_a_digest() -> None:
    assert source_digest('def nothing():\n    """Does nothing."""\n')


def test_a_package_has_another_version_after_its_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_plugin"
    package.mkdir()
    (package / "__init__.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)

    def version() -> str:
        versions.code_version.cache_clear()
        return code_version(("some_plugin",))

    first = version()
    (package / "__init__.py").write_text(CODE.replace("Twice.", "Two times, as it were."))
    assert version() == first
    (package / "__init__.py").write_text(CODE.replace("2 * x", "3 * x"))
    assert version() != first


def test_an_answer_is_computed_once() -> None:
    asked = []

    def compute() -> dict[str, object]:
        asked.append(1)
        return {"rank": 8, "names": ("query", "value")}

    answers = [recall("largest rank", {"model": "tiny"}, compute) for _ in range(3)]
    assert answers == [{"rank": 8, "names": ["query", "value"]}] * 3
    assert len(asked) == 1


def test_other_questions_get_other_answers() -> None:
    assert [recall("twice", number, lambda number=number: 2 * number) for number in (1, 2, 1)] == [2, 4, 2]


def test_refusals_are_not_kept() -> None:
    def refuse() -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        recall("refused", 1, refuse)
    assert recall("refused", 1, lambda: "yes") == "yes"


def test_a_damaged_database_is_replaced() -> None:
    recall("kept", 1, lambda: 1)
    (user_data_dir() / DATABASE).write_bytes(b"not a database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(user_data_dir() / DATABASE).execute("SELECT * FROM answers")
    assert recall("kept", 2, lambda: 2) == 2
    assert recall("kept", 3, lambda: 3) == 3
    kept = sqlite3.connect(user_data_dir() / DATABASE).execute("SELECT answer FROM answers").fetchall()
    assert ("3",) in kept


def test_without_a_writable_folder_the_answer_comes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv(USER_DATA_VARIABLE, str(blocked))
    assert recall("blocked", 1, lambda: [1]) == [1]
