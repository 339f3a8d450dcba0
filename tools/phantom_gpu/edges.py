#!/usr/bin/env python3
"""Runs configurations at the edge of a card's memory on cards that are not there: does what fits run?

::

    python tools/phantom_gpu/edges.py --draw      # draw what edges.jsonl lacks, with what is predicted
    python tools/phantom_gpu/edges.py             # run those that have no outcome yet
    python tools/phantom_gpu/edges.py --check     # predict all of them again, against their outcomes

A configuration is drawn from ``KINDS`` and ``CARDS`` with a fixed seed: rows and length such that the memory that the
planner wants to be sure of lies within 3 % of the card's capacity; of some, so far beyond it that even the prediction
without its margin is more than a margin too large. It runs as a recorded case does, three steps of the
real Trainer, on a card of that capacity from which its context is taken.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.phantom_gpu.record import run_cases  # noqa: E402
from tools.phantom_gpu.run import default_environment  # noqa: E402
from tools.phantom_gpu.tables import EDGES, read_lines  # noqa: E402
from tools.phantom_gpu.world import card_table, make_card  # noqa: E402

NEAR = 0.03
DRAWN = {"near": (44, 20261129), "beyond": (12, 20261130)}
"""How many are drawn, and from what seed."""
CARDS = ("rtx-3090:memory=7.6GiB", "t4", "rtx-4090", "a100-80gb")
"""Of 8 GB (what is left of them, with an RTX 3090's kernels), 16, 24 and 80 GB."""
KINDS = (
    ("distilbert-base full", "", (64, 512)),
    ("bert-base full", "amp-fp16", (64, 512)),
    ("bert-base lora", "amp-fp16", (64, 512)),
    ("bert-base full", "checkpointed", (128, 512)),
    ("roberta-large partial", "", (64, 512)),
    ("roberta-large full", "8bit", (64, 512)),
    ("gpt2 full", "", (128, 1024)),
    ("gpt2 lora", "amp-fp16", (128, 1024)),
    ("qwen2-0.5b lora", "bf16", (256, 2048)),
    ("qwen2-0.5b full", "bf16 checkpointed", (256, 2048)),
    ("llama-3.2-1b lora", "bf16 checkpointed", (256, 2048)),
)
"""Model and method, switches, and between what lengths."""


@dataclass(frozen=True)
class Need:
    """What the planner says of a configuration on a card.

    Attributes:
        required_bytes: The least that the card must have, by the prediction.
        needed_bytes: What it must have to be called fitting: the prediction and its margin.
        capacity_bytes: What it has.
    """

    required_bytes: int
    needed_bytes: int
    capacity_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.capacity_bytes

    @property
    def margin(self) -> float:
        """In shares of the capacity."""
        return (self.needed_bytes - self.required_bytes) / self.capacity_bytes

    @property
    def distance(self) -> float:
        """How far what is needed lies from the capacity, in shares of it; above 0 it does not fit."""
        return self.needed_bytes / self.capacity_bytes - 1

    @property
    def surely_too_large(self) -> bool:
        """Refused by more than the margin: the prediction itself is beyond the capacity."""
        return self.required_bytes > self.capacity_bytes + (self.needed_bytes - self.required_bytes)


class Planner:
    """Predicts on cards; one cost model for each, so that traces are shared."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}

    def _model(self, spec: str) -> Any:
        from advisor.experiments.validation.predict import GridDevice
        from advisor.hardware.profiles import load_profile

        if spec not in self._models:
            card, device = make_card(spec), load_profile(card_table()[spec.partition(":")[0]]["profile"])
            model = GridDevice(device, None, card.memory).cost_model(card.memory)
            for other in self._models.values():
                if other.traces.shared_by == model.traces.shared_by:
                    model.traces = other.traces
            self._models[spec] = model
        return self._models[spec]

    def need(self, spec: str, case: str) -> Need:
        """The exact prediction, as the planner makes it."""
        from advisor.core.budget import Budget
        from advisor.experiments.validation.cases import case_of
        from advisor.experiments.validation.predict import configure_case

        model, config = self._model(spec), configure_case(case_of(case))
        memory = model.memory(config.spec, config.strategy, config.execution, same_length=config.same_length)
        needed = memory.quantile_bytes(Budget().safety_level)
        return Need(memory.required_bytes, round(needed), model.device.memory_bytes)

    def roughly(self, spec: str, case: str) -> float:
        """The same without a replay: its size grows with the configuration's as the exact one does."""
        from advisor.experiments.validation.cases import case_of
        from advisor.experiments.validation.predict import configure_case

        model, config = self._model(spec), configure_case(case_of(case))
        bound = model.bound_memory(config.spec, config.strategy, config.execution, same_length=config.same_length)
        return float(bound.typical.allocated_bytes)


def draw(planner: Planner, rng: random.Random, where: str) -> tuple[str, str, Need] | None:
    """A configuration near a card's capacity or beyond it; ``None`` where there is none."""
    spec = rng.choice(CARDS)
    name, switches, (low, high) = rng.choice(KINDS)
    length, offset_share = 8 * rng.randint(low // 8, high // 8), rng.uniform(-NEAR, NEAR)
    capacity = make_card(spec).memory
    if spec == "t4" and "bf16" in switches:
        return None

    def case(rows: int, length: int) -> str:
        return f"{name} {rows}x{length} {switches}".strip()

    base, rows = planner.roughly(spec, case(2, length)), 8
    slope = (planner.roughly(spec, case(10, length)) - base) / 8
    exact, target = None, 1 + offset_share
    for _ in range(4):
        offset = 0.0 if exact is None else exact.needed_bytes - planner.roughly(spec, case(rows, length))
        rows = round(2 + (target * capacity - offset - base) / slope)
        if rows < 2:
            return None
        exact = planner.need(spec, case(rows, length))
        if where == "beyond":
            target = 1 + 2 * exact.margin + NEAR + offset_share
        beyond = exact.surely_too_large and exact.distance <= 4 * NEAR
        if beyond if where == "beyond" else abs(exact.distance) <= NEAR:
            return spec, case(rows, length), exact
    return None


def draw_all() -> int:
    """Draw configurations that differ until there are enough, and write them with their predictions."""
    planner, lines = Planner(), read_lines(EDGES)
    known = {(line["card"], line["case"]) for line in lines}
    for where, (number, seed) in DRAWN.items():
        rng, found = random.Random(seed), sum(line["drawn"] == where for line in lines)
        while found < number:
            drawn = draw(planner, rng, where)
            if drawn is None or drawn[:2] in known:
                continue
            card, case, need = drawn
            found += 1
            known.add((card, case))
            lines.append({"card": card, "case": case, "drawn": where, **vars(need), "outcome": None})
            _write(lines)
            print(f"{where} {found:3} {card} {case}: {need.distance:+.1%}", flush=True)
    return 0


def need_of(line: dict[str, Any]) -> Need:
    """What was predicted when a line was written."""
    return Need(line["required_bytes"], line["needed_bytes"], line["capacity_bytes"])


def _write(lines: list[dict[str, Any]]) -> None:
    EDGES.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_all(environment: Path) -> int:
    """Run what has no outcome yet."""
    open_lines: dict[str, list[dict[str, Any]]] = {}
    lines = read_lines(EDGES)
    for line in lines:
        if line["outcome"] is None:
            open_lines.setdefault(line["card"], []).append(line)
    for card, group in open_lines.items():
        by_case = {line["case"]: line for line in group}
        for found in run_cases(card, [(case, []) for case in by_case], environment):
            line = by_case[found["case"]]
            line["outcome"] = found["outcome"]
            if found["outcome"] == "completed":
                line |= {"held_bytes": found["device_bytes"], "retries": found["allocator_retries"]}
            else:
                line["reason"] = re.sub(r"\s+", " ", found["reason"])[:160]
            _write(lines)
            print(f"{card} {line['case']}: {need_of(line).distance:+.1%}, {line['outcome']}", flush=True)
    return 0


def check() -> int:
    """Predict every line again; returns 1 where something that is called fitting has run out of memory."""
    planner, lines = Planner(), read_lines(EDGES)
    for line in lines:
        line |= vars(planner.need(line["card"], line["case"]))
        print(f"{line['card']} {line['case']}: {need_of(line).distance:+.1%}, {line['outcome']}", flush=True)
    _write(lines)
    return int(any(false_fit(line) for line in lines))


def false_fit(line: dict[str, Any]) -> bool:
    """Called fitting, but it ran out of memory."""
    return need_of(line).fits and line["outcome"] == "out_of_memory"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw the configurations anew")
    parser.add_argument("--check", action="store_true", help="predict them again")
    parser.add_argument("--environment", type=Path, default=default_environment())
    options = parser.parse_args()
    if options.draw:
        return draw_all()
    return check() if options.check else run_all(options.environment.resolve())


if __name__ == "__main__":
    sys.exit(main())
