"""The checklist for a GPU: its order, its limit, what it continues with, and the file to send back."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.loading import load_tool

TOOL = Path(__file__).parents[2] / "tools" / "gpu_checklist.py"


@pytest.fixture(scope="module")
def checklist() -> ModuleType:
    return load_tool("gpu_checklist")


class Card:
    """Answers commands as the advisor does; the clock is the test's."""

    def __init__(self, folder: Path, *, fails: str = "", code: int = 2, slow: float = 1.0) -> None:
        self.folder, self.fails, self.code, self.slow = folder, fails, code, slow
        self.now_s = 0.0
        self.commands: list[list[str]] = []

    def call(self, command: Sequence[str], output: Path | None) -> int:
        words = list(command)
        self.commands.append(words)
        self.now_s += {"doctor": 10, "probe": 60, "calibrate": 60, "validate": 5}[words[0]] * self.slow
        if self.fails and words[0] == self.fails:
            return self.code
        if output is not None:
            output.write_text("{}")
        if words[:2] == ["calibrate", "export"]:
            Path(words[2]).write_text("{}")
        if "--time-limit" in words:
            self.now_s += float(words[words.index("--time-limit") + 1].rstrip("s"))
            shard = words[words.index("--shard") + 1][0]
            with (self.folder / "memory-cuda-card.jsonl").open("a") as records:
                records.write(f'{{"case": "bert full {shard}"}}\n')
        return 0

    @property
    def names(self) -> list[str]:
        return [words[0] for words in self.commands]

    @property
    def limits_s(self) -> list[float]:
        return [float(w[w.index("--time-limit") + 1].rstrip("s")) for w in self.commands if "--time-limit" in w]


def played(module: ModuleType, card: Card) -> tuple[int, list[str]]:
    said: list[str] = []
    made = module.Checklist(card.folder, call=card.call, clock=lambda: card.now_s, say=said.append)
    return made.run(), said


def test_a_call_ends_within_its_limit_and_leaves_one_file(checklist: ModuleType, tmp_path: Path) -> None:
    card = Card(tmp_path / "card")
    code, said = played(checklist, card)
    assert code == 0
    assert card.names[:4] == ["doctor", "probe", "calibrate", "calibrate"]
    assert card.now_s <= checklist.LIMIT_S
    assert card.limits_s and max(card.limits_s) <= checklist.SHARD_LIMIT_S
    with zipfile.ZipFile(tmp_path / "card.zip") as packed:
        held = set(packed.namelist())
    assert {"doctor.json", "probe.json", "calibrate.json", "calibration.json", "memory-cuda-card.jsonl"} <= held
    assert "2 cases" in said[-1] and any("parts are left" in line for line in said)


def test_the_next_call_measures_what_is_missing(checklist: ModuleType, tmp_path: Path) -> None:
    first = Card(tmp_path / "card")
    played(checklist, first)
    again = Card(tmp_path / "card")
    code, said = played(checklist, again)
    assert code == 0 and set(again.names) == {"validate"}
    assert sum("measured before" in line for line in said) == 4
    assert len(again.limits_s) == 2, "in 15 minutes, two parts of 8 and 6 minutes"


@pytest.mark.parametrize(("step", "code"), [("probe", 2), ("calibrate", 130), ("validate", 130)])
def test_a_step_that_fails_ends_the_call_with_its_code(
    checklist: ModuleType, tmp_path: Path, step: str, code: int
) -> None:
    card = Card(tmp_path / "card", fails=step, code=code)
    assert played(checklist, card)[0] == code
    assert card.names[-1] == step
    assert not (tmp_path / "card.zip").exists()
    assert not list((tmp_path / "card").glob("*validate*"))


def test_a_slow_machine_begins_no_part_that_it_has_no_time_for(checklist: ModuleType, tmp_path: Path) -> None:
    card = Card(tmp_path / "card", slow=5.0)
    code, said = played(checklist, card)
    assert code == 0 and not card.limits_s
    assert any("3 of 3 parts are left" in line for line in said)


def test_help_says_what_it_does() -> None:
    shown = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True, check=True).stdout
    assert "send back one file" in shown and "--folder" in shown
