"""Job: the user's own list of methods and PEFT configurations compared, as a suite without a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.run import load_record
from advisor.core.serialization import read_json
from advisor.core.store import user_data_dir, write_text_atomically
from advisor.pipeline.inputs import DataSource, ModelSource, task_of
from advisor.pipeline.outputs import RECORD_FILE
from advisor.pipeline.suites import RECORDS_FILE, bench_suite

if TYPE_CHECKING:
    from advisor.experiments.suites.results import SuiteReport

OWN = "peft-methods"
PEFT_KNOB = "peft_config"


def bench_methods(
    model: ModelSource,
    data: DataSource,
    *,
    methods: Sequence[str] = (),
    peft_configs: Mapping[str, Mapping[str, Any]] | None = None,
    knobs: Mapping[str, Any] | None = None,
    epochs: float | None = None,
    batch_size: int = 16,
    seeds: int = 3,
    output: Path | None = None,
    **options: Any,
) -> SuiteReport:
    """Compare methods and PEFT configurations on one model and data set, at equal batch and own learning rates.

    Beside the records, ``results/`` holds every training in the JSON of PEFT's method comparison.

    Args:
        model: What is trained.
        data: On what.
        methods: Registered strategies with their defaults.
        peft_configs: Configurations of PEFT by name.
        knobs: Of every method that has them.
        epochs: Passes over the rows; each method's own when ``None``.
        batch_size: Rows per optimizer step.
        seeds: Trainings per configuration.
        output: Folder of the records; in the user's data directory when ``None``.
        options: As of :func:`bench_suite`.

    Raises:
        InputError: there is nothing to compare, or anything about the inputs cannot be used.
    """
    from advisor.experiments.suites.definition import SuiteCell, SuiteData, SuiteDefinition, SuiteModel, SuiteScale
    from advisor.search.planner.candidates import given_knobs
    from advisor.strategies import get_strategy, strategies

    chosen = dict(peft_configs or {})
    if len(methods) + len(chosen) < 1:
        raise InputError("a comparison needs methods, but got none", fix="add --methods lora,ia3 or --peft-config FILE")
    shared = {} if epochs is None else {"num_train_epochs": epochs}
    cells = []
    for name in methods:
        mine = given_knobs(get_strategy(name), knobs or {})
        cells.append(SuiteCell(name, name, OWN, "model", "data", name, batch_size, knobs={**shared, **mine}))
    for name, values in chosen.items():
        method = next(strategy.name for strategy in strategies() if strategy.user_knob == PEFT_KNOB)
        own_knobs = {**shared, PEFT_KNOB: dict(values)}
        cells.append(SuiteCell(name, name, OWN, "model", "data", method, batch_size, knobs=own_knobs))
    task = task_of(model, data)
    scale = SuiteScale(data.max_train_rows, data.max_eval_rows, data.max_seq_length, epochs, predicts_published=False)
    definition = SuiteDefinition(
        OWN, "Methods compared", "", "your own comparison",
        {"model": SuiteModel("", "")}, {"data": SuiteData("", "", task, 0)}, (), tuple(cells), (),
        {OWN: scale},
    )  # fmt: skip
    folder = output if output is not None else user_data_dir("suites", OWN)
    report = bench_suite(definition, model=model.source, data=data, scale=OWN, seeds=seeds, output=folder, **options)
    write_peft_results(folder)
    return report


def write_peft_results(folder: Path) -> int:
    """``results/`` of a suite's folder: its finished runs in the JSON of PEFT's method comparison; how many."""
    from advisor.experiments.store import read_records
    from advisor.experiments.suites.peft_format import file_name, peft_result
    from advisor.experiments.suites.results import FORMAT
    from advisor.training.sources import ADAPTER_CONFIG

    _, records = read_records(folder / RECORDS_FILE, FORMAT)
    written = 0
    for found in records.values():
        if found.value is None or not (path := folder / found.value.folder / RECORD_FILE).is_file():
            continue
        record = load_record(path)
        adapter = path.parent / ADAPTER_CONFIG
        config = read_json(adapter, what="the adapter's configuration") if adapter.is_file() else None
        experiment = f"{record.plan.strategy.method}/{found.value.cell}-seed{found.value.seed}"
        target = folder / "results" / file_name(experiment)
        target.parent.mkdir(exist_ok=True)
        write_text_atomically(target, json.dumps(peft_result(record, experiment, config), indent=2) + "\n")
        written += 1
    return written
