"""The corpus as it ships: Parquet tables under ``calibration/corpus``, and where they come from.

python -m advisor.experiments.corpus.tables --runs runs/corpus.jsonl --tasks runs/corpus-tasks.jsonl
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advisor.core.linear_probe import LinearProbeReport
from advisor.core.serialization import from_dict, to_dict
from advisor.core.store import resource_dir, write_text_atomically
from advisor.experiments.corpus import probes, record
from advisor.experiments.corpus.design import load_design
from advisor.experiments.corpus.runs import CorpusRun
from advisor.experiments.store import GridHeader, read_records
from advisor.training.data.asset_catalog import find_asset

RUNS, TASKS, PROVENANCE = "runs.parquet", "tasks.parquet", "provenance.json"
SWEEP, REFERENCE_RUNS = "lora-sweep.parquet", "mlperf-llama2-70b-lora.parquet"
_BYTES = ("predicted", "true_probability")


@dataclass(frozen=True)
class Corpus:
    """Everything that was recorded.

    Attributes:
        runs: One row per finished run: the fields of ``CorpusRun``, with bytes instead of base64.
        tasks: One row per task: its source, sizes, held-out classes, what the probe predicts of them, its report.
        provenance: Versions, processor, date, hashes of the data files, command.
    """

    runs: pd.DataFrame
    tasks: pd.DataFrame
    provenance: dict[str, Any]

    def report(self, task: str) -> LinearProbeReport:
        """What the probe showed of a task."""
        text = self.tasks.set_index("task").at[task, "report"]
        return from_dict(LinearProbeReport, json.loads(text), what=f"the report of {task}")


def corpus_folder() -> Path:
    """Where the tables are."""
    return resource_dir("calibration") / "corpus"


def load_corpus(folder: Path | None = None) -> Corpus:
    """The corpus that ships, or another one.

    Args:
        folder: With the files of :func:`write_tables`.
    """
    folder = folder or corpus_folder()
    return Corpus(
        pd.read_parquet(folder / RUNS),
        pd.read_parquet(folder / TASKS),
        json.loads((folder / PROVENANCE).read_text(encoding="utf-8")),
    )


def write_tables(runs: Path, tasks: Path, folder: Path) -> Corpus:
    """Tables of what was recorded.

    Args:
        runs: JSON lines of ``record``.
        tasks: JSON lines of ``probes``.
        folder: Where the tables go.

    Raises:
        InputError, OutputError: a file is missing or damaged.
    """
    header, recorded = read_records(runs, record.FORMAT)
    probed_header, probed = read_records(tasks, probes.FORMAT)
    finished = sorted((found.value for found in recorded.values() if found.value), key=_order)
    rows = [{**asdict(run), **{name: base64.b64decode(getattr(run, name)) for name in _BYTES}} for run in finished]
    design, task_rows = load_design(), []
    for found in (item.value for item in probed.values() if item.value):
        task = design.task(found.task)
        size = design.size_of(task)
        row = {"task": task.name, "source": task.source, "data": task.data, "train_rows": size.train_rows}
        row |= {"steps": size.steps, "max_seq_length": task.max_seq_length, "probe_cpu_s": found.cpu_s}
        row |= {"labels": base64.b64decode(found.labels), "probe_predicted": base64.b64decode(found.predicted)}
        task_rows.append(row | {"report": json.dumps(to_dict(found.report))})
    provenance = _provenance(header, probed_header, [task.data for task in design.tasks], len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(pd.DataFrame(rows), pd.DataFrame(task_rows).sort_values("task", ignore_index=True), provenance)
    corpus.runs.to_parquet(folder / RUNS, compression="zstd", index=False)
    corpus.tasks.to_parquet(folder / TASKS, compression="zstd", index=False)
    write_text_atomically(folder / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    return corpus


def _order(run: CorpusRun) -> tuple[Any, ...]:
    return (run.task, run.variant, run.lr_rel, run.seed)


def _provenance(header: GridHeader, probed: GridHeader, data: list[str], runs: int) -> dict[str, Any]:
    artifacts = {name: find_asset(name).artifact for name in sorted({*data, "minilm"})}
    return {
        "description": "Short training runs of the demo MiniLM (docs/how-it-works/quality.md), without any text.",
        "command": "make corpus",
        "runs": runs,
        "started_at": header.started_at,
        "probed_at": probed.started_at,
        "processor": header.device_id,
        "shared_machine": "other work ran beside the runs: processor seconds are the cost that counts, not wall clock",
        "versions": header.versions,
        "data": {
            name: {"package": item.requirement, "file": item.filename, "sha256": item.sha256, "licence": item.licence}
            for name, item in artifacts.items()
        },
    }


def unpacked(values: bytes, kind: str) -> np.ndarray:
    """The array of a column of bytes.

    Args:
        values: Of one row.
        kind: ``"predicted"``, ``"labels"`` or ``"probe_predicted"`` (classes), or ``"true_probability"``.
    """
    return np.frombuffer(values, dtype=np.float16 if kind == "true_probability" else np.uint8)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=None, help="folder; calibration/corpus by default")
    options = parser.parse_args(arguments)
    folder = options.output or corpus_folder()
    corpus = write_tables(options.runs, options.tasks, folder)
    print(f"{len(corpus.runs)} runs of {corpus.runs.task.nunique()} tasks in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
