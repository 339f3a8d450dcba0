#!/usr/bin/env python3
"""Records what torch's caching allocator does with fine-tuning configurations, on cards that are not there.

::

    python tools/phantom_gpu/record.py                       # the cases of cases.json that are not recorded yet
    python tools/phantom_gpu/record.py --only "qwen2-0.5b"   # of these, those whose text says so
    python tools/phantom_gpu/compare.py                      # predictions against the records, as a table

A case is one of the kind that ``advisor validate`` runs (``advisor/experiments/validation/cases.py``) on a card: three
steps of the real Trainer in a process of its own. Each becomes one line of ``memory.jsonl``: the allocator's own peaks
after every step, its segments at the end, the driver's figure. The stream of requests that led there goes to
``streams/``: the allocator model is replayed against it. A line is written as soon as its case is done, so an
interrupted recording goes on with the same command; ``--again`` replaces lines.

``"with"`` of a case names what else is done: ``evaluation`` passes after the last step, ``saving`` a checkpoint after
the first one, and ``expandable`` for an allocator with ``expandable_segments:True``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.measurement.steps import StepRequest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.phantom_gpu.run import default_environment  # noqa: E402
from tools.phantom_gpu.world import Stage, World, make_card  # noqa: E402

CASES = Path(__file__).with_name("cases.json")
RECORDS = ROOT / "calibration" / "phantom"
MARK = "phantom-record "
"""Begins the line in which the process on the phantom card hands over a record."""
EXPANDABLE, EVALUATION, SAVING = "expandable", "evaluation", "saving"
"""What a case can be done with."""
ALLOCATOR_SETTINGS = {EXPANDABLE: {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}}
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
    held, begin, grown = 0, -1, False
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
        elif action == "snapshot" and begin < 0:
            begin = len(events)
    return Recorded(sizes, events, reserved, max(begin, 0))


def request_of(text: str, extras: Sequence[str] = ()) -> StepRequest:
    """The steps that are run for a case.

    Raises:
        InputError: the case cannot be built.
    """
    from advisor.experiments.validation.cases import case_of
    from advisor.experiments.validation.predict import configure_case
    from advisor.measurement.steps import StepRequest

    case = case_of(text)
    config = configure_case(case)
    return StepRequest(
        config.spec,
        config.strategy,
        config.execution,
        config.execution.max_seq_length,
        steps=STEPS,
        warmup_steps=WARMUP_STEPS,
        mixed_length_steps=case.mixed_lengths,
        evaluate=EVALUATION in extras,
        device_type="cuda",
    )


def step_count(request: StepRequest) -> int:
    """Optimizer steps up to the last one that counts."""
    return request.mixed_length_steps + WARMUP_STEPS + STEPS * (2 if request.mixed_length_steps else 1)


def measure(text: str, extras: Sequence[str] = ()) -> dict[str, Any]:
    """Run one case on the phantom card of this process; returns its record and stream.

    Raises:
        InputError: the case cannot be built.
    """
    import torch
    from transformers import TrainerCallback

    from advisor.experiments.validation.measure import CudaFigures, ProcessFigure, current_uuid
    from advisor.hardware.backends import get_backend
    from advisor.measurement.steps import run_steps

    request = request_of(text, extras)
    expected = step_count(request)

    class Steps(TrainerCallback):
        peaks: list[tuple[int, int]] = []  # noqa: RUF012 - one run, one process

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.memory._snapshot()  # leaves an entry in the history

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.peaks.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
            control.should_save = SAVING in extras and len(self.peaks) == 1
            if len(self.peaks) == expected:
                self.look()

        def look(self) -> None:
            self.segments = Counter(int(segment["total_size"]) for segment in torch.cuda.memory_snapshot())
            self.trace = torch.cuda.memory._snapshot()["device_traces"][0]

    figure = ProcessFigure(current_uuid)
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(context=None, max_entries=MOST_EVENTS)
    torch.zeros(1, device="cuda")  # makes the context
    watch, steps = CudaFigures(figure, get_backend("cuda").runtime), Steps()
    run_steps(request, callbacks=(watch, steps))
    figures = watch.figures()
    allocated_bytes, reserved_bytes = steps.peaks[expected - 1]
    device_bytes = figures.device_bytes
    if request.evaluate:
        steps.look()
        allocated_bytes, reserved_bytes = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        device_bytes = figure.read()
    kept = list(steps.trace)
    while kept and kept[-1]["action"] == "snapshot":
        kept.pop()
    stream = stream_of(kept)
    return {
        "allocated_bytes": allocated_bytes,
        "reserved_bytes": reserved_bytes,
        "device_bytes": device_bytes,
        "allocator_retries": figures.allocator_retries,
        "peaks_by_step": steps.peaks[:expected],
        "segments": {str(size): count for size, count in sorted(steps.segments.items())},
        "requests": len(stream.sizes),
        "stream": vars(stream),
    }


def inside(cases: list[tuple[str, list[str]]]) -> None:
    """In a process on a phantom card: measure cases one by one, each in a fork of a process that has imported."""
    from advisor.measurement.isolation import isolated
    from tools.phantom_gpu import record as importable

    for text, extras in cases:
        log = Path(os.environ["PHANTOM_LOG"])
        result = isolated(importable.measure, text, extras, timeout_s=1800.0, log_path=log)
        line: dict[str, Any] = {"case": text, **({"with": extras} if extras else {}), "outcome": result.outcome}
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


def name_of(line: dict[str, Any]) -> str:
    """What tells a case or record from all others: ``"t4 bert-base lora 16x256, evaluation"``."""
    return ", ".join([f"{line['card']} {line['case']}", *line.get("with", ())])


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
        name = re.sub(r"[^\w.]+", "-", name_of(line)) + ".json.gz"
        (folder / "streams").mkdir(exist_ok=True)
        text = json.dumps(stream, separators=(",", ":"))
        (folder / "streams" / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        line["stream"] = name
    lines = [old for old in read_records(folder) if name_of(old) != name_of(line)] + [line]
    lines.sort(key=name_of)
    written = folder / "memory.jsonl.new"
    written.write_text("".join(json.dumps(old) + "\n" for old in lines))
    written.replace(folder / "memory.jsonl")


def record(entries: Sequence[dict[str, Any]], environment: Path, folder: Path) -> int:
    """Record cases; returns how many did not complete."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["card"], EXPANDABLE in entry.get("with", ())), []).append(entry)
    found = versions(environment / "bin" / "python")
    return sum(
        _record_on(card, expandable, group, environment, folder, found) for (card, expandable), group in groups.items()
    )


