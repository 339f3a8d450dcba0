"""Preference data: which table it is, what of a row is the prompt, and the tokens that are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.training.data import load_rows, resolve_data
from advisor.training.data.collators import PairCollator
from advisor.training.data.encoding import EncodedDataset
from advisor.training.data.records import unlabelled_rows
from advisor.training.data.rows import AnswerPair, Message
from advisor.training.tasks import get_task

TASK = get_task("dpo")
ASKED = {"role": "user", "content": "Sum of 1 and 2?"}
RIGHT, WRONG = ({"role": "assistant", "content": text} for text in ("3", "12"))
TURNS = [Message(turn["role"], turn["content"]) for turn in (ASKED, RIGHT, WRONG)]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def written(folder: Path, records: list[dict[str, Any]]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def row_of(record: dict[str, Any], folder: Path) -> AnswerPair:
    data = resolve_data(written(folder, [record] * 3), task=TASK.name)
    row = unlabelled_rows(data, "answer-pair").rows[0]
    assert isinstance(row, AnswerPair)
    return row


@pytest.mark.parametrize(
    ("record", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "1 + 2 =", "chosen": " 3", "rejected": " 12"}, "1 + 2 =", " 3", " 12"),
        ({"chosen": "1 + 2 = 3", "rejected": "1 + 2 = 12"}, "1 + 2 =", " 3", " 12"),
        ({"chosen": "so", "rejected": "so on"}, "s", "o", "o on"),
        ({"question": "1 + 2?", "chosen": "[3]", "rejected": "[12]"}, "1 + 2?", "[3]", "[12]"),
        ({"prompt": [ASKED], "chosen": [RIGHT], "rejected": [WRONG]}, *(TURNS[i : i + 1] for i in range(3))),
        ({"chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]}, *(TURNS[i : i + 1] for i in range(3))),
        # As UltraFeedback comes: the prompt as a text, and once more as the first turn.
        (
            {"prompt": ASKED["content"], "chosen": [ASKED, RIGHT], "rejected": json.dumps([ASKED, WRONG])},
            *(TURNS[i : i + 1] for i in range(3)),
        ),
        ({"prompt": ASKED["content"], "chosen": [RIGHT], "rejected": [WRONG]}, *(TURNS[i : i + 1] for i in range(3))),
        ({"prompt": [ASKED], "chosen": "3", "rejected": "12"}, *(TURNS[i : i + 1] for i in range(3))),
    ],
)
def test_a_row_is_a_prompt_and_two_answers(
    record: dict[str, Any], prompt: Any, chosen: Any, rejected: Any, tmp_path: Path
) -> None:
    parts = [tuple(part) if isinstance(part, list) else part for part in (prompt, chosen, rejected)]
    assert row_of(record, tmp_path) == AnswerPair(*parts)


def pair(i: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"{i} + 1 =", "chosen": f" {i + 1}", "rejected": f" {i}1", **changes}


def test_empty_and_equal_answers_are_left_out_and_told(tmp_path: Path) -> None:
    records = [*(pair(i) for i in range(40)), pair(40, rejected=" "), pair(41, chosen=" 1", rejected=" 1")]
    rows = load_rows(resolve_data(written(tmp_path, records), task=TASK.name), TASK.name)
    assert len(rows.train) + len(rows.eval) == 40
    assert rows.findings.empty_rows == 1
    assert "1 rows are left out: their chosen and rejected answers are equal" in rows.notes
    assert rows.notes[0] == "read as preference data: 40 pairs of answers, loss on which answer is preferred"


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([pair(i, rejected=f" {i + 1}") for i in range(9)], "chosen and rejected are equal in all 9 rows"),
        ([pair(i, chosen="") for i in range(9)], "none is left"),
        ([pair(i, chosen=[RIGHT]) for i in range(9)], "both answers as texts or both as turns"),
        ([{"prompt": f"{i}", "chosen": "a"} for i in range(9)], "called chosen and rejected, but the columns"),
        ([pair(0), pair(1, chosen={"a": 1})], "must hold text"),
    ],
)
def test_pairs_that_say_nothing_are_refused(records: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as refused:
        load_rows(resolve_data(written(tmp_path, records), task=TASK.name), TASK.name)
    assert refused.value.fix


class Characters:
    """A tokenizer whose every character is a token, with a token before each text."""

    eos_token = "$"
    pad_token_id = 0

    def __init__(self, chat_template: str = "") -> None:
        self.chat_template = chat_template

    def __call__(self, texts: list[str], add_special_tokens: bool = True, **_: Any) -> dict[str, list[list[int]]]:
        first = [1] if add_special_tokens else []
        return {"input_ids": [[*first, *map(ord, text)] for text in texts]}

    def apply_chat_template(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, **_: Any) -> str:
        turns = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return turns + "<assistant>" * add_generation_prompt


def encoded(row: AnswerPair, tokenizer: Any, limit: int | None = None) -> tuple[str, str, str]:
    """Prompt, chosen and rejected answer as characters."""
    [item] = EncodedDataset(TASK.encode([row], tokenizer, max_seq_length=limit))
    return tuple("".join(map(chr, item[part])) for part in ("prompt_ids", "chosen_ids", "rejected_ids"))  # type: ignore[return-value]


def test_texts_end_and_turns_go_through_the_template() -> None:
    texts = AnswerPair("1+2=", "3", "12$")
    assert encoded(texts, Characters()) == ("\x011+2=", "3$", "12$")
    turns = AnswerPair(*(tuple(TURNS[i : i + 1]) for i in range(3)))
    said = "<user>Sum of 1 and 2?<assistant>"
    assert encoded(turns, Characters("a template")) == (said, "3", "12")
    assert encoded(turns, Characters()) == ("user: Sum of 1 and 2?\nassistant:", " 3$", " 12$")


def test_answers_are_cut_from_the_right_and_long_prompts_from_the_left() -> None:
    row = AnswerPair("abcdefgh", "xyzw", "uv")
    assert encoded(row, Characters(), 11) == ("\x01abcdefgh", "xy", "uv")
    assert encoded(row, Characters(), 8) == ("efgh", "xyzw", "uv$")
    [item] = TASK.encode([AnswerPair("ab", "c", "defg")], Characters(), max_seq_length=None)
    assert item.length == len("\x01abdefg$")


def test_a_batch_has_the_chosen_answers_before_the_rejected_ones() -> None:
    items = EncodedDataset(
        TASK.encode([AnswerPair("ab", "c", "de"), AnswerPair("f", "g", "h")], Characters(), max_seq_length=16)
    )
    batch = PairCollator(0, 6)([items[0], items[1]])
    rows = [*("\x01abc$", "\x01fg$"), *("\x01abde$", "\x01fh$")]
    assert batch["input_ids"].tolist() == [[*map(ord, row), *[0] * (6 - len(row))] for row in rows]
    assert batch["attention_mask"].tolist() == [[1] * len(row) + [0] * (6 - len(row)) for row in rows]
    assert batch["completion_mask"].sum(dim=1).tolist() == [2, 2, 3, 2]
    assert batch["completion_mask"][0].tolist() == [0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("template", ["", TEMPLATE])
def test_tokens_are_those_of_trl(template: str, tmp_path: Path) -> None:
    """Without a template TRL only takes texts."""
    pytest.importorskip("trl", reason="the extra dpo is not installed")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tests.training.tasks.cases import word_tokenizer

    word_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = template or None
    texts = [{"prompt": "the film", "chosen": " good", "rejected": " bad in London"}]
    turns = [{"chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]}]
    records = turns if template else texts

    class Prepared:
        _tokenizer = tokenizer

    config = DPOConfig(str(tmp_path), max_length=None, bf16=False, use_cpu=True)
    [expected] = DPOTrainer._prepare_dataset(Prepared(), Dataset.from_list(records), tokenizer, config, "train")
    [item] = EncodedDataset(TASK.encode([row_of(records[0], tmp_path)], tokenizer, max_seq_length=None))
    assert item == {name: expected[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
