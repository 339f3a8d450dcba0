"""Every way for a command to end, and what the user sees of it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from advisor.cli.output import report_failure
from advisor.core.errors import InterruptedByUser, NothingFitsError, RunFailed


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RunFailed("out of memory"), 1),
        (NothingFitsError("nothing fits"), 3),
        (InterruptedByUser("stopped", fix="go on"), 130),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("what?"), 2),
        (click.exceptions.Exit(0), 0),
        (SystemExit(4), 4),
        (ValueError("surprise"), 1),
    ],
)
def test_exit_codes(failure: BaseException, code: int) -> None:
    assert report_failure(failure, as_json=False) == code


def test_an_unexpected_failure_is_an_apology_with_a_log(capsys: pytest.CaptureFixture[str], advisor_home: Path) -> None:
    try:
        raise ZeroDivisionError("division by zero\nand a second line")
    except ZeroDivisionError as failure:
        assert report_failure(failure, as_json=False) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "ZeroDivisionError: division by zero" in printed
    log = next(word for word in printed.split() if word.endswith(".log;"))[:-1]
    assert "Traceback" in Path(log).read_text()


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    report_failure(InterruptedByUser("the run was stopped", fix="`advisor run p --resume`"), as_json=False)
    assert capsys.readouterr().err == "interrupted: the run was stopped\nfix: `advisor run p --resume`\n"


def test_the_traceback_is_there_for_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_DEBUG", "1")
    try:
        raise KeyError("lost")
    except KeyError as failure:
        report_failure(failure, as_json=True)
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert json.loads(printed.out)["error"] == "unexpected"
