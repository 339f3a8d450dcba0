"""What shows each task: a tiny model, a table for it, and how model and data look that mean it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.training.tasks import FirstLook
from tests.tracing.tiny import BUILDERS, VOCAB

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("word", "good", "bad", "film", "Ada", "Lovelace", "in", "London", "the", *"0123456789")


@dataclass(frozen=True)
class Case:
    """A task with what shows it.

    Attributes:
        model: A tiny model with the task's head.
        columns: Columns of a table for it, by row; ``None`` where the task is predicted only.
        look: Of model and data that mean it when the user names no task; ``None`` where it must be named.
    """

    model: str
    columns: dict[str, Callable[[int], Any]] | None = None
    look: FirstLook | None = None


CASES: dict[str, Case] = {
    "sequence-classification": Case(
        "bert", {"text": "word {}".format, "label": lambda i: f"c{i % 4}"}, FirstLook(None, False, "labelled")
    ),
    "multi-label-classification": Case(
        "bert",
        {"text": "word {}".format, "labels": lambda i: [f"c{k}" for k in range(3) if i % 7 & 1 << k]},
        FirstLook(None, False, "multi-labelled"),
    ),
    "text-regression": Case(
        "bert", {"text": "word {}".format, "label": lambda i: i % 9 / 2}, FirstLook(None, False, "scored")
    ),
    "causal-lm": Case(
        "llama",
        {"prompt": "word {}".format, "completion": lambda i: "word"},
        FirstLook(None, False, "conversations"),
    ),
    "masked-lm": Case("roberta", {"text": "word {}".format}, FirstLook(False, False, "text")),
    "token-classification": Case(
        "bert",
        {
            "tokens": lambda i: ["Ada", "Lovelace", "in", "London", str(i)],
            "tags": lambda i: ["B-PER", "I-PER", "O", "B-LOC", "O"],
        },
        FirstLook(None, False, "tagged"),
    ),
    "seq2seq-lm": Case(
        "t5", {"document": "the good film {}".format, "summary": "film {}".format}, FirstLook(False, True, "table")
    ),
    "dpo": Case(
        "llama",
        {"prompt": "word {}".format, "chosen": lambda i: " good film", "rejected": lambda i: " bad film in London"},
        FirstLook(None, False, "preferences"),
    ),
}


def table(columns: dict[str, Callable[[int], Any]], folder: Path, rows: int = 400) -> str:
    """A JSONL file of these columns."""
    path = folder / "rows.jsonl"
    lines = [{name: value(i) for name, value in columns.items()} for i in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def word_tokenizer() -> Any:
    """One token a word or digit, with a class token before, a separator behind, and a mask token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: index for index, word in enumerate((*SPECIALS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="[SEP]",
    )  # fmt: skip


def save_tiny(name: str, folder: Path) -> Path:
    """A tiny model of an architecture with random weights of its pretrained head, and a tokenizer."""
    import torch
    import transformers

    config = BUILDERS[name]()
    config.pad_token_id, config.vocab_size = 0, VOCAB
    classes = {"llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration", "roberta": "RobertaForMaskedLM"}
    torch.manual_seed(0)
    getattr(transformers, classes.get(name, "BertForMaskedLM"))(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def tiny_task_plan(task: str, folder: Path, strategy: StrategyConfig, *, rows: int = 120, **execution: Any) -> Plan:
    """A plan of the task's case, its model and table made in ``folder``."""
    from advisor.training.data import load_rows, profile_data, resolve_data
    from advisor.training.models import inspect_model, load_tokenizer

    case = CASES[task]
    assert case.columns is not None
    data = resolve_data(table(case.columns, folder, rows), task=task, eval_fraction=0.2)
    model = save_tiny(case.model, folder / "model")
    spec = inspect_model(str(model), task, num_labels=max(2, load_rows(data, task).num_labels))
    return Plan(
        model=spec,
        data=data,
        data_profile=profile_data(data, spec, load_tokenizer(spec), max_seq_length=16),
        strategy=strategy,
        execution=ExecutionPlan(**{"micro_batch_size": 4, "max_seq_length": 16, "num_threads": 1, **execution}),
        device="cpu-test",
        seed=7,
    )
