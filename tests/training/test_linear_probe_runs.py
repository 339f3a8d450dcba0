"""A plan of the method linear_probe: predicted, run, and its result used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from advisor.core.cost import CostEstimate
from advisor.core.device import Rate
from advisor.core.errors import InputError, ModelError
from advisor.core.plan import Plan
from advisor.costmodel.model import CostModel
from advisor.costmodel.time.phases import FITTING, PART_NAMES
from advisor.measurement.longest_batch import profile_longest_batch
from advisor.strategies import get_strategy
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.data import prepare_data
from advisor.training.linear_probe.run import batches
from advisor.training.linear_probe.saved import WEIGHTS_FILE, load_linear_probe
from advisor.training.models import load_tokenizer
from advisor.training.trainer import train
from tests.search.planner_fakes import cpu
from tests.training.training_runs import BAD, GOOD, tiny_plan

METHOD = "linear_probe"
TELLING = [f"{GOOD[0]} {GOOD[2]} {GOOD[4]} the film", f"{BAD[0]} {BAD[1]} it was {BAD[3]}"]
WANTED = ["positive", "negative"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def plan_with(folder: Path, **knobs: object) -> Plan:
    plan = tiny_plan(folder, micro_batch_size=8, eval_batch_size=16, group_by_length=True)
    return dataclasses.replace(plan, strategy=get_strategy(METHOD).configured(plan.model, **knobs))


@pytest.fixture(scope="module")
def mean_plan(folder: Path) -> Plan:
    return plan_with(folder)


def test_a_run_measures_evaluates_and_saves(mean_plan: Plan, tmp_path: Path) -> None:
    measured = train(mean_plan, tmp_path / "run")
    assert measured.outcome == "completed"
    assert measured.metrics["accuracy"] > 0.75
    assert measured.metrics["eval_loss"] < np.log(2)
    assert measured.metrics["f1_macro"] > 0.7, "metrics that are computed afterwards are there, too"
    assert len(measured.step_times_s) == 20 and min(measured.step_times_s) > 0
    assert set(measured.parts_s) == {*PART_NAMES, FITTING, "other"}
    assert sum(measured.parts_s.values()) == pytest.approx(measured.total_s)
    assert measured.parts_s[FITTING] > 0 == measured.parts_s["checkpoints"]
    assert measured.trainable_parameters == 2 * 32 + 2
    loaded = load_linear_probe(tmp_path / "run" / "model")
    assert loaded.predict(TELLING) == WANTED
    rows = loaded.probabilities(TELLING)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert not list((tmp_path / "run" / "model").glob("*.p*k*l*")), "nothing is a pickle"
    (tmp_path / "run" / "model" / WEIGHTS_FILE).write_bytes(b"cut")
    with pytest.raises(ModelError, match="classifier"):
        load_linear_probe(tmp_path / "run" / "model")


def test_with_own_pooling_the_result_is_a_model_of_transformers(folder: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    plan = plan_with(folder, pooling="own")
    measured = train(plan, tmp_path / "run")
    answers = pipeline("text-classification", model=str(tmp_path / "run" / "model"))(TELLING)
    assert [answer["label"] for answer in answers] == WANTED
    assert measured.metrics["accuracy"] > 0.75
    with pytest.raises(ModelError, match="a saved linear probe"):
        load_linear_probe(tmp_path / "run" / "model")


def test_a_time_limit_ends_the_pass(mean_plan: Plan, tmp_path: Path) -> None:
    assert train(mean_plan, tmp_path / "run", time_limit_s=0.0).outcome == "over_time"


@pytest.mark.parametrize("pooling", ["mean", "own"])
def test_the_traced_peak_is_the_profiled_peak(folder: Path, pooling: str) -> None:
    plan = plan_with(folder, pooling=pooling)
    data = prepare_data(plan.data, plan.model, load_tokenizer(plan.model), max_seq_length=32)
    longest = int(max(data.train_dataset.lengths.max(), data.eval_dataset.lengths.max()))
    rows = dataclasses.replace(plan.execution, micro_batch_size=16)
    trace = trace_step(TraceRequest(plan.model, plan.strategy, rows, -(-longest // 8) * 8, evaluation=False))
    sizes = np.array([storage.size_bytes for storage in trace.recording.storages])
    events = np.array([(sign, storage) for sign, storage, _ in trace.recording.events])
    traced_bytes = int((events[:, 0] * sizes[events[:, 1]]).cumsum().max())
    assert traced_bytes == pytest.approx(profile_longest_batch(plan).run_peak_bytes, rel=0.01)


def test_batches_hold_every_row_once_and_grouped_ones_pad_less(mean_plan: Plan) -> None:
    data = prepare_data(mean_plan.data, mean_plan.model, load_tokenizer(mean_plan.model), max_seq_length=32)
    lengths = data.train_dataset.lengths

    def padded(grouped: bool) -> int:
        made = list(batches(data.train_dataset, 16, grouped=grouped))
        assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
        return sum(len(batch) * max(lengths[batch]) for batch in made)

    assert padded(grouped=True) < padded(grouped=False)


def test_other_tasks_are_refused_with_what_it_does(mean_plan: Plan) -> None:
    method = get_strategy(METHOD)
    assert method.applies_to(mean_plan.model) is None
    reason = method.applies_to(dataclasses.replace(mean_plan.model, task="causal-lm"))
    assert reason is not None and "one class" in reason
    with pytest.raises(InputError, match=r"mean. or .own"):
        method.configured(mean_plan.model, pooling="max")


def test_a_prediction_is_one_pass_and_a_fit_without_gradients(mean_plan: Plan, tmp_path: Path) -> None:
    device = dataclasses.replace(cpu(), bytes_per_s={"memory": Rate(2e10, "probed")})

    def predicted(method: str) -> CostEstimate:
        strategy = get_strategy(method).default_config(mean_plan.model)
        cost_model = CostModel(device, cache_dir=tmp_path)
        return cost_model.estimate(mean_plan.model, strategy, mean_plan.execution, mean_plan.data_profile)

    probe, head = predicted(METHOD), predicted("head")
    assert probe.memory.breakdown.gradients_bytes == probe.memory.breakdown.optimizer_states_bytes == 0
    assert probe.memory.allocated_bytes < head.memory.allocated_bytes
    assert probe.time is not None and head.time is not None
    assert set(probe.time.parts) == {*PART_NAMES, FITTING} and set(head.time.parts) == set(PART_NAMES)
    assert probe.time.parts["checkpoints"] == 0 < probe.time.parts[FITTING]
    assert probe.time.parts["training"] < head.time.parts["training"] / 3
    assert probe.trainable_parameters == 2 * 32 + 2
