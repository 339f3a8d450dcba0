"""From a plan's parts to ``transformers.TrainingArguments``: the one place where the Trainer's options are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import HOST, Backend, get_backend

EvaluationStrategy = Literal["no", "epoch"]

EVALUATION_BATCHES_ON_DEVICE = 16
"""Reduced predictions (two numbers per row) move to the host after this many evaluation batches."""

CHECKPOINTS_KEPT = 2
"""The newest valid checkpoint and its predecessor, so that one of them is whole at every moment."""


def training_arguments(
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    output_dir: Path | str,
    *,
    seed: int = 42,
    device_type: str = HOST,
    evaluation: EvaluationStrategy = "no",
    max_steps: int = -1,
    logging_steps: int = 1,
) -> TrainingArguments:
    """The stock Trainer's arguments for one strategy and one execution plan.

    Gradient checkpointing is not among them: the built model already has it switched on, so that the traced model and
    the trained one are the same object graph. Nor is LoRA-FA's optimizer, which the Trainer is handed ready made.
    Checkpoints are requested by a callback, never by the Trainer's own schedule. Its filter of infinite losses is off:
    it would hide that a run diverges, and it waits for the backward pass of each micro-batch.

    Args:
        strategy: Learning rate, schedule, epochs, clipping.
        execution: Batch sizes, accumulation, mixed precision, optimizer implementation.
        output_dir: Where the Trainer writes its ``checkpoint-*`` folders.
        seed: Of the data order and of everything drawn during training.
        device_type: Name of the back end. The host's keeps the Trainer off any GPU; a card's uses the first visible one
            alone.
        evaluation: ``"epoch"`` evaluates after each epoch and at the end.
        max_steps: Optimizer steps; -1 trains for ``strategy.num_train_epochs``.
        logging_steps: Optimizer steps between two logged losses.
    """
    backend = get_backend(device_type)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=strategy.learning_rate,
        num_train_epochs=strategy.num_train_epochs,
        lr_scheduler_type=strategy.lr_scheduler_type,
        warmup_steps=strategy.warmup_ratio,  # below one it is a share of all steps (warmup_ratio is gone since 5.x)
        weight_decay=strategy.weight_decay,
        max_grad_norm=strategy.max_grad_norm,
        per_device_train_batch_size=execution.micro_batch_size,
        per_device_eval_batch_size=execution.evaluation_batch_size,
        gradient_accumulation_steps=execution.gradient_accumulation_steps,
        optim="adamw_torch" if execution.optim == "lorafa" else execution.optim,
        bf16=execution.amp == "bf16",
        fp16=execution.amp == "fp16",
        use_cpu=backend.is_host,
        train_sampling_strategy="group_by_length" if execution.group_by_length else "random",
        torch_compile=execution.torch_compile,
        **_on_the_device(execution, backend),
        max_steps=max_steps,
        seed=seed,
        data_seed=seed,
        eval_strategy=evaluation,
        eval_accumulation_steps=EVALUATION_BATCHES_ON_DEVICE,
        save_strategy="no",
        save_total_limit=checkpoints_kept(strategy),
        logging_steps=logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        dataloader_num_workers=0,  # rows lie tokenised in memory: making a batch takes less than handing it over
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    pin_to_one_device(arguments)
    if not backend.is_host:
        _settle_tf32(execution.tf32)
    return arguments


def checkpoints_kept(strategy: StrategyConfig) -> int:
    """How many stay on the disk: the best one, too, where it will be the result."""
    return CHECKPOINTS_KEPT + strategy.load_best_model_at_end


def _on_the_device(execution: ExecutionPlan, backend: Backend) -> dict[str, Any]:
    """What lets the host run ahead of a GPU: nothing waits for the device between two logged losses.

    Batches are copied from pinned memory without waiting for the copy (on the stream, which orders it before its use).
    TF32 is stated either way: what an earlier run of the process chose does not last.
    """
    if backend.is_host:
        return {"dataloader_pin_memory": False}
    return {
        "dataloader_pin_memory": True,
        "accelerator_config": {"non_blocking": True},
        "tf32": execution.tf32,
    }


def _settle_tf32(wanted: bool) -> None:
    """Say through torch's older switch, too, whether float32 products may use TF32.

    The Trainer says it through the newer one (``torch.backends.fp32_precision``). Where the two differ, torch raises
    when it is asked through the older one (aten/src/ATen/Context.cpp, "mix of the legacy and new APIs"), and
    ``torch.compile`` asks there: no step with TF32 would compile.
    """
    torch.set_float32_matmul_precision("high" if wanted else "highest")


def pin_to_one_device(arguments: TrainingArguments) -> None:
    """Keep the Trainer from wrapping the model in ``DataParallel`` over every visible GPU.

    The Trainer does the same to its own arguments for model-parallel models; there is no public switch.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
