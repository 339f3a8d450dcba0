"""The demo: probe, calibrate, recommend, run, compare. Says how long it will take, and does less on a slow machine.

It prints the plain advisor commands that it runs; the same commands work with your own model, data and budget. How fast
the machine is shows in the first step, which measures for a fixed time and needs the rest for starting up; every
further step is chosen so that all of it ends within ``LIMIT_S``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 360.0
"""The demo ends within this, downloads aside."""
RESERVE = 0.15
"""Of what is left: predictions of these lengths are rough."""

PROBE_FIXED_S, PROBE_WORK_S = 13.0, 7.0
"""A quick probe measures for 13 s on every machine; starting it took 7 s on two idle cores of an AMD EPYC server, which
is speed one below."""
CALIBRATE_FIXED_S, CALIBRATE_WORK_S = 35.0, 20.0
RECOMMEND_WORK_S = 6.0
"""Starting up and reading the data; each method is traced besides."""
METHOD_WORK_S = 3.0
PROBE_ROW_WORK_S = 0.005
"""A row's pass through the frozen model: ``recommend`` looks at the task for a tenth of its --time at most."""
PROBE_MOST_S = 60.0
RUN_WORK_S = 12.0
"""Of a run beside training: starting two processes, the profiled step, loading, saving."""
ROW_WORK_S = 0.0065
"""Training and evaluating a row of the demo for one epoch, of the slowest method."""
ALL_METHODS = ("full", "partial", "head", "lora", "high_rank_lora", "hira", "sparse_lora", "ia3")
EPOCHS = 2
FEWEST_ROWS = 96
"""Six optimizer steps an epoch."""


@dataclass(frozen=True)
class Level:
    """How much is done after calibrating.

    Attributes:
        train_rows, eval_rows: Of the data.
        evidence_s: For short training runs.
        methods: To look at; empty for all.
    """

    train_rows: int
    eval_rows: int
    evidence_s: int
    methods: tuple[str, ...] = ()

    def recommend_s(self, slowness: float) -> float:
        """Predicted length of ``advisor recommend``."""
        methods = len(self.methods or ALL_METHODS)
        probe_s = min(PROBE_MOST_S, slowness * PROBE_ROW_WORK_S * (self.train_rows + self.eval_rows))
        return slowness * (RECOMMEND_WORK_S + METHOD_WORK_S * methods) + probe_s + self.evidence_s

    def run_s(self, slowness: float) -> float:
        """Predicted length of ``advisor run``."""
        return slowness * (RUN_WORK_S + ROW_WORK_S * EPOCHS * (self.train_rows + self.eval_rows / 3))


LEVELS = (
    Level(1600, 800, 80),
    Level(1600, 800, 40),
    Level(1600, 400, 0),
    Level(1600, 400, 0, ("lora", "full", "partial", "head")),
    Level(800, 400, 0, ("lora", "full", "head")),
    Level(400, 200, 0, ("lora", "head")),
    Level(200, 100, 0, ("lora",)),
    Level(100, 50, 0, ("head",)),
)
"""From the whole demo to the least that shows anything."""


def calibrate_s(slowness: float) -> float:
    """Predicted length of ``advisor calibrate run --quick``."""
    return CALIBRATE_FIXED_S + CALIBRATE_WORK_S * slowness


def level_for(left_s: float, slowness: float) -> Level:
    """The largest level that fits; the least one if none does."""
    usable_s = left_s * (1 - RESERVE)
    fitting = (lv for lv in LEVELS if lv.recommend_s(slowness) + lv.run_s(slowness) <= usable_s)
    return next(fitting, LEVELS[-1])