def _record_on(
    name: str,
    expandable: bool,
    entries: Sequence[dict[str, Any]],
    environment: Path,
    folder: Path,
    found: dict[str, str],
) -> int:
    """Record cases of one card, in one process that has imported."""
    failed, card = 0, make_card(name)
    cases = [(entry["case"], entry.get("with", [])) for entry in entries]
    for result in run_cases(name, cases, environment, ALLOCATOR_SETTINGS[EXPANDABLE] if expandable else {}):
        line = {"card": name, **result, "versions": found}
        line |= {"context_bytes": card.context, "capacity_bytes": card.memory}
        failed += line["outcome"] != "completed"
        keep(line, folder)
        print(f"{name_of(line)}: {_in_words(line)}", flush=True)
    return failed


def run_cases(
    name: str, cases: Sequence[tuple[str, Sequence[str]]], environment: Path, variables: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Run cases on a card one by one; each one's outcome and, where it completed, its figures and stream.

    Args:
        name: Of the card, with changed settings.
        cases: As in ``cases.json``, each with what else is done.
        environment: That ``make phantom`` has made.
        variables: Further ones of the process.
    """
    with tempfile.TemporaryDirectory(prefix="phantom-") as scratch:
        log = Path(scratch) / "log"
        world, more = World((make_card(name),)), {"PHANTOM_LOG": str(log), **(variables or {})}
        stage = Stage(environment, Path(scratch), world, more)
        command = [str(stage.python), str(Path(__file__).resolve()), "--inside", json.dumps(cases)]
        completed = True
        with subprocess.Popen(command, env=stage.variables(os.environ), stdout=subprocess.PIPE, text=True) as process:
            for text in process.stdout or ():
                if text.startswith(MARK):
                    line = json.loads(text.removeprefix(MARK))
                    completed = completed and line["outcome"] == "completed"
                    yield line
        if process.returncode:
            print(f"{name}: ended with exit code {process.returncode}", file=sys.stderr)
        if (process.returncode or not completed) and log.exists():
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)


def _in_words(line: dict[str, Any]) -> str:
    if line["outcome"] != "completed":
        return f"{line['outcome']}: {line['reason']}"
    return f"allocated {line['allocated_bytes'] / 2**20:,.1f} MiB, reserved {line['reserved_bytes'] / 2**20:,.1f} MiB"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--again", action="store_true", help="also what is recorded")
    parser.add_argument("--output", type=Path, default=RECORDS)
    parser.add_argument("--environment", type=Path, default=default_environment())
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(json.loads(options.inside))
        return 0
    done = set() if options.again else {name_of(line) for line in read_records(options.output)}
    entries = [
        entry
        for entry in json.loads(CASES.read_text())
        if options.only in name_of(entry) and name_of(entry) not in done
    ]
    return int(bool(record(entries, options.environment.resolve(), options.output)))


if __name__ == "__main__":
    sys.exit(main())
