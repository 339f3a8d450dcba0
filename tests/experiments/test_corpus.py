"""The recorded corpus: what is run, in which order, and that its runs are those of ``advisor run``."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from advisor.core.metrics import ACCURACY, LOSS
from advisor.core.plan import ExecutionPlan, Plan
from advisor.experiments.corpus.design import (
    CorpusDesign,
    CorpusSize,
    CorpusTask,
    CorpusVariant,
    corpus_cells,
    load_design,
)
from advisor.experiments.corpus.runs import run_cell, set_up
from advisor.strategies import find_strategy
from advisor.training.data import profile_data
from advisor.training.data.named import DATASETS
from advisor.training.models import load_tokenizer
from advisor.training.trainer import train
from tests.training import training_runs


def test_the_shipped_design_names_what_there_is() -> None:
    design = load_design()
    assert all(task.data in DATASETS.names() for task in design.tasks)
    assert all(find_strategy(variant.method) is not None for variant in design.variants)
    assert len({task.data for task in design.tasks}) >= 12 and len(design.variants) >= 8
    assert {size.name for size in design.sizes} == {task.size for task in design.tasks}


def test_every_prefix_of_the_cells_is_a_usable_design() -> None:
    design = load_design()
    cells = corpus_cells(design)
    assert [cell.key for cell in cells] == [cell.key for cell in corpus_cells(design)]
    assert len({cell.key for cell in cells}) == len(cells)
    first = [cell.payload for cell in cells[:100]]
    assert len({design.task(cell.task).source for cell in first}) >= 12
    assert {cell.variant for cell in first} == {variant.name for variant in design.variants}
    assert max(Counter(cell.variant for cell in first).values()) <= 25
    assert 1 <= sum(cell.seed == 2 for cell in first) <= 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CorpusDesign:
    folder = tmp_path_factory.mktemp("corpus")
    model, table = training_runs.save_model(folder / "model"), training_runs.save_table(folder / "rows.jsonl", rows=120)
    size = CorpusSize("tiny", train_rows=40, steps=10, lr_rels=(3.0,), earliness=1.0)
    task = CorpusTask("words", "words", str(table), "tiny", str(model), "sequence-classification", eval_fraction=0.4)
    return CorpusDesign("tiny", 8, 40, (size,), (CorpusVariant("lora-2", "lora", {"rank": 2}),), (task,))


def test_a_cell_trains_like_a_run_of_the_same_plan(tiny: CorpusDesign, tmp_path: Path) -> None:
    setup = set_up(tiny, tiny.tasks[0])
    strategy = tiny.variants[0].configured(setup.model, lr_rel=3.0, epochs=setup.epochs)
    found = run_cell(setup, strategy, "lora-2", seed=1)
    execution = ExecutionPlan(micro_batch_size=8, max_seq_length=24, eval_batch_size=32, group_by_length=True)
    profile = profile_data(setup.data_spec, setup.model, load_tokenizer(setup.model), max_seq_length=24)
    plan = Plan(setup.model, setup.data_spec, profile, strategy, execution, "cpu-test", seed=1)
    measured = train(plan, tmp_path / "run")
    assert found.train_losses == pytest.approx([loss for _, loss in measured.train_losses], abs=1e-4)
    assert found.loss == pytest.approx(measured.metrics[LOSS.name], abs=1e-4)
    assert found.accuracy == pytest.approx(measured.metrics[ACCURACY.name], abs=1e-4)
    assert found.tokens > 10 * 8 * 4 and found.training_cpu_s > 0


def test_a_cell_keeps_every_held_out_item(tiny: CorpusDesign) -> None:
    setup = set_up(tiny, tiny.tasks[0])
    strategy = tiny.variants[0].configured(setup.model, lr_rel=3.0, epochs=setup.epochs)
    found = run_cell(setup, strategy, "lora-2", seed=2)
    labels = setup.labels
    assert labels is not None
    classes = np.frombuffer(base64.b64decode(found.predicted), dtype=np.uint8)
    probability = np.frombuffer(base64.b64decode(found.true_probability), dtype=np.float16)
    assert len(classes) == len(probability) == len(labels)
    assert float((classes == labels).mean()) == pytest.approx(found.accuracy, abs=1e-4)
    assert float(-np.log(probability.astype(np.float64)).mean()) == pytest.approx(found.loss, abs=1e-2)
    assert found.curve_steps == (2, 5, 10) and len(found.curve_losses) == len(found.curve_accuracies) == 3
