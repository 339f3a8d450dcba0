"""The Trainer's options follow the plan, and the optimizer made without a Trainer is the Trainer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import get_backend
from advisor.training.arguments import _on_the_device, _settle_tf32, training_arguments
from advisor.training.optimizer import create_optimizer

STRATEGY = StrategyConfig("full", 3e-4, weight_decay=0.02, warmup_ratio=0.1, max_grad_norm=0.5)


def model() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adamw_bnb_8bit"])
def test_the_optimizer_is_the_trainers(optim: Any, tmp_path: Path) -> None:
    built, execution = model(), ExecutionPlan(4, optim=optim)
    built.bert.embeddings.requires_grad_(False)
    ours = create_optimizer(built, STRATEGY, execution)
    theirs = Trainer(model=built, args=training_arguments(STRATEGY, execution, tmp_path)).create_optimizer()
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults
    for group, expected in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert all(a is b for a, b in zip(group["params"], expected["params"], strict=True))
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in expected.items() if k != "params"}


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_the_optimizer_works_on_fake_parameters_of_any_precision(amp: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        built = model()
        optimizer = create_optimizer(built, STRATEGY, ExecutionPlan(4, amp=amp))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(built.parameters()))
    assert optimizer.defaults["fused"] is True


def test_arguments_follow_the_plan(tmp_path: Path) -> None:
    execution = ExecutionPlan(4, 8, amp="bf16", optim="sgd", eval_batch_size=64)
    arguments = training_arguments(STRATEGY, execution, tmp_path, seed=11, evaluation="epoch")
    assert arguments.learning_rate == 3e-4
    assert arguments.weight_decay == 0.02
    assert arguments.max_grad_norm == 0.5
    assert arguments.get_warmup_steps(200) == 20
    assert arguments.get_warmup_steps(3) == 1
    assert (arguments.train_batch_size, arguments.gradient_accumulation_steps, arguments.eval_batch_size) == (4, 8, 64)
    assert (arguments.bf16, arguments.fp16) == (True, False)
    assert arguments.seed == arguments.data_seed == 11
    assert arguments.device == torch.device("cpu")
    assert arguments.report_to == []
    assert arguments.dataloader_pin_memory is False


def test_never_more_than_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    from advisor.training.arguments import pin_to_one_device

    arguments = training_arguments(STRATEGY, ExecutionPlan(4), tmp_path)
    arguments._n_gpu = 4  # what transformers finds on a machine with four visible GPUs
    assert TrainingArguments.n_gpu.fget(arguments) == 4
    pin_to_one_device(arguments)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 4


def test_nothing_on_a_gpu_waits_for_the_device_between_two_logged_losses() -> None:
    options = _on_the_device(ExecutionPlan(4, tf32=True), get_backend("cuda"))
    assert options["dataloader_pin_memory"] is True
    assert options["accelerator_config"] == {"non_blocking": True}
    assert options["tf32"] is True
    assert _on_the_device(ExecutionPlan(4), get_backend("cuda"))["tf32"] is False
    assert _on_the_device(ExecutionPlan(4, tf32=True), get_backend("cpu")) == {"dataloader_pin_memory": False}


def test_torchs_two_switches_of_tf32_agree(tmp_path: Path) -> None:
    """torch raises when it is asked through the older one and they do not; torch.compile asks there."""
    newer, older = torch.backends.fp32_precision, torch.get_float32_matmul_precision()
    try:
        for wanted, mode in ((True, "tf32"), (False, "ieee"), (True, "tf32")):
            torch.backends.fp32_precision = mode  # as the Trainer's arguments do on a GPU
            _settle_tf32(wanted)
            assert torch._C._get_cublas_allow_tf32() is wanted
            assert torch.backends.cuda.matmul.fp32_precision == mode
        training_arguments(STRATEGY, ExecutionPlan(4), tmp_path, device_type="cuda")
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        _settle_tf32(True)
        training_arguments(STRATEGY, ExecutionPlan(4), tmp_path)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32", "a CPU has nothing to settle"
    finally:
        torch.backends.fp32_precision = newer
        torch.set_float32_matmul_precision(older)


def test_grouping_and_compilation_reach_the_trainer_but_not_a_trace(tmp_path: Path) -> None:
    execution = ExecutionPlan(4, group_by_length=True, torch_compile=True)
    arguments = training_arguments(STRATEGY, execution, tmp_path)
    assert arguments.train_sampling_strategy == "group_by_length"
    assert arguments.torch_compile is True
    assert training_arguments(STRATEGY, ExecutionPlan(4), tmp_path).train_sampling_strategy == "random"
    assert create_optimizer(model(), STRATEGY, ExecutionPlan(4, tf32=True)).defaults["fused"] is True


def test_steps_of_a_run_are_timed_by_the_device_only_where_there_is_one(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    from advisor.training.callbacks import StepClock

    clock, arguments = StepClock(waiting=False), training_arguments(STRATEGY, ExecutionPlan(4), tmp_path)
    for _ in range(3):
        clock.on_step_begin(arguments, TrainerState(), TrainerControl())
        clock.on_step_end(arguments, TrainerState(), TrainerControl())
    assert len(clock.step_times_s) == 3
    assert all(0 <= seconds < 1 for seconds in clock.step_times_s)
