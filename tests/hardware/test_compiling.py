"""torch.compile tried with a limit, with stand-ins for the program that tries it."""

from __future__ import annotations

import pytest

from advisor.hardware import compiling
from advisor.hardware.backends import get_backend
from advisor.hardware.compiling import look_for_compiler, try_compile


@pytest.mark.parametrize(
    ("program", "value", "reason"),
    [
        ("print('finite')", "yes", "gradient"),
        ("print('not finite')", "no", "not finite"),
        ("raise RuntimeError('no C++ compiler')", "no", "no C++ compiler"),
        ("import os; os._exit(7)", "no", "exit code 7"),
        ("import time; time.sleep(30)", "unknown", "longer than"),
    ],
)
def test_every_end_of_the_trial_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, program: str, value: str, reason: str
) -> None:
    monkeypatch.setattr(compiling, "PROGRAM", program)
    found = try_compile("cpu", 1.0 if value == "unknown" else 20.0)
    assert found.value == value
    assert reason in found.reason


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in look_for_compiler(get_backend("cpu").runtime).reason
