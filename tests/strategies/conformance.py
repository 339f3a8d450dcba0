"""What every registered strategy is tested on: two tiny models, real steps, and the same checks for all.

Other suites (traceability on CPU and CUDA semantics) import ``CASES``, ``tiny_config``, ``save_tiny_model`` and
``EXECUTION`` from here, so that a new strategy is tested everywhere once it is registered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, LlamaConfig, PreTrainedConfig, Trainer, TrainingArguments

from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import task_traits
from advisor.strategies import get_strategy, strategy_names
from advisor.strategies.skeleton import auto_class
from advisor.training.models import inspect_model

VOCAB_SIZE = 64
LENGTH = 12
MODELS: dict[str, Task] = {"bert": "sequence-classification", "llama": "causal-lm"}
EXECUTION = ExecutionPlan(micro_batch_size=8, max_seq_length=LENGTH)


@dataclass(frozen=True)
class Case:
    """One strategy on one tiny model."""

    strategy: str
    model: str

    @property
    def task(self) -> Task:
        return MODELS[self.model]

    def __str__(self) -> str:
        return f"{self.strategy}-{self.model}"


def _applies(strategy: str, task: Task) -> bool:
    return task_traits(task).one_class_per_row or not get_strategy(strategy).fits_frozen_features


CASES = [
    Case(strategy, model) for strategy in strategy_names() for model, task in MODELS.items() if _applies(strategy, task)
]


def tiny_config(model: str) -> PreTrainedConfig:
    """Three layers, so that a frozen one is left below the two that partial fine-tuning unfreezes."""
    if model == "bert":
        return BertConfig(
            vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=32,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip


def save_tiny_model(model: str, folder: Path) -> ModelSpec:
    """A random model in transformers' format, inspected; its weights are larger than usual so that few steps show."""
    torch.manual_seed(7)
    made = auto_class(MODELS[model]).from_config(tiny_config(model))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    made.save_pretrained(folder)
    return inspect_model(str(folder), MODELS[model])


def rows(task: Task, count: int = 64) -> list[dict[str, torch.Tensor]]:
    """Classification: does token 5 or token 6 stand at the start. Language: four sentences over and over."""
    generator = torch.Generator().manual_seed(3)
    sentences = torch.randint(8, VOCAB_SIZE, (count, LENGTH), generator=generator)
    if task == "causal-lm":
        sentences = sentences[:4].repeat(count // 4, 1)
        return [{"input_ids": s, "attention_mask": torch.ones_like(s), "labels": s} for s in sentences]
    labels = torch.arange(count) % 2
    sentences[:, 0] = 5 + labels
    return [
        {"input_ids": s, "attention_mask": torch.ones_like(s), "labels": label}
        for s, label in zip(sentences, labels, strict=True)
    ]


def arguments(folder: Path, config: StrategyConfig, max_steps: int = 30, **options: Any) -> TrainingArguments:
    """The stock Trainer's arguments for a few quiet steps on the CPU."""
    values: dict[str, Any] = {
        "output_dir": str(folder), "use_cpu": True, "max_steps": max_steps, "per_device_train_batch_size": 16,
        "learning_rate": config.learning_rate, "report_to": "none", "save_strategy": "no", "logging_steps": 1000,
        "disable_tqdm": True, "seed": 11, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    }  # fmt: skip
    return TrainingArguments(**(values | options))


def train(model: nn.Module, config: StrategyConfig, task: Task, folder: Path, **options: Any) -> Trainer:
    """Real steps through the stock Trainer, with the strategy's own callbacks."""
    trainer = Trainer(
        model=model,
        args=arguments(folder, config, **options),
        train_dataset=rows(task),
        callbacks=get_strategy(config.method).callbacks(config),
    )
    trainer.train()
    return trainer


def batch(task: Task) -> dict[str, torch.Tensor]:
    examples = rows(task, 16)
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}


@torch.no_grad()
def loss_and_logits(model: nn.Module, task: Task) -> tuple[float, torch.Tensor]:
    """In evaluation mode, on fixed rows."""
    was_training = model.training
    outputs = model.eval()(**batch(task))
    model.train(was_training)
    return float(outputs.loss), outputs.logits.clone()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters (a tied one once, under its first name) and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in named}
