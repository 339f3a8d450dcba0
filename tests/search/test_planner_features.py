"""Frozen first layers are computed once where that pays and changes nothing, or where the user says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.search.planner import PlanRequest, SpeedKnobs
from advisor.search.planner.evaluator import can_keep_features
from advisor.strategies import get_strategy
from tests.search.planner_fakes import DATA, data_profile, plans_of
from tests.tracing.tiny import tiny_spec


@pytest.fixture(scope="module")
def cost_model(tmp_path_factory: pytest.TempPathFactory) -> CostModel:
    return CostModel(load_profile("rtx-4060"), cache_dir=tmp_path_factory.mktemp("traces"))


def spec(name: str, folder: Path) -> ModelSpec:
    return tiny_spec(name, "sequence-classification", folder)


def plan_of(model: ModelSpec, cost_model: CostModel, method: str = "head", keep: bool | None = None) -> Plan:
    data = data_profile(length=64, train_rows=2000)
    best = plans_of(model, cost_model, data=data, methods=[method], speed=SpeedKnobs(keep_features=keep)).best
    assert best is not None
    return best


def test_features_are_kept_where_the_model_has_no_dropout(cost_model: CostModel, tmp_path: Path) -> None:
    kept = plan_of(spec("llama", tmp_path), cost_model)
    usual = plan_of(spec("llama", tmp_path), cost_model, keep=False)
    assert kept.execution.keep_features and not usual.execution.keep_features
    parts, total_s = kept.predicted.time.parts, kept.predicted.time.total_s
    assert 0 < parts["features"] < usual.predicted.time.parts["training"]
    assert total_s == pytest.approx(sum(parts.values())) and total_s < usual.predicted.time.total_s
    assert kept.predicted.time.inference.samples_per_s == pytest.approx(
        usual.predicted.time.inference.samples_per_s, rel=0.2
    ), "the model that comes out has all its layers"
    same_batch = replace(kept.execution, keep_features=False)
    whole = cost_model.memory(kept.model, kept.strategy, same_batch)
    assert kept.predicted.memory.allocated_bytes >= 0.95 * whole.allocated_bytes, "the first pass needs memory, too"


@pytest.mark.slow
def test_dropout_stays_as_it_is_unless_the_user_says_so(cost_model: CostModel, tmp_path: Path) -> None:
    model = spec("bert", tmp_path)
    assert not plan_of(model, cost_model).execution.keep_features
    assert plan_of(model, cost_model, keep=True).execution.keep_features
    request = PlanRequest(model, DATA, data_profile(), speed=SpeedKnobs(keep_features=True))
    assert not can_keep_features(request, get_strategy("lora").default_config(model)), "it has no frozen first layers"