class Quickstart:
    """One demo.

    Args:
        model: Folder of the demo model.
        output: Folder for plan and run.
        call: Runs a command and waits for it; raises when it fails.
        clock: Monotonic seconds.
        say: Prints a line.
        limit_s: The demo is to end within this.
    """

    def __init__(
        self,
        model: str,
        output: Path,
        *,
        call: Callable[[Sequence[str]], object],
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], object] = print,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.model, self.output, self.call, self.clock, self.say = model, output, call, clock, say
        self.limit_s = limit_s
        self.slowness = 1.0

    def run(self) -> None:
        """All steps."""
        self.began_s = self.clock()
        self.say("\n[quickstart] 1/4 measure this machine")
        self._learn(self._timed("probe", "--quick"), PROBE_FIXED_S, PROBE_WORK_S)
        self._calibrate()
        level = level_for(self._left_s(), self.slowness)
        self._tell_level(level)
        self.say("\n[quickstart] 3/4 recommend a strategy within 1 GiB")
        self._recommend(level)
        self._shorten_run(level)
        self.say("\n[quickstart] 4/4 train it and compare with the prediction")
        self._timed("run", str(self.plan), "--output", str(self.output / "run"))
        self.say(f"\n[quickstart] done in {_words(self.clock() - self.began_s)}")

    @property
    def plan(self) -> Path:
        """The plan that is trained in the end."""
        return self.output / "plan.json"

    def _calibrate(self) -> None:
        whole = calibrate_s(self.slowness)
        level = level_for(self._left_s() - whole, self.slowness)
        rest_s = level.recommend_s(self.slowness) + level.run_s(self.slowness)
        ends_s = self.clock() - self.began_s + whole + rest_s
        self.say(
            f"\n[quickstart] starting up took {self.slowness:.1f} times as long as on two idle server cores: the demo "
            f"will take about {_words(min(ends_s, self.clock() - self.began_s + self._left_s()))}"
        )
        if whole + rest_s > self._left_s():
            self.say("[quickstart] 2/4 left out, because the machine is slow: measuring the model's operators")
            return
        self.say("\n[quickstart] 2/4 measure the model's operators on it")
        self._learn(
            self._timed("calibrate", "run", self.model, "--quick"), CALIBRATE_FIXED_S, CALIBRATE_WORK_S, least=True
        )

    def _recommend(self, level: Level) -> None:
        self._timed(
            *("recommend", self.model, "--data", "movie-sentences", "--memory", "1GiB", "--time", "10min"),
            *("--max-train-rows", str(level.train_rows), "--max-eval-rows", str(level.eval_rows)),
            *("--epochs", str(EPOCHS), "--effective-batch-size", "16"),
            *(("--evidence", f"{level.evidence_s}s") if level.evidence_s else ()),
            *(("--methods", ",".join(level.methods)) if level.methods else ()),
            *("--output", str(self.plan), "--force"),
        )

    def _shorten_run(self, level: Level) -> None:
        """The plan says how long its run will take: with fewer rows where that is too long."""
        values = json.loads(self.plan.read_text(encoding="utf-8"))
        method = values["strategy"]["method"]
        total_s = ((values.get("predicted") or {}).get("time") or {}).get("total_s", 0.0)
        start_s = RUN_WORK_S * self.slowness
        usable_s = self._left_s() * (1 - RESERVE)
        if total_s + start_s <= usable_s:
            return
        again_s = self.slowness * (RECOMMEND_WORK_S + METHOD_WORK_S)
        share = max(0.0, usable_s - start_s - again_s) / total_s
        fewer = Level(
            max(FEWEST_ROWS, int(level.train_rows * share)),
            max(FEWEST_ROWS // 2, int(level.eval_rows * share)),
            0,
            (method,),
        )
        if fewer.train_rows >= level.train_rows:
            return
        self.say(
            f"[quickstart] that run would take {_words(total_s)}: planned again with {fewer.train_rows} training rows "
            "instead"
        )
        self._recommend(fewer)

    def _tell_level(self, level: Level) -> None:
        if level == LEVELS[0]:
            return
        whole = LEVELS[0]
        parts = [f"{level.train_rows} training rows (of {whole.train_rows})"]
        parts.append(f"{level.evidence_s} s of evidence" if level.evidence_s else "no short runs for evidence")
        parts += [f"only {', '.join(level.methods)}"] if level.methods else []
        self.say(f"[quickstart] shortened, because the machine is slow: {', '.join(parts)}")

    def _timed(self, *arguments: str) -> float:
        """Run an advisor command; returns its seconds."""
        self.say(shlex.join(["advisor", *arguments]))
        began_s = self.clock()
        self.call(["advisor", *arguments])
        return self.clock() - began_s

    def _learn(self, seconds: float, fixed_s: float, work_s: float, *, least: bool = False) -> None:
        """How slow the machine is, from a step whose length is known; ``least``: it was at least as slow as before."""
        seen = max(1.0, (seconds - fixed_s) / work_s)
        self.slowness = max(self.slowness, seen) if least else seen

    def _left_s(self) -> float:
        return self.limit_s - (self.clock() - self.began_s)


def _words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo with the advisor of this environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=".demo/models/minilm")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    options = parser.parse_args(arguments)

    def call(command: Sequence[str]) -> None:
        subprocess.run([sys.executable, "-m", *command], check=True)

    try:
        Quickstart(options.model, options.output, call=call, say=lambda line: print(line, flush=True)).run()
    except subprocess.CalledProcessError as failure:
        return failure.returncode
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
