"""Learning from preferences: what is measured, the model before training, and TRL's trainer around both."""

from __future__ import annotations

import dataclasses
import math
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from transformers import EvalPrediction

from advisor.core.errors import InputError
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.running import run
from advisor.strategies import get_strategy
from advisor.strategies.lora import LoraKnobs
from advisor.tracing.kernel_temporaries import TILE, TILE_TOKENS, hidden_bytes
from advisor.tracing.preference_step import _HostKernels, _Scores
from advisor.tracing.recorder import StepRecorder
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.build import build_model
from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.preferences import BETA, frozen_copy
from advisor.training.quality import resampled_figures
from advisor.training.tasks import get_task
from advisor.training.tasks.dpo import DPO
from tests.core.test_dependencies import PROJECT
from tests.tracing.tiny import tiny_spec
from tests.training.tasks.cases import tiny_task_plan

TASK = get_task("dpo")
LORA = StrategyConfig("lora", 1e-2, num_train_epochs=3.0, knobs=LoraKnobs(rank=4, lora_alpha=8))
FULL = StrategyConfig("full", 1e-3, num_train_epochs=1.0)
KEPT = torch.tensor([[-5.0, -9.0, -7.0, -8.0], [-4.0, -2.0, -3.0, -4.0], [-6.0, -6.0, -6.0, -6.0]])
"""Log-probabilities of three pairs: chosen and rejected answer now, then both before training."""


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_rewards() -> None:
    held_out = HeldOut(TASK)
    figures = held_out.compute_metrics(EvalPrediction(KEPT.numpy(), np.ones(3)))
    margins = [BETA * 3, BETA * -3, 0.0]
    assert figures["reward_accuracy"] == pytest.approx(1 / 3), "equal rewards prefer neither"
    assert figures["reward_margin"] == pytest.approx(0.0)
    assert figures["nll"] == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins) / 3)
    columns = held_out.predictions()
    assert columns["chosen_reward"] == pytest.approx([BETA * 2, BETA * -1, 0.0])
    final = held_out.final_metrics()
    assert final == {name: pytest.approx(figures[name]) for name in ("reward_accuracy", "reward_margin")}
    logged = held_out_metrics({f"eval_{name}": value for name, value in figures.items()})
    assert logged["eval_loss"] == pytest.approx(figures["nll"])


def test_bootstrap_samples_of_the_figures() -> None:
    columns = TASK.predictions(EvalPrediction(KEPT.numpy(), np.ones(3)))
    counts = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    for metric in TASK.metrics:
        drawn = [{name: np.repeat(values, count) for name, values in columns.items()} for count in counts]
        assert resampled_figures(metric, columns, counts) == pytest.approx([metric.compute(part) for part in drawn])


# --- the trainer's package --------------------------------------------------------------------------------------------


def test_the_extra_installs_what_the_task_asks_for() -> None:
    assert PROJECT["optional-dependencies"][TASK.traits.extra] == [TASK.traits.trainer_package]
    name = PROJECT["name"]

    class Elsewhere(DPO):
        traits = dataclasses.replace(DPO.traits, trainer_package="no-such-package>=1")

    with pytest.raises(InputError, match="no-such-package>=1, but it is not installed") as refused:
        Elsewhere().require_trainer()
    assert f'pip install "{name}[dpo]"' in str(refused.value.fix)

    class Newer(DPO):
        traits = dataclasses.replace(DPO.traits, trainer_package="numpy>=999")

    with pytest.raises(InputError, match=f"but numpy {metadata.version('numpy')} is installed"):
        Newer().require_trainer()


def test_a_run_without_it_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_task_plan(TASK.name, tmp_path, LORA)
    missing = Requirement(TASK.traits.trainer_package).name
    found = metadata.version

    def version(name: str) -> str:
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(InputError, match=r"learning from preferences .* is not installed") as refused:
        run(plan, tmp_path / "run")
    assert 'pip install "finetune-advisor[dpo]"' in str(refused.value.fix)
    assert not (tmp_path / "run").exists()


# --- the model before training ----------------------------------------------------------------------------------------


def weights_bytes(method: str, task: str, folder: Path) -> tuple[int, int]:
    """What is held before a step, and the parameters of the model that trains."""
    spec = tiny_spec("llama", task, folder)
    strategy = get_strategy(method).default_config(spec)
    trace = trace_step(TraceRequest(spec, strategy, ExecutionPlan(2), 16, evaluation=False))
    tiles = {call.sizes[0] for _, call in trace.recording.kernel_calls if call.rule == TILE}
    assert tiles == ({2 * 2 * 15} if task == TASK.name else set()), "every position but the last, of both answers"
    held = sum(s.size_bytes for s in trace.recording.storages if s.phase == "weights")
    return held, trace.total_parameters


