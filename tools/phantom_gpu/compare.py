#!/usr/bin/env python3
"""Compares what the cost model predicts with what torch's allocator did on cards that are not there.

::

    python tools/phantom_gpu/compare.py                      # every record of calibration/phantom/memory.jsonl
    python tools/phantom_gpu/compare.py --only "qwen2-0.5b"  # those whose name says so
    python tools/phantom_gpu/compare.py --write --again      # keep them, for the table of the documentation

Predicted are the steps that were recorded: as many, with the same lengths. A prediction for a user stands for a whole
run instead (``advisor/costmodel/memory/batch_sequence.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from advisor.costmodel.memory.batch_sequence import RunShapes  # noqa: E402
from tools.phantom_gpu.record import EXPANDABLE, name_of, read_records, request_of, step_count  # noqa: E402
from tools.phantom_gpu.tables import PREDICTED, read_lines  # noqa: E402
from tools.phantom_gpu.world import card_table, make_card  # noqa: E402


@dataclass(frozen=True)
class RecordedShapes(RunShapes):
    """The very batches of a record."""

    history: tuple[tuple[str, tuple[int, int, int]], ...] = ()

    def steps(self) -> list[tuple[str, tuple[int, int, int]]]:
        return list(self.history)


@dataclass(frozen=True)
class Difference:
    """A prediction against a record, in shares of the record.

    Attributes:
        allocated_bytes, reserved_bytes: As predicted.
        allocated, reserved: Predicted / recorded - 1.
    """

    name: str
    allocated_bytes: int
    reserved_bytes: int
    allocated: float
    reserved: float


def recorded_shapes(line: dict[str, Any], rank: int) -> RecordedShapes:
    """What a recorded run's batches were."""
    from advisor.measurement.steps import mixed_lengths

    request = request_of(line["case"], line.get("with", ()))
    rows, longest = request.execution.micro_batch_size, request.seq_length
    stride = request.execution.gradient_accumulation_steps
    lengths = mixed_lengths(request)[::stride] or [longest] * step_count(request)
    evaluation = (rows, longest, rank) if request.evaluate else None
    history = [("training", (rows, length, rank)) for length in lengths]
    history += [("evaluation", evaluation)] if evaluation is not None else []
    return RecordedShapes((rows, longest, rank), evaluation, history=tuple(history))


def difference(line: dict[str, Any]) -> Difference:
    """What the cost model predicts for the recorded steps on their card, against what was recorded."""
    from advisor.costmodel.memory.estimate import estimate_memory
    from advisor.costmodel.memory.overheads import run_overheads
    from advisor.costmodel.memory.traced_run import TracedRun
    from advisor.experiments.validation.predict import GridDevice
    from advisor.hardware.profiles import load_profile
    from advisor.tracing.trace_store import TracedConfiguration

    card = make_card(line["card"])
    device = load_profile(card_table()[line["card"].partition(":")[0]]["profile"])
    model = GridDevice(device, None, card.memory).cost_model(card.memory)
    request = request_of(line["case"], line.get("with", ()))
    family = model.traces.get(request.model, request.strategy, request.execution)
    asked = TracedConfiguration(family, request.model, request.strategy, request.execution)
    shapes = recorded_shapes(line, asked.rank)
    run = TracedRun(
        family,
        shapes,
        request.model,
        model.device,
        overheads=run_overheads(asked, shapes, None),
        expandable_segments=EXPANDABLE in line.get("with", ()),
    )
    memory = estimate_memory(run)
    allocated_bytes, reserved_bytes = memory.allocated_bytes, memory.reserved_bytes or 0
    return Difference(
        name_of(line),
        allocated_bytes,
        reserved_bytes,
        allocated_bytes / line["allocated_bytes"] - 1,
        reserved_bytes / line["reserved_bytes"] - 1,
    )


def write(found: Difference) -> None:
    """Keep a prediction; an earlier one of the same record goes."""
    line = {"name": found.name, "allocated_bytes": found.allocated_bytes, "reserved_bytes": found.reserved_bytes}
    lines = [old for old in read_lines(PREDICTED) if old["name"] != found.name]
    lines = sorted([*lines, line], key=lambda kept: str(kept["name"]))
    PREDICTED.write_text("".join(json.dumps(kept) + "\n" for kept in lines))


def main() -> int:
    """Print predictions against records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--write", action="store_true", help=f"keep predictions in {PREDICTED.name}, where none is yet")
    parser.add_argument("--again", action="store_true", help="with --write: also where one is")
    options = parser.parse_args()
    print(f"{'case':75} {'allocated':>10} {'reserved':>10}")
    known = {line["name"] for line in read_lines(PREDICTED)} if options.write and not options.again else set()
    for line in read_records():
        if name_of(line) in known:
            continue
        if line["outcome"] == "completed" and options.only in name_of(line):
            found = difference(line)
            if options.write:
                write(found)
            print(f"{found.name:75} {found.allocated:+10.2%} {found.reserved:+10.2%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
