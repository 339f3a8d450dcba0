"""The demo predicts its length and shortens itself: on machines of any speed, by an injected clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def quickstart() -> ModuleType:
    return load_tool("quickstart")


class Machine:
    """Takes as long for each command as a machine of this speed would; its clock is the test's."""

    def __init__(self, slowness: float, plan: Path, *, run_factor: float = 1.0) -> None:
        self.slowness, self.plan, self.run_factor = slowness, plan, run_factor
        self.now_s = 0.0
        self.commands: list[list[str]] = []

    def call(self, command: Sequence[str]) -> None:
        words = list(command)
        self.commands.append(words)
        self.now_s += {
            "probe": lambda: 13 + 7 * self.slowness,
            "calibrate": lambda: 35 + 20 * self.slowness,
            "recommend": lambda: self._recommend(words),
            "run": lambda: 12 * self.slowness + json.loads(self.plan.read_text())["predicted"]["time"]["total_s"],
        }[words[1]]()

    def _recommend(self, words: list[str]) -> float:
        rows, held_out = (int(words[words.index(name) + 1]) for name in ("--max-train-rows", "--max-eval-rows"))
        methods = words[words.index("--methods") + 1].split(",") if "--methods" in words else ["lora"] * 8
        total_s = self.run_factor * self.slowness * 0.0065 * 2 * (rows + held_out / 3)
        values = {"strategy": {"method": methods[0]}, "predicted": {"time": {"total_s": total_s}}}
        self.plan.write_text(json.dumps(values))
        evidence_s = float(words[words.index("--evidence") + 1].rstrip("s")) if "--evidence" in words else 0.0
        probe_s = min(60.0, 0.005 * self.slowness * (rows + held_out))
        return self.slowness * (6 + 3 * len(methods)) + probe_s + evidence_s


def played(module: ModuleType, folder: Path, slowness: float, **machine: float) -> tuple[Machine, list[str]]:
    played_on, said = Machine(slowness, folder / "plan.json", **machine), list[str]()
    module.Quickstart("minilm", folder, call=played_on.call, clock=lambda: played_on.now_s, say=said.append).run()
    return played_on, said


def test_a_usual_machine_gets_the_whole_demo(quickstart: ModuleType, tmp_path: Path) -> None:
    machine, said = played(quickstart, tmp_path, 1.0)
    assert [words[1] for words in machine.commands] == ["probe", "calibrate", "recommend", "run"]
    recommend = machine.commands[2]
    assert recommend[recommend.index("--evidence") + 1] == "80s"
    assert recommend[recommend.index("--max-train-rows") + 1] == "1600"
    assert "--methods" not in recommend
    assert not any("shortened" in line for line in said)
    assert machine.now_s < 240


@pytest.mark.parametrize("run_factor", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("slowness", [1.0, 1.5, 2.0, 2.3, 3.0, 4.0, 5.0])
def test_any_machine_ends_within_six_minutes(
    quickstart: ModuleType, tmp_path: Path, slowness: float, run_factor: float
) -> None:
    machine, said = played(quickstart, tmp_path, slowness, run_factor=run_factor)
    assert machine.now_s <= 360
    assert machine.commands[-1][1] == "run"
    text = "\n".join(said)
    assert "the demo will take about" in text
    assert slowness < 3 or "because the machine is slow" in text


def test_the_length_that_is_said_is_the_length(quickstart: ModuleType, tmp_path: Path) -> None:
    for slowness in (1.0, 2.0, 3.0, 5.0):
        machine, said = played(quickstart, tmp_path, slowness)
        line = next(line for line in said if "will take about" in line)
        minutes, seconds = line.split("about ")[1].replace(" min ", " ").replace(" s", "").split()
        assert machine.now_s == pytest.approx(60 * int(minutes) + int(seconds), rel=0.2)


def test_a_run_that_would_be_too_long_gets_fewer_rows(quickstart: ModuleType, tmp_path: Path) -> None:
    machine, said = played(quickstart, tmp_path, 2.0, run_factor=6.0)
    assert [words[1] for words in machine.commands].count("recommend") == 2
    assert any("planned again with" in line for line in said)
    assert machine.now_s <= 360


def test_a_machine_that_is_hopelessly_slow_still_gets_a_run(quickstart: ModuleType, tmp_path: Path) -> None:
    machine, said = played(quickstart, tmp_path, 12.0)
    done = [words[1] for words in machine.commands]
    assert (done[0], done[-1]) == ("probe", "run") and "calibrate" not in done
    assert any("2/4 left out" in line for line in said)
