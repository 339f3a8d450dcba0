"""Perplexity on general text before and after training, against the loss of the same blocks by hand."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from advisor.core.errors import DataError, InputError
from advisor.core.plan import ExecutionPlan, Plan
from advisor.hardware.backends import get_backend
from advisor.measurement.forgetting import GENERAL_SHARE, check_general_text, forgetting
from advisor.training.build import build_model
from advisor.training.data import prepare_data, profile_data, resolve_data
from advisor.training.models import inspect_model, load_tokenizer
from tests.training.training_runs import WORDS, lora_strategy, tiny_plan


def text_file(path: Path, seed: int) -> Path:
    draw = random.Random(seed)
    path.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(40)))
    return path


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """LoRA on a one-layer decoder with random weights, on blocks of 16 tokens."""
    from transformers import BertTokenizerFast, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("decoder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder / "model")
    spec = inspect_model(str(folder / "model"), "causal-lm")
    data = resolve_data(str(text_file(folder / "train.txt", 0)), task="causal-lm")
    return Plan(
        model=spec,
        data=data,
        data_profile=profile_data(data, spec, load_tokenizer(spec), max_seq_length=16),
        strategy=lora_strategy(),
        execution=ExecutionPlan(micro_batch_size=3, max_seq_length=16),
        device="cpu-test",
        seed=7,
    )


def test_perplexity_of_packed_blocks_before_and_after(plan: Plan, tmp_path: Path) -> None:
    """Blocks of the second half of the text; a batch of two is left at the end, which must not weigh more."""
    source = str(text_file(tmp_path / "general.txt", 1))
    tokenizer, runtime = load_tokenizer(plan.model), get_backend("cpu").runtime
    model = build_model(plan.model, plan.strategy, plan.execution)
    untouched = forgetting(model, plan, source, tokenizer, runtime)
    assert untouched["increase"].value == pytest.approx(0, abs=1e-6)  # a fresh adapter changes nothing

    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    found = forgetting(model, plan, source, tokenizer, runtime)
    data = resolve_data(source, task="causal-lm", eval_fraction=GENERAL_SHARE)
    blocks = prepare_data(data, plan.model, tokenizer, max_seq_length=16).eval_dataset
    ids = torch.tensor([blocks[index]["input_ids"] for index in range(len(blocks))])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert found["after"].value == pytest.approx(math.exp(float(loss)), rel=1e-5)
    assert found["after"].samples == ids[:, 1:].numel()
    assert found["before"].value == pytest.approx(untouched["before"].value, rel=1e-6)
    assert found["increase"].value == pytest.approx(found["after"].value / found["before"].value - 1)


def test_text_that_says_nothing_of_a_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        check_general_text(plan, str(tmp_path / "gone.txt"))
    with pytest.raises(InputError, match="predict the next token, but the task is sequence-classification"):
        check_general_text(tiny_plan(tmp_path), "wikipedia")
