"""torch.compile tried with a limit, with stand-ins for the program that tries it."""

from __future__ import annotations

import pytest

from advisor.hardware.backends import get_backend
from advisor.hardware.trials import try_compile


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
def test_every_end_of_the_trial_is_an_answer(program: str, value: str, reason: str) -> None:
    found = try_compile("cpu", 1.0 if value == "unknown" else 20.0, program)
    assert found.value == value
    assert reason in found.reason


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    refusal = get_backend("cpu").runtime.compile_refusal()
    assert refusal is not None and "C++ compiler" in refusal[0]
