"""Every registered strategy conforms to the cost model: traced in CPU and CUDA semantics, counts as built."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.model import ModelSpec
from advisor.strategies import get_strategy
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.build import build_model
from tests.strategies.conformance import CASES, EXECUTION, LENGTH, MODELS, Case, save_tiny_model


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder: Path = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(name, folder / name) for name in MODELS}


@pytest.mark.parametrize("semantics", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_traced(case: Case, semantics: str, specs: dict[str, ModelSpec]) -> None:
    spec = specs[case.model]
    strategy = get_strategy(case.strategy).default_config(spec)
    trace = trace_step(TraceRequest(spec, strategy, EXECUTION, LENGTH, semantics=semantics))
    phases = {operator.phase for operator in trace.recording.operators}
    forward_only = get_strategy(case.strategy).fits_frozen_features
    assert phases == {"forward", "evaluation"} | ({"backward", "optimizer"} if not forward_only else set())
    built = build_model(spec, strategy, EXECUTION)
    assert trace.trainable_parameters == sum(p.numel() for p in built.parameters() if p.requires_grad)
    kinds = {storage.kind for storage in trace.recording.storages}
    trained = {"optimizer_state", "gradient", "activation"}
    assert {"weight"} | (trained if not forward_only else set()) <= kinds
