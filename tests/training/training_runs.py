"""A tiny model with a tokenizer, a tiny labelled table, and ways for a run of them to die."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.strategies.lora import LoraKnobs

GOOD = ("good", "fine", "great", "warm", "funny", "fresh")
BAD = ("bad", "poor", "dull", "cold", "silly", "stale")
WORDS = (*GOOD, *BAD, "film", "plot", "cast", "the", "a", "was", "is", "very", "and", "it")


def save_model(folder: Path) -> Path:
    """A two-layer BERT with random weights and a word-level tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


def save_table(path: Path, rows: int = 200) -> Path:
    """Sentences of which every second word or so says what the label is."""
    drawn = random.Random(0)
    lines, seen = [], set()
    while len(lines) < rows:
        label = len(lines) % 2
        telling = drawn.choices((BAD, GOOD)[label], k=drawn.randint(2, 8))
        words = [*telling, *drawn.choices(WORDS[12:], k=drawn.randint(1, 6))]
        drawn.shuffle(words)
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            lines.append(json.dumps({"text": text, "label": ("negative", "positive")[label]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_plan(folder: Path, *, strategy: StrategyConfig | None = None, rows: int = 200, **execution: Any) -> Plan:
    """A plan over the tiny model and table, both made in ``folder`` when missing."""
    from advisor.training.data import profile_data, resolve_data
    from advisor.training.models import inspect_model, load_tokenizer

    model_dir, table = folder / "model", folder / f"rows-{rows}.jsonl"
    if not model_dir.exists():
        save_model(model_dir)
    if not table.exists():
        save_table(table, rows)
    data = resolve_data(
        str(table), task="sequence-classification", text_column="text", label_column="label", eval_fraction=0.2
    )
    spec = inspect_model(str(model_dir), "sequence-classification")
    return Plan(
        model=spec,
        data=data,
        data_profile=profile_data(data, spec, load_tokenizer(spec), max_seq_length=32),
        strategy=strategy or lora_strategy(),
        execution=ExecutionPlan(**{"micro_batch_size": 4, "max_seq_length": 32, "num_threads": 1, **execution}),
        device="cpu-test",
        seed=7,
    )


def lora_strategy(**knobs: Any) -> StrategyConfig:
    config = StrategyConfig("lora", 1e-2, num_train_epochs=2.0, knobs=LoraKnobs(rank=4, lora_alpha=8))
    return config.replaced(**knobs)


def train_here(plan: Plan, output_dir: Path, save_every_s: float, resume: bool = True) -> Any:
    from advisor.training.trainer import train

    return train(plan, output_dir, resume=resume, save_every_s=save_every_s)


def train_and_die_while_saving(plan: Plan, output_dir: Path, save_every_s: float, on_call: int) -> None:
    """``torch.save`` writes half of its file and the process is killed, at its ``on_call``-th call."""
    import torch

    calls, original = [0], torch.save

    def half_written(value: Any, path: Any, **options: Any) -> None:
        original(value, path, **options)
        calls[0] += 1
        if calls[0] == on_call:
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half_written
    train_here(plan, output_dir, save_every_s)


def train_and_die_before_marking(plan: Plan, output_dir: Path, save_every_s: float, on_call: int) -> None:
    """Every file of the checkpoint is there, only the marker is not."""
    from advisor.training import checkpoints

    calls, original = [0], checkpoints.mark_complete

    def kill_instead(folder: Path) -> None:
        calls[0] += 1
        if calls[0] == on_call:
            os.kill(os.getpid(), signal.SIGKILL)
        original(folder)

    checkpoints.mark_complete = kill_instead
    train_here(plan, output_dir, save_every_s)


def train_with_interrupts(plan: Plan, output_dir: Path, at_step: int) -> Any:
    """Ctrl-C in the middle of an optimizer step."""
    from advisor.training.callbacks import StepClock
    from advisor.training.trainer import train

    original = StepClock.on_step_begin

    def interrupting(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step + 1 == at_step:
            os.kill(os.getpid(), signal.SIGINT)

    StepClock.on_step_begin = interrupting
    return train(plan, output_dir, resume=True)


def train_into_full_disk(plan: Plan, output_dir: Path, limit_bytes: int) -> Any:
    """The operating system refuses to write files beyond ``limit_bytes``."""
    import resource

    from advisor.measurement.run import run_in_this_process

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    return run_in_this_process(plan, output_dir)
