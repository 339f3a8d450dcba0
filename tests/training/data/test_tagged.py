"""Words with tags: CoNLL files, lists of words and tags, spans of texts; and how tokens get the tags of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nervaluate import Evaluator
from transformers import EvalPrediction

from advisor.core.errors import DataError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.data.encoding import encode
from advisor.training.data.rows import TaggedText
from advisor.training.tasks.reduction import in_bio, tag_columns

TASK = "token-classification"
SENTENCES = [
    (["Ada", "Lovelace", "lived", "in", "London", str(i)], ["B-PER", "I-PER", "O", "O", "B-LOC", "O"])
    for i in range(20)
]


def rows_of(path: Path, **options: Any) -> Rows:
    return load_rows(resolve_data(str(path), task=TASK, **options), TASK)


def words_of(rows: Rows) -> list[list[tuple[str, str]]]:
    texts = [row for row in (*rows.train, *rows.eval) if isinstance(row, TaggedText)]
    return sorted(
        [
            (row.text[slice(*word)], rows.label_names[tag])
            for word, tag in zip(row.words, row.tags, strict=True)
        ]
        for row in texts
    )  # fmt: skip


def written(folder: Path, kind: str) -> Path:
    path = folder / {"conll": "a.conll", "txt": "train.txt"}.get(kind, f"{kind}.jsonl")
    if kind in ("conll", "txt"):
        lines = ["-DOCSTART- -X- O", ""]
        for words, tags in SENTENCES:
            lines += [*(f"{word} NN {tag}" for word, tag in zip(words, tags, strict=True)), ""]
        path.write_text("\n".join(lines))
        return path
    texts = [" ".join(words) for words, _ in SENTENCES]
    records: list[Any] = [{"tokens": words, "ner_tags": tags} for words, tags in SENTENCES]
    if kind == "spans":
        records = [
            {
                "text": text,
                "entities": [{"start": 0, "end": 12, "label": "PER"}, {"start": 22, "end": 28, "label": "LOC"}],
            }
            for text in texts
        ]
    if kind == "triples":
        records = [{"text": text, "label": [[22, 28, "LOC"], [0, 12, "PER"]]} for text in texts]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("kind", ["conll", "txt", "lists", "spans", "triples"])
def test_tags_are_the_same_from_every_form(tmp_path: Path, kind: str) -> None:
    rows = rows_of(written(tmp_path, kind))
    assert rows.kind == "tagged" and rows.label_names == ("B-LOC", "B-PER", "I-PER", "O")
    assert words_of(rows) == sorted([list(zip(words, tags, strict=True)) for words, tags in SENTENCES])


def test_the_first_token_of_a_word_has_its_tag(encoder_tokenizer: Any) -> None:
    """Punctuation is a token of its own, and so the second one of the word ``good.``."""
    row = TaggedText("good. film", ((0, 5), (6, 10)), (3, 1))
    (encoded,) = encode([row], encoder_tokenizer, max_seq_length=None)
    assert encoded.tags == [-100, 3, -100, 1, -100]
    (cut,) = encode([row], encoder_tokenizer, max_seq_length=4)
    assert cut.tags == [-100, 3, -100, -100]


def test_blanks_before_words_belong_to_no_word() -> None:
    """Byte-level and SentencePiece tokenizers count the blank before a word to its token."""

    class Tokenizer:
        is_fast = True

        def __call__(self, texts: list[str], **options: Any) -> dict[str, Any]:
            return {"input_ids": [[5, 6, 7]], "offset_mapping": [[(0, 3), (3, 4), (3, 8)]]}

    (encoded,) = encode([TaggedText("Ada lives", ((0, 3), (4, 9)), (2, 0))], Tokenizer(), max_seq_length=None)
    assert encoded.tags == [2, -100, 0]


def spans(*found: Any, text: str = "Ada Lovelace in London") -> list[dict[str, Any]]:
    return [{"text": text, "spans": list(found)}, {"text": "Ada", "spans": [[0, 3, "PER"]]}]


@pytest.mark.parametrize(
    ("records", "told", "fix"),
    [
        (spans([0, 12, "PER"], [4, 15, "X"]), "do not overlap, but row 1 .* PER at 0-12 and X at 4-15", "one tag"),
        (spans([0, 12, "PER"], [16, 23, "LOC"]), "here 0 to 22, but row 1 .* 16 to 23", "text\\[start:end\\]"),
        (spans([3, 4, "PER"]), "spans with a word, but row 1", "from 0"),
        ([{"tokens": ["a", "b"], "tags": ["O"]}] * 3, "2 words and 1 tags", '"tags"'),
        ([{"tokens": ["a", "b"], "tags": ["O", "O"]}, {"tokens": ["c"], "tags": ["O"]}], "all 3 words", "--label-col"),
        ([{"text": "a", "label": "b"}] * 30, "token-classification is not trained on", "sequence-classification"),
    ],
)
def test_bad_tags_are_refused_with_what_helps(tmp_path: Path, records: Any, told: str, fix: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match=told) as refused:
        rows_of(path)
    assert fix.replace("\\", "") in str(refused.value.fix)


def test_a_line_without_a_tag_and_tags_that_training_has_not(tmp_path: Path) -> None:
    path = written(tmp_path, "conll")
    path.write_text("Ada B-PER\nlives O\nhere\n")
    with pytest.raises(DataError, match=r"line 3 .* has 1: 'here'"):
        rows_of(path)
    held = tmp_path / "held.txt"
    held.write_text("Rome B-CITY\n")
    with pytest.raises(DataError, match="'B-CITY' do not"):
        rows_of(written(tmp_path, "txt"), eval_source=str(held))


def test_entities_are_counted_as_nervaluate_does() -> None:
    """Strict matching over many random rows, in BIO and in BIOES."""
    names = ["O", "B-A", "I-A", "B-B", "I-B", "E-B", "S-A"]
    draw = np.random.default_rng(0)
    labels, said = draw.integers(0, len(names), (2, 50, 12))
    columns = tag_columns(EvalPrediction(np.concatenate([np.ones((50, 3)), said], axis=1), labels), names)
    true, predicted = ([in_bio([names[i] for i in row]) for row in part] for part in (labels, said))
    strict = Evaluator(true, predicted, tags=["A", "B"], loader="list").evaluate()["overall"]["strict"]
    hits, there, found = (int(columns[name].sum()) for name in ("entity_hits", "entities", "entities_said"))
    assert (hits / there, hits / found) == pytest.approx((strict.recall, strict.precision))
    assert in_bio(["PER", "PER", "O", "LOC"]) == ["B-PER", "I-PER", "O", "B-LOC"]
