"""Small tokenizers and files, so that most of these tests need no downloaded asset."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.core.model import ModelSpec, Task

WORDS = [
    "good", "bad", "film", "a", "the", "very", "red", "blue", "hot", "cold", "old", "new", "one", "two", "three",
    "four", "user", "assistant", "system", "hello", "answer", "question", "yes", "no", ":", ".", "<", ">", "end",
]  # fmt: skip


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Sequence[Sequence[Any]], name: str = "data.csv", **options: Any) -> Path:
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, **options).writerows(rows)
        return tmp_path / name

    return write


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Sequence[Any], name: str = "data.jsonl") -> Path:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def encoder_tokenizer() -> Any:
    """Like BERT's: [CLS] text [SEP], a mask token, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: index for index, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@pytest.fixture
def decoder_tokenizer() -> Any:
    """Like Llama's: <s> text, no padding token, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def model_spec() -> Callable[..., ModelSpec]:
    def make(task: Task = "sequence-classification", **changes: Any) -> ModelSpec:
        values: dict[str, Any] = {
            "source": "tiny", "kind": "config", "task": task, "config": {"model_type": "bert", "type_vocab_size": 2},
            "model_type": "bert", "total_parameters": 1_000_000, "hidden_size": 16, "num_hidden_layers": 2,
            "vocab_size": 64, "max_positions": 64, "num_labels": 2,
        }  # fmt: skip
        return ModelSpec(**{**values, **changes})

    return make
