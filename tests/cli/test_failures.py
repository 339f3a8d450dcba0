"""Every way for a command to end, and what the user sees of it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_no_mistake_of_the_advisor(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_failure(OSError(number, "no room", "/data/plan.json"), as_json=False) == 2
    printed = capsys.readouterr().err
    assert "/data/plan.json is not: no room" in printed and "TMPDIR" in printed


def test_an_interrupt_inside_generated_code_leaves_with_130_too(tmp_path: Path) -> None:
    """`python -m` would die of the signal: imports make dataclasses by exec, and Ctrl-C often falls into imports."""
    (tmp_path / "stopping.py").write_text(
        "from advisor.cli.app import app\n"
        "app.callback = lambda: exec('raise KeyboardInterrupt')\n"
        "app(['doctor'], prog_name='advisor')\n"
    )
    command = [sys.executable, "-m", "stopping"]
    stopped = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert stopped.returncode == 130 and "interrupted" in stopped.stderr


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


@pytest.mark.parametrize("moment", ["while it is imported", "while it answers"])
def test_ctrl_c_outside_of_the_command_line_leaves_without_a_traceback(moment: str) -> None:
    """Before there is a command line to answer it, and once more while it does."""
    stops = {
        "while it is imported": "sys.meta_path.insert(0, Stops())",
        "while it answers": "sys.modules['advisor.cli.app'] = types.SimpleNamespace(app=stop)",
    }
    program = f"""
import sys, types
import advisor.__main__

def stop(**_):
    raise KeyboardInterrupt

class Stops:
    def find_spec(self, name, *rest):
        if name == "advisor.cli.app":
            stop()

{stops[moment]}
advisor.__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted: stopped by Ctrl-C\n")
