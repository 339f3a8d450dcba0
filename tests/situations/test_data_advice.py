"""Advice about data is followed: it leads to rows, or to another problem, and never in circles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import InputError
from tests.situations.data_attempts import DECODER, ENCODER, Attempt, followed

TABLE = "text,label\n" + "".join(f"Row {i} of the log,{'up' if i % 2 else 'down'}\n" for i in range(30))
ROWS = [{"text": f"Row {i} of the log", "label": ["down", "up"][i % 2], "id": f"r{i}"} for i in range(30)]
PAIRS = [{"prompt": f"Row {i}?", "chosen": f"It is up, {i}.", "rejected": "No."} for i in range(30)]
CHATS = [
    {"messages": [{"role": "user", "content": f"Row {i}?"}, {"role": "assistant", "content": "Up."}]} for i in range(9)
]
ALPACA = [{"instruction": f"Row {i}?", "output": "Up."} for i in range(9)]


def jsonl(records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


CLASSIFY, MASKED, CAUSAL = ({"task": name} for name in ("sequence-classification", "masked-lm", "causal-lm"))
OTHER_NAMES = jsonl([{"words": row["text"], "way": row["label"], "key": row["id"]} for row in ROWS])
JUDGED = [{"prompt": f"Row {i}?", "completion": "Up.", "label": bool(i % 2)} for i in range(9)]
NAMELESS = [{"conversation": [{"me": f"Row {i}?", "you": "Up."}]} for i in range(9)]
TOKENS = [{"tokens": ["up", "down"], "tags": [0, 1]} for _ in range(9)]
PARTS = [{**row, "parts": ["a"]} for row in ROWS]
PROSE = b"One line.\n\nAnother line.\n\nA third."
THREE = TABLE + TABLE.partition("\n")[2].replace("up", "side").replace("Row", "Line")
SWALLOWED = 'text,label\n"first,up\nsecond,down\nthird",up\n' + TABLE.partition("\n")[2]

CASES: dict[str, tuple[str, bytes, str, dict[str, str]]] = {
    "three unknown names": ("a.jsonl", OTHER_NAMES, ENCODER, {}),
    "the same for a decoder": ("a.jsonl", OTHER_NAMES, DECODER, CAUSAL),
    "the same for masked text": ("a.jsonl", OTHER_NAMES, ENCODER, MASKED),
    "turns of two names": ("a.jsonl", jsonl(NAMELESS), DECODER, CAUSAL),
    "tokens to classify": ("a.jsonl", jsonl(TOKENS), ENCODER, {}),
    "a list as the text": ("a.jsonl", jsonl(PARTS), ENCODER, {"text-column": "parts"}),
    "an id as the label": ("a.jsonl", jsonl(ROWS), ENCODER, {"label-column": "id"}),
    "a column that is not there": ("a.jsonl", jsonl(ROWS), ENCODER, {"text-column": "words"}),
    "a label column that is not there": ("a.jsonl", jsonl(ROWS), ENCODER, {"label-column": "words"}),
    "texts without labels": ("a.jsonl", jsonl([{"text": row["text"]} for row in ROWS]), ENCODER, CLASSIFY),
    "chats to classify": ("a.jsonl", jsonl(CHATS), DECODER, CLASSIFY),
    "instructions to classify": ("a.jsonl", jsonl(ALPACA), DECODER, CLASSIFY),
    "instructions as masked text": ("a.jsonl", jsonl(ALPACA), ENCODER, MASKED),
    "instructions as chats": ("a.jsonl", jsonl(ALPACA), DECODER, {"format": "chat"}),
    "preferences": ("a.jsonl", jsonl(PAIRS), DECODER, CAUSAL),
    "preferences to classify": ("a.jsonl", jsonl(PAIRS), ENCODER, CLASSIFY),
    "preferences by their prompts": ("a.jsonl", jsonl(PAIRS), DECODER, CAUSAL | {"text-column": "prompt"}),
    "prompts alone": ("a.jsonl", jsonl([{"prompt": f"Row {i}?"} for i in range(9)]), DECODER, {}),
    "judged answers": ("a.jsonl", jsonl(JUDGED), DECODER, {}),
    "a format for another task": ("a.jsonl", jsonl(ROWS), ENCODER, CLASSIFY | {"format": "text"}),
    "a format that is unknown": ("a.jsonl", jsonl(ROWS), ENCODER, {"format": "tekst"}),
    "running text to classify": ("a.txt", PROSE, ENCODER, CLASSIFY),
    "running text with a column": ("a.txt", PROSE, ENCODER, {"text-column": "text"}),
    "running text with a format": ("a.txt", PROSE, DECODER, CAUSAL | {"format": "chat"}),
    "rows without labels": ("a.csv", (TABLE + "Without,\n").encode(), ENCODER, {}),
    "numbers as labels": ("a.csv", TABLE.replace("up", "0.5").replace("down", "1.0").encode(), ENCODER,
                          {"task": "sequence-classification"}),
    "labels that do not occur": ("a.csv", TABLE.encode(), ENCODER, {"label-map": "left=right"}),
    "classes that do not occur": ("a.csv", THREE.encode(), ENCODER, {"drop-labels": "left"}),
    "marks that swallow rows": ("a.csv", SWALLOWED.encode(), ENCODER, {}),
    "broken bytes": ("a.csv", TABLE.replace("log", "lög").encode() + b"caf\xe9,up\n", ENCODER, {}),
    "a wrong encoding": ("a.csv", TABLE.replace("log", "lög").encode(), ENCODER, {"read-option": "encoding=ascii"}),
    "a Parquet file by another name": ("a.csv", b"", ENCODER, {}),
}  # fmt: skip


def content_of(name: str, content: bytes, folder: Path) -> Path:
    path = folder / name
    if content:
        path.write_bytes(content)
    else:
        import pandas

        pandas.DataFrame(ROWS).to_parquet(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_following_the_fix_leads_on(case: str, tmp_path: Path) -> None:
    name, content, architecture, options = CASES[case]
    attempt: Attempt | None = Attempt(content_of(name, content, tmp_path), architecture, options)
    told: list[str] = []
    while attempt is not None:
        try:
            assert attempt.rows().train
            break
        except InputError as error:
            assert error.exit_code == 2 and error.fix, error.message
            assert error.message not in told, f"in circles: {[*told, error.message]}"
            told.append(error.message)
            assert len(told) < 5, told
            attempt = followed(attempt, error)
    assert told, "the case is no problem any more"
    assert attempt is not None or case in FOR_PEOPLE, f"only people can follow this: {told[-1]}"


FOR_PEOPLE = {
    "judged answers",
    "turns of two names",
    "tokens to classify",
    "running text to classify",
    "a wrong encoding",
}
"""Their fix begins with changing the file, or with knowing what it is."""
