"""The fused loss is the standard loss, in value and in every gradient, and refuses what it cannot be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.measurement.step_profile import memory_events
from advisor.strategies.peft import PeftKnobs
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer
from advisor.training.build import build_model
from advisor.training.data.collators import PaddingCollator
from advisor.training.loss import CHUNKS, fused_evaluation, linear_cross_entropy
from advisor.training.metrics import held_out_metrics
from tests.tracing.peft_methods import peft_strategy
from tests.tracing.tiny import tiny_spec

ROWS, WIDTH, VOCAB = 37, 16, 50
FULL = StrategyConfig("full", 1e-3)
FUSED = ExecutionPlan(2, loss="fused-linear")


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(VOCAB, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    targets[::5] = -100
    return hidden, weight, bias, targets


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("items", [None, 12, torch.tensor(12)])
def test_value_and_gradients_are_those_of_cross_entropy(with_bias: bool, items: Any) -> None:
    results = []
    for fused in (True, False):
        hidden, weight, bias, targets = inputs()
        offset = bias if with_bias else None
        if fused:
            loss = linear_cross_entropy(hidden, weight, targets, offset, items=items)
        else:
            logits = torch.nn.functional.linear(hidden, weight, offset)
            reduction = "mean" if items is None else "sum"
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction=reduction) / (
                1 if items is None else items
            )
        (3 * loss).backward()
        results.append((loss.detach(), hidden.grad, weight.grad, *([bias.grad] if with_bias else [])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_half_precision_stays_close_to_float32() -> None:
    hidden, weight, _, targets = inputs(torch.bfloat16)
    linear_cross_entropy(hidden, weight, targets).backward()
    exact, exact_weight = hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    linear_cross_entropy(exact, exact_weight, targets).backward()
    for ours, theirs in ((hidden.grad, exact.grad), (weight.grad, exact_weight.grad)):
        assert ours is not None and theirs is not None
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


def test_autocast_computes_in_its_type_and_returns_the_parameters_type() -> None:
    hidden, weight, _, targets = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear_cross_entropy(hidden, weight, targets, items=1).backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    assert torch.equal(hidden.grad, hidden.grad.bfloat16().float())


def test_a_frozen_projection_gets_no_gradient() -> None:
    hidden, weight, _, targets = inputs()
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None and hidden.grad is not None


@pytest.mark.parametrize("rows", [1, CHUNKS - 1, CHUNKS, CHUNKS + 1])
def test_any_number_of_rows(rows: int) -> None:
    hidden, weight, _, targets = inputs()
    hidden, targets = hidden[:rows], targets[:rows].clamp(min=0)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), expected)


@pytest.mark.parametrize(("name", "changes"), [("llama", {}), ("gpt2", {}), ("qwen2", {"tie_word_embeddings": True})])
def test_models_learn_the_same(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    spec = tiny_spec(name, "causal-lm", tmp_path, **changes)
    batch = {"input_ids": torch.randint(0, 100, (2, 12)), "labels": torch.randint(0, 100, (2, 12))}
    batch["labels"][0, :5] = -100
    results = []
    for execution in (ExecutionPlan(2), FUSED):
        torch.manual_seed(0)
        model = build_model(spec, FULL, execution)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss = model(**batch, num_items_in_batch=torch.tensor(17)).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (standard, expected), (fused, gradients) = results
    torch.testing.assert_close(fused, standard, rtol=1e-5, atol=1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-5)


def test_a_forward_pass_without_training_keeps_its_logits(tmp_path: Path) -> None:
    model = build_model(tiny_spec("llama", "causal-lm", tmp_path), FULL, FUSED).eval()
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.ones(2, 8, dtype=torch.long)}
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.shape == (2, 8, 2000)
    model.train()
    torch.testing.assert_close(model(**batch).loss, output.loss, rtol=1e-5, atol=1e-5)


class Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Rows of several lengths whose first two tokens have no label."""

    lengths = (5, 8, 11, 7, 9, 4)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(2, 2000, (self.lengths[index],), generator=generator).tolist()
        return {"input_ids": tokens, "labels": [-100, -100, *tokens[2:]]}


