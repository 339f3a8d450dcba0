"""Making the corpus: every cell that is not recorded yet, one after another in this process, one line a run.

python -m advisor.experiments.corpus.record --output runs/corpus.jsonl --time-limit 2h
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from functools import cache
from pathlib import Path

import torch

from advisor.core.errors import AdvisorError
from advisor.core.units import now_iso, parse_duration_s
from advisor.experiments.corpus.design import CorpusCell, corpus_cells, load_design
from advisor.experiments.corpus.runs import CorpusRun, TaskSetup, run_cell, set_up
from advisor.experiments.grid import Cell, CellEvent, CellResult, run_cells
from advisor.experiments.store import GridHeader, RecordStore, cell_format
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.host import inspect_host
from advisor.hardware.versions import installed_versions

GRID = "corpus"
COMMAND = "make corpus"

FORMAT = cell_format(CorpusRun, COMMAND)


@cache
def _setup(task: str) -> TaskSetup:
    design = load_design()
    return set_up(design, design.task(task))


def execute(cell: Cell[CorpusCell], limit_s: float | None) -> CellResult[CorpusRun]:
    """Run one cell here; model and texts of its task stay in memory."""
    began_s, wanted = time.perf_counter(), cell.payload
    try:
        setup = _setup(wanted.task)
        variant = load_design().variant(wanted.variant)
        strategy = variant.configured(setup.model, lr_rel=wanted.lr_rel, epochs=setup.epochs)
        run = run_cell(setup, strategy, wanted.variant, wanted.seed)
    except AdvisorError as failure:
        return CellResult("refused", None, failure.message, time.perf_counter() - began_s, failure)
    return CellResult("completed", run, "", time.perf_counter() - began_s)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; an existing file is continued")
    parser.add_argument("--time-limit", type=parse_duration_s, default=None, help="for example 2h")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    header = GridHeader(GRID, cpu_id(inspect_host()), installed_versions(), now_iso())
    with RecordStore(options.output, header, FORMAT) as store:
        stopped = run_cells(
            corpus_cells(load_design()), execute, store, time_limit_s=options.time_limit, on_event=_report
        )
    print(f"{len(store.records)} runs in {options.output}{f'; stopped: {stopped}' if stopped else ''}")
    return 0


def _report(event: CellEvent[CorpusCell, CorpusRun]) -> None:
    if event.result is None:
        return
    run = event.result.value
    what = f"loss {run.loss:.3f} after {run.training_cpu_s:.1f} s" if run else event.result.reason
    print(f"[{event.number}/{event.total}] {event.cell.label}: {event.result.outcome}, {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
