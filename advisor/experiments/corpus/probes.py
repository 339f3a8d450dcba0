"""What one forward pass shows of every task of the corpus: a linear probe on its own training rows and held-out items.

python -m advisor.experiments.corpus.probes --output runs/corpus-tasks.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from advisor.core.linear_probe import LinearProbeReport
from advisor.core.units import now_iso
from advisor.experiments.corpus.design import CorpusDesign, CorpusTask, load_design
from advisor.experiments.corpus.runs import packed, set_up
from advisor.experiments.grid import Cell, CellEvent, CellResult, content_key, run_cells
from advisor.experiments.store import GridHeader, RecordStore, cell_format
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.host import inspect_host
from advisor.hardware.versions import installed_versions
from advisor.training.linear_probe import fit_probe, probe_features

COMMAND = "make corpus"


@dataclass(frozen=True)
class ProbedTask:
    """A task with what the probe showed.

    Attributes:
        task: Its name.
        labels: Base64 of one unsigned byte per held-out item: its class.
        predicted: The same of the class that the probe predicts.
        report: Of the probe; without texts.
        cpu_s: Processor time of forward pass and fits.
    """

    task: str
    labels: str
    predicted: str
    report: LinearProbeReport
    cpu_s: float


def probe(design: CorpusDesign, task: CorpusTask) -> ProbedTask:
    """One forward pass over a task's rows, and the fits."""
    began_s = time.process_time()
    setup = set_up(design, task)
    features = probe_features(setup.model, setup.data_spec, max_seq_length=task.max_seq_length)
    fitted = fit_probe(features)
    predicted = fitted.probabilities.argmax(axis=1)
    return ProbedTask(
        task.name,
        packed(features.eval_labels.astype(np.uint8)),
        packed(predicted.astype(np.uint8)),
        without_texts(fitted.report),
        round(time.process_time() - began_s, 3),
    )


def without_texts(report: LinearProbeReport) -> LinearProbeReport:
    """A report that can be published: no row of the data in it."""
    return replace(report, doubtful=())


FORMAT = cell_format(ProbedTask, COMMAND)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; an existing file is continued")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    design = load_design()

    def execute(cell: Cell[CorpusTask], limit_s: float | None) -> CellResult[ProbedTask]:
        began_s = time.perf_counter()
        return CellResult("completed", probe(design, cell.payload), "", time.perf_counter() - began_s)

    cells = [Cell(content_key(task), task.name, task) for task in design.tasks]
    header = GridHeader("corpus tasks", cpu_id(inspect_host()), installed_versions(), now_iso())
    with RecordStore(options.output, header, FORMAT) as store:
        run_cells(cells, execute, store, on_event=_report)
    return 0


def _report(event: CellEvent[CorpusTask, ProbedTask]) -> None:
    if event.result is not None:
        print(event.cell.label, flush=True)


if __name__ == "__main__":
    sys.exit(main())
