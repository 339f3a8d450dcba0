from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.strategies import get_strategy
from advisor.strategies.sparsity import (
    CubicSchedule,
    SparsityCallback,
    achieved_sparsity,
    adapter_weights,
    prune_,
    schedule_for,
)
from advisor.training.build import build_model
from tests.strategies.conformance import EXECUTION, arguments, rows, save_tiny_model, train

STEPS = 24


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return save_tiny_model("bert", tmp_path_factory.mktemp("bert"))


def test_schedule_is_cubic() -> None:
    schedule = CubicSchedule(0.5, first_step=10, last_step=20)
    assert schedule.sparsity(10) == 0
    assert schedule.sparsity(15) == pytest.approx(0.5 * (1 - 0.5**3))
    assert schedule.sparsity(20) == schedule.sparsity(1000) == 0.5
    steps = [schedule.sparsity(step) for step in range(30)]
    assert steps == sorted(steps)


def test_masks_are_fixed_after_the_last_step() -> None:
    schedule = schedule_for(0.5, max_steps=1000)
    events = [step for step in range(1, 1001) if schedule.prunes_after(step)]
    assert events[-1] == schedule.last_step == 750
    assert events[0] > schedule.first_step == 100
    assert 25 <= len(events) <= 60


@pytest.mark.parametrize("max_steps", [1, 2, 3, 7])
def test_short_runs_reach_the_final_sparsity(max_steps: int) -> None:
    schedule = schedule_for(0.5, max_steps)
    assert schedule.prunes_after(schedule.last_step)
    assert schedule.last_step <= max_steps


def test_smallest_magnitudes_go_and_an_untrained_matrix_stays() -> None:
    weight = torch.tensor([[0.1, -3.0], [0.2, 1.0]])
    prune_(weight, 0.5)
    assert weight.tolist() == [[0.0, -3.0], [0.0, 1.0]]
    zero = torch.zeros(2, 2)
    prune_(zero, 0.5)
    assert not zero.any()


@pytest.mark.parametrize("method", ["sparse_lora", "sparse_qlora"])
def test_run_ends_at_the_wanted_sparsity(spec: ModelSpec, tmp_path: Path, method: str) -> None:
    strategy = get_strategy(method)
    config = strategy.configured(spec, learning_rate=1e-2, sparsity=0.7)
    model = build_model(spec, config, EXECUTION)
    assert achieved_sparsity(model) == 0, "B is zero before training, which is not sparsity"
    train(model, config, spec.task, tmp_path, max_steps=STEPS)
    assert achieved_sparsity(model) == pytest.approx(0.7, abs=0.005)
    for weight in adapter_weights(model):
        assert float((weight == 0).float().mean()) == pytest.approx(0.7, abs=0.005), "every matrix keeps its share"
    head = dict(model.named_parameters())["base_model.model.classifier.modules_to_save.default.weight"]
    assert bool((head != 0).all()), "the head is not pruned"
    if strategy.stores_4bit_weights:
        stored = [p for name, p in model.named_parameters() if name.endswith("query.base_layer.weight")]
        assert stored and all(weight.dtype == torch.uint8 for weight in stored), "the base stays in 4 bits"


def test_mask_does_not_move_in_the_last_quarter(spec: ModelSpec, tmp_path: Path) -> None:
    config = get_strategy("sparse_lora").configured(spec, learning_rate=1e-2)
    model = build_model(spec, config, EXECUTION)
    masks: dict[int, list[torch.Tensor]] = {}

    class Recorder(SparsityCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            masks[state.global_step] = [weight != 0 for weight in adapter_weights(kwargs["model"])]

    callback = Recorder(0.5, 1e-5)
    Trainer(
        model=model,
        args=arguments(tmp_path, config, max_steps=STEPS),
        train_dataset=rows(spec.task),
        callbacks=[callback],
    ).train()
    fixed_from = schedule_for(0.5, STEPS).last_step
    for step in range(fixed_from, STEPS):
        assert all(torch.equal(a, b) for a, b in zip(masks[step], masks[step + 1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(masks[fixed_from // 2], masks[fixed_from], strict=True))


class SaveAt(TrainerCallback):
    """Writes checkpoints after these steps and no others."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_save = state.global_step in self.steps


STOPS = (1, 10, 20)
"""Before pruning, while masks move, and after they are fixed."""


def trainer_of(spec: ModelSpec, folder: Path, callbacks: list[TrainerCallback]) -> Trainer:
    strategy = get_strategy("sparse_lora")
    config = strategy.configured(spec, learning_rate=1e-2)
    torch.manual_seed(2)
    return Trainer(
        model=build_model(spec, config, EXECUTION),
        args=arguments(folder, config, max_steps=STEPS, save_strategy="steps", save_steps=1000),
        train_dataset=rows(spec.task),
        callbacks=[*strategy.callbacks(config), *callbacks],
    )


@pytest.fixture(scope="module")
def uninterrupted(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = trainer_of(spec, tmp_path_factory.mktemp("whole"), [SaveAt(set(STOPS))])
    trainer.train()
    return trainer


@pytest.mark.parametrize("stopped_at", STOPS)
def test_resumed_run_equals_the_uninterrupted_one(
    spec: ModelSpec, uninterrupted: Trainer, tmp_path: Path, stopped_at: int
) -> None:
    resumed = trainer_of(spec, tmp_path, [])
    resumed.train(resume_from_checkpoint=str(Path(uninterrupted.args.output_dir) / f"checkpoint-{stopped_at}"))
    for expected, got in zip(uninterrupted.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_l1_pulls_weights_down(spec: ModelSpec, tmp_path: Path) -> None:
    sizes = []
    for l1_lambda in (0.0, 1.0):
        torch.manual_seed(2)
        config = get_strategy("sparse_lora").configured(spec, learning_rate=1e-3, l1_lambda=l1_lambda, sparsity=0.0)
        model = build_model(spec, config, EXECUTION)
        train(model, config, spec.task, tmp_path, max_steps=STEPS)
        sizes.append(sum(float(weight.detach().abs().sum()) for weight in adapter_weights(model)))
    assert sizes[1] < 0.9 * sizes[0]


def test_negative_l1_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(InputError, match="l1_lambda >= 0 must hold, but got -1"):
        get_strategy("sparse_lora").configured(spec, l1_lambda=-1.0)
