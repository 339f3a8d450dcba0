"""bitsandbytes tried in a process of its own: answers, absence, and deaths of that process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from advisor.hardware.trials import finish_trial, try_bitsandbytes

ANSWER = '{"kind": "fact", "name": "bitsandbytes", "value": "yes", "reason": "NF4"}'


def trial(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_answers_are_findings_and_chatter_is_not() -> None:
    assert finish_trial(trial(f"print('hello'); print({ANSWER!r})")) == [
        {"kind": "fact", "name": "bitsandbytes", "value": "yes", "reason": "NF4"}
    ]


def test_a_death_is_an_answer_beside_what_worked_before() -> None:
    found = finish_trial(trial(f"import os; print({ANSWER!r}, flush=True); os.kill(os.getpid(), 11)"))
    assert [finding["value"] for finding in found] == ["yes", "no"]
    assert "SIGSEGV" in found[1]["reason"]


def test_a_trial_that_hangs_is_ended() -> None:
    found = finish_trial(trial("import time; time.sleep(60)"), limit_s=0.5)
    assert found[0]["value"] == "no"
    assert "longer than" in found[0]["reason"]


def test_without_the_package_that_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    [(name, found)] = list(try_bitsandbytes("cpu", "float32"))
    assert (name, found.value) == ("bitsandbytes", "no")
    assert "not importable" in found.reason