def evaluated(spec: ModelSpec, strategy: StrategyConfig, folder: Path, **changes: Any) -> tuple[Any, dict[str, float]]:
    """The Trainer, and its held-out figures of ``Rows`` before training."""
    execution = ExecutionPlan(2, **changes)
    torch.manual_seed(0)
    trainer = assemble_trainer(
        build_model(spec, strategy, execution),
        training_arguments(strategy, execution, folder),
        spec.task,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        collator=PaddingCollator(0, 64),
        strategy=strategy,
        execution=execution,
    )
    return trainer, held_out_metrics(trainer.evaluate())


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("llama", FULL), ("gpt2", peft_strategy("LORA", {"r": 4})), ("llama", peft_strategy("PROMPT_TUNING"))],
    ids=["llama", "gpt2-lora", "llama-prompt"],
)
def test_evaluation_says_the_same_without_logits(name: str, strategy: StrategyConfig, amp: str, tmp_path: Path) -> None:
    """Learned prompts put positions before those of the labels."""
    spec = tiny_spec(name, "causal-lm", tmp_path)
    figures = [
        evaluated(spec, strategy, tmp_path, amp=amp, loss=loss)[1] for loss in ("standard", "fused-linear")
    ]  # fmt: skip
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
    assert figures[0]["eval_loss"] > 7


def test_scores_of_labels_are_those_of_the_logits(tmp_path: Path) -> None:
    model = build_model(tiny_spec("llama", "causal-lm", tmp_path), FULL, FUSED).eval()
    rows = Rows()
    batch = {name: torch.tensor([rows[index][name][:8] for index in (1, 2)]) for name in ("input_ids", "labels")}
    with torch.no_grad():
        logits = model(**batch).logits
        with fused_evaluation(model):
            scores = model(**batch).logits
    expected = torch.log_softmax(logits.double(), dim=-1)
    for row, position in [(0, 3), (1, 6)]:
        label = batch["labels"][row, position + 1]
        assert scores[row, position, 0].item() == pytest.approx(-expected[row, position, label].item(), rel=1e-5)
    likeliest = logits.argmax(dim=-1)[:, :-1] == batch["labels"][:, 1:]
    assert torch.equal(scores[:, :-1, 1].bool(), likeliest)
    assert not scores[:, 0].any() and not scores[:, -1].any()  # before a prompt's end, and behind the last token


def test_the_traced_evaluation_holds_no_logits_either(tmp_path: Path) -> None:
    """Peak of the evaluation pass, as profiled."""
    length, vocabulary = 64, 20_000
    spec = tiny_spec("llama", "causal-lm", tmp_path, vocab_size=vocabulary)
    execution = ExecutionPlan(4, loss="fused-linear")
    model = build_model(spec, FULL, execution).eval()
    trainer = assemble_trainer(
        model,
        training_arguments(FULL, execution, tmp_path),
        spec.task,
        train_dataset=Rows(),
        collator=PaddingCollator(0, length),
        strategy=FULL,
        execution=execution,
    )
    batch = {name: torch.ones(4, length, dtype=torch.long) for name in ("input_ids", "attention_mask", "labels")}
    trainer.prediction_step(model, batch, prediction_loss_only=False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.prediction_step(model, batch, prediction_loss_only=False)
    profiled_bytes = max(itertools.accumulate(memory_events(profiled)))
    trace = trace_step(TraceRequest(spec, FULL, execution, length))
    changes = [
        sign * trace.recording.storages[storage].size_bytes
        for sign, storage, phase in trace.recording.events
        if phase == "evaluation"
    ]
    assert max(itertools.accumulate(changes)) == pytest.approx(profiled_bytes, rel=0.01)
    assert profiled_bytes < execution.micro_batch_size * length * vocabulary * 4 / 2


def test_models_that_change_their_logits_are_refused(tmp_path: Path) -> None:
    model = build_model(tiny_spec("granite", "causal-lm", tmp_path), FULL, FUSED)
    ids = torch.ones(1, 8, dtype=torch.long)
    with pytest.raises(InputError, match="GraniteForCausalLM changes them on the way"):
        model(input_ids=ids, labels=ids)


def test_an_adapter_on_the_projection_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec("llama", "causal-lm", tmp_path)
    knobs = PeftKnobs(peft_config={"peft_type": "LORA", "target_modules": ["lm_head"]})
    strategy = StrategyConfig("peft", 1e-3, knobs=knobs)
    with pytest.raises(InputError, match="plain linear output projection"):
        build_model(spec, strategy, FUSED)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec("llama", "sequence-classification", tmp_path)
    with pytest.raises(InputError, match="but the task is sequence-classification"):
        build_model(spec, FULL, FUSED)
