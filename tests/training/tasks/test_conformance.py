"""What every registered task is tested on: its traits, its batches, a step of training, its metrics, its data rules."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import transformers
from peft import TaskType
from transformers import EvalPrediction

from advisor.core.data import DataSpec
from advisor.core.errors import DataError, InputError, ModelError
from advisor.core.metrics import WRITING, get_metric
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.tasks import task_traits
from advisor.strategies import get_strategy
from advisor.training.build import build_model
from advisor.training.data import prepare_data, resolve_data
from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.models import inspect_model
from advisor.training.synthetic import synthetic_batch
from advisor.training.tasks import DataLook, FirstLook, Task, get_task, task_names
from tests.tracing.tiny import tiny_spec
from tests.training.tasks.cases import CASES, table

LOOKS = [
    FirstLook(causal, sequence_to_sequence, data)
    for causal in (None, False, True)
    for sequence_to_sequence in (False, True)
    for data in (None, *get_args(DataLook))
]


def test_every_task_is_tested() -> None:
    assert set(CASES) == set(task_names())


@pytest.fixture(params=task_names())
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


SCORING = [name for name in task_names() if not task_traits(name).learns_preferences]
"""Tasks whose batches have labels, and whose models give a loss and scores of their own."""


@pytest.fixture
def spec(task: Task, tmp_path: Path) -> ModelSpec:
    return tiny_spec(CASES[task.name].model, task.name, tmp_path)


def test_traits_name_things_that_exist(task: Task) -> None:
    traits = task.traits
    assert hasattr(transformers, traits.auto_class)
    assert traits.peft_task_type is None or traits.peft_task_type in TaskType.__members__
    assert get_metric(traits.metric.name) is traits.metric
    assert traits.metric in task.metrics
    assert traits.title
    assert not (traits.new_head and traits.projects_to_vocabulary)


def test_only_new_heads_can_lack_a_task_that_pre_trained_them(task: Task, spec: ModelSpec) -> None:
    """Adapters train a new head whole and keep a pretrained one."""
    model = build_model(spec, get_strategy("lora").default_config(spec), ExecutionPlan(2))
    trained = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert bool(trained) == task.traits.new_head


@pytest.mark.parametrize("task", SCORING, indirect=True)
@pytest.mark.parametrize("padded", [True, False])
def test_a_batch_holds_what_is_said_of_it(task: Task, spec: ModelSpec, padded: bool) -> None:
    batch = synthetic_batch(spec, 3, 16, padded=padded)
    assert {name: tuple(t.shape) for name, t in batch.items()} == task.batch_shapes(spec, 3, 16, padded=padded)
    assert ("attention_mask" in batch) == (padded or not task.traits.packs_text)
    labels = batch["labels"]
    if task.traits.new_head and not task.traits.float_labels:
        assert int(labels.max()) < spec.num_labels
    assert labels.dtype == (torch.float32 if task.traits.float_labels else torch.int64)
    if padded and labels.shape == batch["input_ids"].shape:
        assert bool((labels[batch["attention_mask"] == 0] == -100).all())
    assert bool((labels >= 0).any(dim=-1).all())


@pytest.mark.parametrize("task", SCORING, indirect=True)
@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_step_trains(task: Task, spec: ModelSpec, method: str) -> None:
    torch.manual_seed(0)
    model = build_model(spec, get_strategy(method).default_config(spec), ExecutionPlan(2))
    batch = synthetic_batch(spec, 2, 16, padded=True)
    loss = own_loss(task, model, batch)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.requires_grad)


def own_loss(task: Task, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """As the Trainer computes it."""
    function = task.compute_loss_func()
    if function is None:
        loss: torch.Tensor = model(**batch)["loss"]
        return loss
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    return function(model(**inputs), batch["labels"], num_items_in_batch=None)


@pytest.mark.parametrize("task", SCORING, indirect=True)
def test_figures_do_not_depend_on_the_evaluation_batch(task: Task, spec: ModelSpec) -> None:
    """And their mean loss is the model's own, where that is a mean over items."""
    model = build_model(spec, get_strategy("full").default_config(spec), ExecutionPlan(2)).eval()
    batch = synthetic_batch(spec, 4, 16, padded=True)
    with torch.no_grad():
        outputs = model(**batch)
    logits, labels = outputs["logits"], batch["labels"]
    held_out = HeldOut(task)
    whole = held_out.compute_metrics(prediction(task.reduce_logits(logits, labels), labels))
    pieces = torch.cat([task.reduce_logits(logits[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert HeldOut(task).compute_metrics(prediction(pieces, labels)) == pytest.approx(whole)
    assert whole["nll"] == pytest.approx(float(outputs["loss"]), rel=1e-4)
    logged = held_out_metrics({f"eval_{name}": value for name, value in whole.items()})
    figures = {**logged, **held_out.final_metrics(Letters())}
    of_written = WRITING if task.traits.writes_texts else ()  # computed when the model writes
    predicted = [metric for metric in task.metrics if metric not in of_written]
    assert set(figures) == {"eval_loss", *(metric.name for metric in predicted)}
    for metric in predicted:
        assert metric.low <= figures[metric.name] <= metric.high


class Letters:
    """A tokenizer whose every token is a letter."""

    def batch_decode(self, rows: list[Any], skip_special_tokens: bool) -> list[str]:
        return ["x" * len(row) for row in rows]


def prediction(rows: torch.Tensor, labels: torch.Tensor) -> EvalPrediction:
    return EvalPrediction(rows.numpy(), labels.numpy())


def test_the_task_is_meant_by_the_look_of_its_data(task: Task) -> None:
    look = CASES[task.name].look
    assert [name for name in task_names() if look is not None and get_task(name).suits(look)] == (
        [task.name] if look is not None else []
    )


@pytest.mark.parametrize("look", LOOKS, ids=repr)
def test_no_look_means_two_tasks(look: FirstLook) -> None:
    assert sum(get_task(name).suits(look) for name in task_names()) <= 1


def test_data_come_in_the_shapes_of_the_synthetic_batch(task: Task, tmp_path: Path) -> None:
    """Or the task is refused before anything is read."""
    columns = CASES[task.name].columns
    if columns is None:
        with pytest.raises(DataError, match=f"the task is {task.name}") as refused:
            resolve_data("movie-sentences", task=task.name)
        assert "predict" in str(refused.value.fix) and task.traits.predicted_only in refused.value.message
        return
    data = resolve_data(table(columns, tmp_path), task=task.name)
    rows = task.read_rows(data)
    assert rows.train and rows.eval and rows.kind == task.row_kind(data)
    tiny = tiny_spec(CASES[task.name].model, task.name, tmp_path)
    spec = inspect_model(tiny.source, task.name, num_labels=max(2, rows.num_labels))
    prepared = prepare_data(data, spec, tokenizer(), max_seq_length=16)
    collator = pickle.loads(pickle.dumps(prepared.collator)) if prepared.padded else prepared.collator
    batch = collator([prepared.train_dataset[i] for i in range(2)])
    shapes = task.batch_shapes(spec, 2, batch["input_ids"].shape[1], padded=prepared.padded)
    assert {name: tuple(values.shape) for name, values in batch.items()} == shapes
    floats = {"labels"} if task.traits.float_labels else set()
    assert all(values.dtype == (torch.float32 if name in floats else torch.int64) for name, values in batch.items())


def tokenizer() -> Any:
    from advisor.training.data.stand_in_tokenizer import stand_in_tokenizer

    return stand_in_tokenizer(
        ModelSpec("x", "config", "masked-lm", {}, "bert", 0, 0, 0, 64, None)  # the one with all special tokens
    )


def test_a_head_that_the_architecture_lacks_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec("llama", "causal-lm", tmp_path)
    with pytest.raises(ModelError, match="seq2seq-lm needs an architecture with such a head"):
        inspect_model(spec.source, "seq2seq-lm")
    with pytest.raises(ModelError, match="at least two labels"):
        inspect_model(spec.source, "token-classification", num_labels=1)


def test_an_unknown_task_is_refused_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'causal-ml'") as refused:
        inspect_model(tiny_spec("llama", "causal-lm", tmp_path).source, "causal-ml")
    assert "causal-lm" in str(refused.value.fix)


def test_tasks_and_metrics_are_cheap_to_import() -> None:
    code = (
        "import sys; from advisor.training.tasks import get_task, task_names; from advisor.core.metrics import METRICS;"
        "[get_task(name).traits for name in task_names()]; METRICS.all();"
        "from advisor.training.data.rules import data_rules; data_rules('causal-lm').row_kind;"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'peft', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_rows_of_a_source_are_the_tasks_own(tmp_path: Path) -> None:
    """A column of prompts makes completions for a decoder and one text a row for an encoder."""
    source = DataSpec(
        table({"prompt": "a {}".format, "completion": lambda i: "b"}, tmp_path), "jsonl", "prompt", "completion"
    )
    assert get_task("causal-lm").row_kind(source) == "completion"
    with pytest.raises(DataError, match="a pair column 'completion' was named"):
        resolve_data(source.source, task="masked-lm", text_column="prompt", text_pair_column="completion")
