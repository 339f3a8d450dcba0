#!/usr/bin/env python3
"""Records what torch's caching allocator does with fine-tuning configurations, on cards that are not there.

::

    python tools/phantom_gpu/record.py                       # the cases of cases.json that are not recorded yet
    python tools/phantom_gpu/record.py --only "qwen2-0.5b"   # of these, those whose text says so
    python tools/phantom_gpu/record.py --compare             # predictions against the records, as a table

A case is one of the kind that ``advisor validate`` runs (``advisor/experiments/validation/cases.py``) on a card: three
steps of the real Trainer in a process of its own. Each becomes one line of ``memory.jsonl``: the allocator's own peaks
after every step, its segments at the end, the driver's figure. The stream of requests that led there goes to
``streams/``: the allocator model is replayed against it. A line is written as soon as its case is done, so an
interrupted recording goes on with the same command; ``--again`` replaces lines.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.phantom_gpu.run import default_environment  # noqa: E402
from tools.phantom_gpu.world import Stage, World, card_table, make_card  # noqa: E402

CASES = Path(__file__).with_name("cases.json")
RECORDS = ROOT / "calibration" / "phantom"
MARK = "phantom-record "
"""Begins the line in which the process on the phantom card hands over a record."""
MOST_EVENTS = 4_000_000
STEPS, WARMUP_STEPS = 2, 1


@dataclass(frozen=True)
class Recorded:
    """The allocator's request stream, as ``tools`` and tests replay it.

    Attributes:
        sizes: Requested bytes, by number of the allocation.
        events: Numbers in order; ``~number`` frees; ``None`` returns the cached segments to the driver.
        reserved: After which event the reserve had changed, and to how many bytes.
        begin: The event at which training begins (peaks are reset there).
    """

    sizes: list[int]
    events: list[int | None]
    reserved: list[tuple[int, int]]
    begin: int


def stream_of(trace: Iterable[dict[str, Any]]) -> Recorded:
    """The stream in torch's allocator history.

    A request that needs a new segment is preceded by ``segment_alloc``, so that the reserve is that after the next
    allocation. Segments are returned by ``empty_cache`` (``segment_free`` outside of a request).
    """
    sizes: list[int] = []
    events: list[int | None] = []
    reserved: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    held, begin, grown = 0, 0, False
    for entry in trace:
        action = entry["action"]
        if action == "alloc":
            numbers[entry["addr"]] = len(sizes)
            events.append(len(sizes))
            sizes.append(entry["size"])
            if grown:
                reserved.append((len(events), held))
                grown = False
        elif action == "free_completed":
            events.append(~numbers.pop(entry["addr"]))
        elif action in ("segment_alloc", "segment_map"):
            held, grown = held + entry["size"], True
        elif action in ("segment_free", "segment_unmap"):
            held -= entry["size"]
            if events and events[-1] is None:
                reserved.pop()
            else:
                events.append(None)
            reserved.append((len(events), held))
        elif action == "snapshot":
            begin = len(events)
    return Recorded(sizes, events, reserved, begin)


def measure(text: str) -> dict[str, Any]:
    """Run one case on the phantom card of this process; returns its record and stream.

    Raises:
        InputError: the case cannot be built.
    """
    import torch
    from transformers import TrainerCallback

    from advisor.experiments.validation.cases import case_of
    from advisor.experiments.validation.measure import CudaFigures, ProcessFigure, current_uuid
    from advisor.experiments.validation.predict import configure_case
    from advisor.hardware.backends import get_backend
    from advisor.measurement.steps import StepRequest, run_steps

    class Steps(TrainerCallback):
        peaks: list[tuple[int, int]] = []  # noqa: RUF012 - one run, one process

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.memory._snapshot()  # leaves an entry in the history

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.peaks.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
            if len(self.peaks) == expected:
                self.segments = Counter(int(segment["total_size"]) for segment in torch.cuda.memory_snapshot())
                self.trace = torch.cuda.memory._snapshot()["device_traces"][0]

    case = case_of(text)
    config = configure_case(case)
    stride = 2 if case.mixed_lengths else 1
    expected = case.mixed_lengths + WARMUP_STEPS + STEPS * stride
    request = StepRequest(
        config.spec,
        config.strategy,
        config.execution,
        config.execution.max_seq_length,
        steps=STEPS,
        warmup_steps=WARMUP_STEPS,
        mixed_length_steps=case.mixed_lengths,
        device_type="cuda",
    )
    figure = ProcessFigure(current_uuid)
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(context=None, max_entries=MOST_EVENTS)
    torch.zeros(1, device="cuda")  # makes the context
    watch, steps = CudaFigures(figure, get_backend("cuda").runtime), Steps()
    run_steps(request, callbacks=(watch, steps))
    figures = watch.figures()
    kept = list(steps.trace)
    while kept and kept[-1]["action"] == "snapshot":
        kept.pop()
    stream = stream_of(kept)
    return {
        "allocated_bytes": figures.allocated_bytes,
        "reserved_bytes": figures.reserved_bytes,
        "device_bytes": figures.device_bytes,
        "allocator_retries": figures.allocator_retries,
        "peaks_by_step": steps.peaks,
        "segments": {str(size): count for size, count in sorted(steps.segments.items())},
        "requests": len(stream.sizes),
        "stream": vars(stream),
    }


def inside(texts: list[str]) -> None:
    """In a process on a phantom card: measure cases one by one, each in a fork of a process that has imported."""
    from advisor.measurement.isolation import isolated
    from tools.phantom_gpu import record as importable

    for text in texts:
        result = isolated(importable.measure, text, timeout_s=1800.0, log_path=Path(os.environ["PHANTOM_LOG"]))
        line: dict[str, Any] = {"case": text, "outcome": result.outcome}
        if result.outcome == "completed" and result.error is None:
            line |= result.value or {}
        else:
            line |= {
                "outcome": "refused" if result.error else result.outcome,
                "reason": str(result.error or result.reason),
            }
        print(MARK + json.dumps(line), flush=True)


def versions(python: Path) -> dict[str, str]:
    """Versions of what runs in an environment."""
    names = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)
    return found


def read_records(folder: Path = RECORDS) -> list[dict[str, Any]]:
    """The lines of ``memory.jsonl``."""
    file = folder / "memory.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read_stream(record: dict[str, Any], folder: Path = RECORDS) -> Recorded:
    """The request stream of a record."""
    stored = json.loads(gzip.decompress((folder / "streams" / record["stream"]).read_bytes()))
    return Recorded(**{**stored, "reserved": [tuple(pair) for pair in stored["reserved"]]})


def keep(line: dict[str, Any], folder: Path) -> None:
    """Add a record; an earlier one of the same case and card goes."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = line.pop("stream", None)
    if stream is not None:
        name = f"{line['card']} {line['case']}".replace(" ", "-").replace("=", "-") + ".json.gz"
        (folder / "streams").mkdir(exist_ok=True)
        text = json.dumps(stream, separators=(",", ":"))
        (folder / "streams" / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        line["stream"] = name
    same = (line["card"], line["case"])
    lines = [old for old in read_records(folder) if (old["card"], old["case"]) != same] + [line]
    lines.sort(key=lambda old: (old["card"], old["case"]))
    written = folder / "memory.jsonl.new"
    written.write_text("".join(json.dumps(old) + "\n" for old in lines))
    written.replace(folder / "memory.jsonl")


def record(cards: dict[str, list[str]], environment: Path, folder: Path) -> int:
    """Record cases by card; returns how many did not complete."""
    failed, found = 0, versions(environment / "bin" / "python")
    for name, texts in cards.items():
        card = make_card(name)
        with tempfile.TemporaryDirectory(prefix="phantom-") as scratch:
            log = Path(scratch) / "log"
            stage = Stage(environment, Path(scratch), World((card,)), {"PHANTOM_LOG": str(log)})
            command = [str(stage.python), __file__, "--inside", json.dumps(texts)]
            with subprocess.Popen(
                command, env=stage.variables(os.environ), stdout=subprocess.PIPE, text=True
            ) as process:
                for text in process.stdout or ():
                    if not text.startswith(MARK):
                        continue
                    line = {"card": name, **json.loads(text.removeprefix(MARK)), "versions": found}
                    line |= {"context_bytes": card.context, "capacity_bytes": card.memory}
                    failed += line["outcome"] != "completed"
                    keep(line, folder)
                    print(f"{name} {line['case']}: {_in_words(line)}", flush=True)
            if process.returncode:
                print(f"{name}: ended with exit code {process.returncode}", file=sys.stderr)
                failed += 1
            if failed and log.exists():
                print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
    return failed


def _in_words(line: dict[str, Any]) -> str:
    if line["outcome"] != "completed":
        return f"{line['outcome']}: {line['reason']}"
    return f"allocated {line['allocated_bytes'] / 2**20:,.1f} MiB, reserved {line['reserved_bytes'] / 2**20:,.1f} MiB"


@dataclass(frozen=True)
class Difference:
    """A prediction against a record, in shares of the record.

    Attributes:
        allocated, reserved: Predicted / recorded - 1.
    """

    card: str
    case: str
    allocated: float
    reserved: float


def difference(line: dict[str, Any]) -> Difference:
    """What the cost model predicts for a recorded case on its card, against what was recorded."""
    from advisor.experiments.validation.cases import case_of
    from advisor.experiments.validation.predict import GridDevice, configure_case
    from advisor.hardware.profiles import load_profile

    card = make_card(line["card"])
    device = load_profile(card_table()[line["card"]]["profile"])
    model = GridDevice(device, None, card.memory).cost_model(card.memory)
    memory = configure_case(case_of(line["case"])).estimate(model).memory
    return Difference(
        line["card"],
        line["case"],
        memory.allocated_bytes / line["allocated_bytes"] - 1,
        (memory.reserved_bytes or 0) / line["reserved_bytes"] - 1,
    )


def compare(only: str) -> int:
    """Print predictions against records."""
    print(f"{'card':10} {'case':55} {'allocated':>10} {'reserved':>10}")
    for line in read_records():
        if line["outcome"] == "completed" and only in line["case"]:
            found = difference(line)
            print(f"{found.card:10} {found.case:55} {found.allocated:+10.2%} {found.reserved:+10.2%}", flush=True)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's text")
    parser.add_argument("--again", action="store_true", help="also what is recorded")
    parser.add_argument("--compare", action="store_true", help="predict the recorded cases")
    parser.add_argument("--output", type=Path, default=RECORDS)
    parser.add_argument("--environment", type=Path, default=default_environment())
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(json.loads(options.inside))
        return 0
    if options.compare:
        return compare(options.only)
    done = set() if options.again else {(line["card"], line["case"]) for line in read_records(options.output)}
    cards: dict[str, list[str]] = {}
    for entry in json.loads(CASES.read_text()):
        if options.only in entry["case"] and (entry["card"], entry["case"]) not in done:
            cards.setdefault(entry["card"], []).append(entry["case"])
    return int(bool(record(cards, options.environment.resolve(), options.output)))


if __name__ == "__main__":
    sys.exit(main())