def test_a_copy_is_held_where_no_adapter_can_be_switched_off(tmp_path: Path) -> None:
    for method, copies in (("full", 1), ("lora", 0)):
        alone, parameters = weights_bytes(method, "causal-lm", tmp_path)
        paired, same = weights_bytes(method, TASK.name, tmp_path)
        assert same == parameters, "the copy is no part of the model"
        extra = paired - alone
        assert extra >= copies * 4 * parameters
        assert extra <= copies * 4.01 * parameters, "but for buffers"


def test_the_copy_stays_as_it_is(tmp_path: Path) -> None:
    spec = tiny_spec("llama", TASK.name, tmp_path)
    model = build_model(spec, FULL, ExecutionPlan(2))
    reference = frozen_copy(model)
    assert reference is not None and not reference.training
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))
    assert not any(p.requires_grad for p in reference.parameters())
    adapted = build_model(spec, get_strategy("lora").default_config(spec), ExecutionPlan(2))
    assert frozen_copy(adapted) is None
    dropouts = [m for m in adapted.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts and all(dropout.p == 0 for dropout in dropouts)


def test_an_adapter_in_place_of_the_output_projection_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec("llama", TASK.name, tmp_path)
    strategy = get_strategy("peft").configured(
        spec, peft_config={"peft_type": "LORA", "target_modules": ["lm_head"], "task_type": "CAUSAL_LM"}
    )
    with pytest.raises(InputError, match="output projection without an adapter"):
        build_model(spec, strategy, ExecutionPlan(2), empty=True)


@pytest.mark.parametrize(("init", "refused"), [("pissa_niter_4", True), ("olora", True), ("gaussian", False)])
def test_adapters_that_take_weights_from_the_base_are_refused(init: str, refused: bool, tmp_path: Path) -> None:
    """The rule, and that the others leave the model without its adapter as it was."""
    spec = tiny_spec("llama", TASK.name, tmp_path)
    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "init_lora_weights": init}
    strategy = get_strategy("peft").configured(spec, peft_config=config)
    assert bool(get_strategy("peft").changed_base(strategy)) is refused
    if refused:
        with pytest.raises(InputError, match=f"{init}' moves a part of its weights into the adapter"):
            build_model(spec, strategy, ExecutionPlan(2), empty=True)
    else:
        build_model(spec, strategy, ExecutionPlan(2), empty=True)


@pytest.mark.parametrize(
    "knobs", [{"loss": "fused-linear"}, {"hold_outputs": True}, {"optim": "lorafa"}, {"keep_features": True}], ids=str
)
def test_other_loops_are_refused(knobs: dict[str, Any], tmp_path: Path) -> None:
    spec = tiny_spec("llama", TASK.name, tmp_path)
    method = "partial" if "keep_features" in knobs else "lora"
    with pytest.raises(InputError, match=TASK.name):
        build_model(spec, get_strategy(method).default_config(spec), ExecutionPlan(2, **knobs), empty=True)


# --- the traced step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, 2.0])
def test_what_is_traced_computes_log_probabilities_and_their_gradients(bound: float | None) -> None:
    """Of a vocabulary of more than one tile."""
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((6, 4), (40_000, 4), (40_000,))]
    targets = torch.tensor([0, 32_767, 32_768, 39_999, 5, 7])
    with StepRecorder("cpu", masked=True) as recorder:
        found = _Scores.apply(*inputs, targets, _HostKernels(), recorder.tiles, bound, True)
    scores = inputs[0] @ inputs[1].T + inputs[2]
    scores = scores if bound is None else bound * torch.tanh(scores / bound)
    logarithms = scores.log_softmax(-1)
    expected = logarithms.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(found[0], expected, atol=1e-5)
    assert torch.allclose(found[1], -(logarithms.exp() * logarithms).sum(-1), atol=1e-4)
    assert torch.equal(found[3], scores.argmax(-1) == targets)
    upstream = torch.linspace(-1, 1, 6)
    for one, other in zip(
        torch.autograd.grad(found[0], inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_tiles_do_not_grow_beyond_their_limit() -> None:
    assert hidden_bytes(TILE, (100, 8)) == (800,)
    assert hidden_bytes(TILE, (100_000, 8)) == (8 * TILE_TOKENS,)
