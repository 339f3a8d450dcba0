from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.core.errors import DataError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.data.rows import Completion, Conversation, LabelledText, PlainText

CLASSIFY: Any = "sequence-classification"


def classified(path: Path, **options: Any) -> Rows:
    return load_rows(resolve_data(str(path), task=CLASSIFY, **options), CLASSIFY)


def texts(rows: Any) -> list[str]:
    return [row.text for row in rows]


@pytest.fixture
def sentences(write_csv: Callable[..., Path]) -> Path:
    return write_csv([["text", "label"], *([f"sentence {i}", ["bad", "good"][i % 2]] for i in range(100))])


def test_rows_are_split_labelled_and_counted(sentences: Path) -> None:
    rows = classified(sentences)
    assert (len(rows.train), len(rows.eval), rows.label_names) == (90, 10, ("bad", "good"))
    assert sum(rows.class_counts.values()) == 90
    assert all(
        isinstance(row, LabelledText) and row.label == int(row.text.split()[1]) % 2 for row in (*rows.train, *rows.eval)
    )
    assert rows.columns == ("text", "label")


def test_reading_twice_gives_the_same_fingerprint_and_a_changed_file_another(sentences: Path) -> None:
    first = classified(sentences).fingerprint
    assert classified(sentences).fingerprint == first
    sentences.write_text(sentences.read_text().replace("sentence 7,good", "sentence 7,bad"))
    assert classified(sentences).fingerprint != first
    assert classified(sentences, split_seed=18).fingerprint != first


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(small=st.integers(5, 40), more=st.integers(0, 60))
def test_smaller_caps_are_prefixes_of_larger_ones(sentences: Path, small: int, more: int) -> None:
    few = classified(sentences, max_train_rows=small, max_eval_rows=2)
    many = classified(sentences, max_train_rows=small + more)
    assert few.train == many.train[:small]
    assert few.eval == many.eval[:2]


def test_empty_and_repeated_rows_are_reported(write_csv: Callable[..., Path]) -> None:
    table = [["text", "label"], *([f"sentence {i}", str(i % 2)] for i in range(50))]
    path = write_csv([*table, ["  ", "1"], ["", "0"], *[["sentence 1", "1"]] * 3])
    rows = classified(path)
    held = texts(rows.eval)
    assert rows.findings.empty_rows == 2
    assert rows.findings.duplicate_rows == (0 if "sentence 1" in held else 3)
    assert rows.findings.cross_split_duplicates == 0
    assert not set(texts(rows.train)) & set(held)


def test_rows_shared_with_a_separate_evaluation_set_leave_training(write_csv: Callable[..., Path]) -> None:
    path = write_csv([["text", "label"], *([f"sentence {i}", str(i % 2)] for i in range(20))])
    held = write_csv([["text", "label"], ["sentence 3", "1"], ["sentence 4 ", "0"], ["fresh", "1"]], name="held.csv")
    rows = classified(path, eval_source=str(held))
    assert (len(rows.train), len(rows.eval), rows.findings.cross_split_duplicates) == (18, 3, 2)
    assert not {"sentence 3", "sentence 4"} & set(texts(rows.train))


def test_a_search_never_sees_the_rows_that_judge_the_final_run(sentences: Path) -> None:
    spec = resolve_data(str(sentences), task=CLASSIFY)
    final = load_rows(spec, CLASSIFY)
    inner = load_rows(dataclasses.replace(spec, inner_holdout=True, max_train_rows=50), CLASSIFY)
    assert not set(texts((*inner.train, *inner.eval))) & set(texts(final.eval))
    assert not set(texts(inner.train)) & set(texts(inner.eval))
    assert (len(inner.train), len(inner.eval)) == (50, 9)


