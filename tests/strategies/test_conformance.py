"""Every registered strategy: builds, trains, changes only what it declares, saves, reloads, builds without weights."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.core.model import ModelSpec
from advisor.core.serialization import from_dict, to_dict
from advisor.core.strategy import SHARED_KNOBS, StrategyConfig
from advisor.strategies import FloatDimension, IntDimension, get_strategy
from advisor.training.build import build_model
from tests.strategies.conformance import (
    CASES,
    EXECUTION,
    MODELS,
    Case,
    loss_and_logits,
    save_tiny_model,
    snapshot,
    train,
)
from tests.training.reloading import load_trained

LEARNING_RATE = 1e-2
FIRST_VERSION_KNOBS = (
    *("rank", "lora_alpha", "lora_dropout", "target_modules", "unfrozen_layers", "sparsity", "l1_lambda"),
    "peft_config",
)
"""What version 1 of a plan lists for every method, with null where the method has no such knob."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    return {model: save_tiny_model(model, tmp_path_factory.mktemp(model)) for model in MODELS}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def config_of(case: Case, spec: ModelSpec) -> StrategyConfig:
    return get_strategy(case.strategy).configured(spec, learning_rate=LEARNING_RATE)


def test_trains_what_it_declares_and_comes_back(case: Case, specs: dict[str, ModelSpec], tmp_path) -> None:
    spec = specs[case.model]
    strategy, config = get_strategy(case.strategy), config_of(case, spec)
    torch.manual_seed(1)
    model = build_model(spec, config, EXECUTION)
    assert model.training
    declared = strategy.declared_trainable(model, config)
    assert declared and declared == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    before, (loss_before, _) = snapshot(model), loss_and_logits(model, case.task)
    train(model, config, case.task, tmp_path / "run")
    after, (loss_after, logits) = snapshot(model), loss_and_logits(model, case.task)

    assert loss_after < loss_before - 0.05
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed, "nothing was trained"
    assert {name for name in changed if name not in declared} == set()
    assert len(changed) >= 0.8 * len(declared), (
        f"hardly any of the declared parameters moved: {sorted(declared - changed)}"
    )

    strategy.save(model, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.bin")), "only safetensors are written"
    reloaded = load_trained(spec, config, EXECUTION, tmp_path / "saved")
    assert torch.equal(loss_and_logits(reloaded, case.task)[1], logits)


def test_builds_from_the_configuration_alone(case: Case, specs: dict[str, ModelSpec], fake_device) -> None:
    spec = specs[case.model]
    config = config_of(case, spec)
    real = build_model(spec, config, EXECUTION)
    with fake_device():
        empty = build_model(spec, config, EXECUTION, empty=True)
    assert described(empty) == described(real)
    assert all(isinstance(parameter.fake_mode, FakeTensorMode) for parameter in empty.parameters())


def described(model: torch.nn.Module) -> dict[str, tuple]:
    """Names, sizes, types and gradients of all parameters; a tied one once."""
    return {
        name: (tuple(parameter.shape), parameter.dtype, parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }


def test_defaults_are_valid_and_sourced(case: Case, specs: dict[str, ModelSpec]) -> None:
    spec, strategy = specs[case.model], get_strategy(case.strategy)
    config = strategy.default_config(spec)
    assert config.method == strategy.name == case.strategy
    assert strategy.problems(config, spec) == []
    assert strategy.applies_to(spec) is None
    assert len(strategy.defaults_source) > 20
    assert strategy.title


def test_traits_agree_with_each_other(case: Case, specs: dict[str, ModelSpec]) -> None:
    spec, strategy = specs[case.model], get_strategy(case.strategy)
    config = strategy.default_config(spec)
    assert type(config.knobs) is strategy.knobs
    assert not SHARED_KNOBS & {knob.name for knob in dataclasses.fields(strategy.knobs)}
    assert strategy.stores_4bit_weights == (strategy.quantization(config) is not None)
    assert strategy.stateful or not strategy.trains_all_weights
    assert strategy.trains_base_weights or not strategy.stateful
    json.dumps(strategy.trace_key(config))


def test_a_configuration_is_the_same_after_json(case: Case, specs: dict[str, ModelSpec]) -> None:
    config = config_of(case, specs[case.model])
    values = to_dict(config)
    assert from_dict(StrategyConfig, values, what="it") == config
    first_version = dict.fromkeys(FIRST_VERSION_KNOBS) | values
    assert from_dict(StrategyConfig, first_version, what="it") == config


def test_defaults_lie_inside_the_search_space(case: Case, specs: dict[str, ModelSpec]) -> None:
    spec, strategy = specs[case.model], get_strategy(case.strategy)
    space, config = strategy.search_space(spec), strategy.default_config(spec)
    assert ("lr_rel" in space) is not strategy.fits_frozen_features
    for name, dimension in space.items():
        value = config.knob(name)
        if isinstance(dimension, IntDimension | FloatDimension):
            assert dimension.low <= value <= dimension.high, name
        else:
            assert value in dimension.choices, name


def test_the_ends_of_the_search_space_are_valid(case: Case, specs: dict[str, ModelSpec]) -> None:
    spec, strategy = specs[case.model], get_strategy(case.strategy)
    for name, dimension in strategy.search_space(spec).items():
        ends = (
            (dimension.low, dimension.high)
            if isinstance(dimension, IntDimension | FloatDimension)
            else dimension.choices
        )
        for value in ends:
            changes = {"rank": 8} if name == "target_modules" and strategy.default_config(spec).rank else {}
            assert strategy.problems(strategy.configured(spec, **(changes | {name: value})), spec) == []


def test_checkpointing_leaves_the_gradients_as_they_are(case: Case, specs: dict[str, ModelSpec]) -> None:
    from dataclasses import replace

    from tests.strategies.conformance import batch

    spec, config = specs[case.model], config_of(case, specs[case.model])
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        model = build_model(spec, config, replace(EXECUTION, gradient_checkpointing=checkpointing))
        torch.manual_seed(6)
        model(**batch(case.task)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert (gradient is None) == (checkpointed[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, checkpointed[name], rtol=1e-4, atol=1e-6)