def test_pairs(write_csv: Callable[..., Path]) -> None:
    pairs = [[f"first {i}", f"second {i}" if i else "", str(i % 3)] for i in range(30)]
    rows = classified(write_csv([["premise", "hypothesis", "label"], *pairs]))
    assert rows.findings.empty_rows == 1
    assert all(isinstance(row, LabelledText) and (row.pair or "").startswith("second") for row in rows.train)


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([["a", "1"], ["b", "1"]], {}, "all 2 rows of .* have the label '1'"),
        ([["", "1"], ["", "0"]], {}, "none is left"),
        ([["a", "1"], ["b", ""]], {}, "1 of 2 rows"),
        ([["a", "0.1"], ["b", "0.7"]], {}, "--task text-regression to learn"),
        ([["a", "1"], ["a", "0"]], {}, "two different texts"),
        ([["a", "1"], ["b", "0"], ["c", "1"]], {"max_train_rows": 1}, "1 training rows of .* have one"),
    ],
)
def test_unusable_labelled_data(
    write_csv: Callable[..., Path], rows: list[list[str]], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        classified(write_csv([["text", "label"], *rows]), **options)


def test_evaluation_set_with_other_labels_or_the_same_rows(write_csv: Callable[..., Path]) -> None:
    path = write_csv([["text", "label"], ["a", "yes"], ["b", "no"]])
    other = write_csv([["text", "label"], ["c", "1"]], name="other.csv")
    with pytest.raises(DataError, match="'1' do not"):
        classified(path, eval_source=str(other))
    with pytest.raises(DataError, match="not the same rows"):
        classified(path, eval_source=str(path))


def test_mixed_label_types(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="1 x number, 1 x text"):
        classified(write_jsonl([{"text": "a", "label": 1}, {"text": "b", "label": "one"}]))


def test_text_column_of_another_type(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="row 2 has a list"):
        classified(write_jsonl([{"text": "a", "label": 1}, {"text": ["b"], "label": 0}]))


def test_plain_text_is_split_into_paragraphs_and_its_end_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"paragraph {i}\nsecond line" for i in range(20)) + "\n\n\n")
    rows = load_rows(resolve_data(str(path), task="causal-lm"), "causal-lm")
    assert rows.kind == "text"
    assert texts(rows.train)[0] == "paragraph 0\nsecond line"
    assert texts(rows.eval) == ["paragraph 18\nsecond line", "paragraph 19\nsecond line"]


def test_lines_are_paragraphs_when_nothing_separates_them_and_only_long_copies_leave(tmp_path: Path) -> None:
    path, held = tmp_path / "train.txt", tmp_path / "held.txt"
    copied = "copied " * 20
    path.write_text(f"one\ntwo\n{copied}\n")
    held.write_text(f"two\r\nfour\r\n{copied}")
    rows = load_rows(resolve_data(str(path), task="masked-lm", eval_source=str(held)), "masked-lm")
    assert rows.train == (PlainText("one"), PlainText("two"))
    assert rows.eval == (PlainText("two"), PlainText("four"), PlainText(copied.strip()))
    assert rows.findings.cross_split_duplicates == 1


def test_completions_and_conversations(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(
        [*({"prompt": f"q{i}", "completion": f"a{i}"} for i in range(9)), {"prompt": "q", "completion": ""}]
    )
    rows = load_rows(resolve_data(str(path), task="causal-lm"), "causal-lm")
    assert rows.kind == "completion"
    assert rows.findings.empty_rows == 1
    assert all(isinstance(row, Completion) and row.prompt[1:] == row.completion[1:] for row in rows.train)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}]
    chats = [
        *({"messages": [{"role": "system", "content": str(i)}, *turns]} for i in range(5)),
        {"messages": turns[:1]},
    ]
    rows = load_rows(resolve_data(str(write_jsonl(chats)), task="causal-lm"), "causal-lm")
    assert rows.kind == "conversation"
    assert rows.findings.empty_rows == 1
    assert all(isinstance(row, Conversation) and row.messages[-1].content == "hello" for row in rows.train)


@pytest.mark.parametrize("turn", [{"content": "a"}, {"role": 1, "content": "a"}, {"role": "user", "said": "a"}])
def test_broken_conversations(write_jsonl: Callable[..., Path], turn: Any) -> None:
    spec = resolve_data(str(write_jsonl([{"messages": [turn]}])), task="causal-lm")
    with pytest.raises(DataError, match=r"chats must hold .* role and content .*, but row 1 of"):
        load_rows(spec, "causal-lm")


@pytest.mark.parametrize("messages", ["hello", ["hello"], 3])
def test_a_column_of_conversations_without_any_is_no_conversation(
    write_jsonl: Callable[..., Path], messages: Any
) -> None:
    with pytest.raises(DataError, match=r"text column must be known|turns must be objects"):
        resolve_data(str(write_jsonl([{"messages": messages}])), task="causal-lm")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    table=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.integers(), max_size=1)),
                "label": st.one_of(st.none(), st.sampled_from(["a", "b", "1", "0"]), st.integers(0, 2), st.floats()),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_table_is_used_or_refused_but_never_crashes(write_jsonl: Callable[..., Path], table: list[Any]) -> None:
    path = write_jsonl(table)
    try:
        rows = classified(path)
    except DataError as refused:
        assert refused.message
        return
    assert rows.train and rows.eval
    assert len(rows.train) + len(rows.eval) + rows.findings.empty_rows == len(table)
    assert not set(texts(rows.train)) & set(texts(rows.eval))
