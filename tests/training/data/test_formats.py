"""Row formats: which one is recognised, what a row becomes, what is refused, and that nothing gets lost on the way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError, InputError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.data.formats import FORMATS, TEXT, recognise
from advisor.training.data.rows import Completion, Conversation, Message, PlainText, Row
from advisor.training.data.tables import Table, table_from_records

TASK = "causal-lm"
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
KINDS = ("text", "completion", "conversation", "answer-pair")


def row_of(record: Mapping[str, Any], name: str | None = None) -> Row:
    """What the format that is recognised, or named, makes of a row."""
    table = table_from_records("data", [record])
    if name is None:
        found = recognise(table, KINDS, {})
        assert found is not None
        row_format, columns = found
    else:
        row_format = FORMATS.get(name)
        named = row_format.find(table, {})
        assert named is not None
        columns = named
    return row_format.rows(table, columns)[0]


def name_of(record: Mapping[str, Any], kinds: Sequence[Any] = (*KINDS, "labelled")) -> str | None:
    found = recognise(table_from_records("data", [record] * 3), kinds, {})
    return None if found is None else found[0].name


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [USER, ANSWER]}, "chat"),
        ({"prompt": "Hi", "prompt_id": "3", "messages": [USER, ANSWER]}, "chat"),
        ({"conversations": [USER, ANSWER]}, "chat"),
        ({"messages": json.dumps([USER, ANSWER])}, "chat"),
        ({"messages": str([USER, ANSWER])}, "chat"),
        ({"conversations": [{"from": "human", "value": "Hi"}], "id": "x"}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "Hi"}]}, "sharegpt"),
        ({"instruction": "Sum", "input": "1 2", "output": "3", "text": "### ..."}, "alpaca"),
        ({"instruction": "Why?", "context": "", "response": "So.", "category": "qa"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion"),
        ({"question": "1+1?", "answer": "2"}, "prompt-completion"),
        ({"prompt": [USER], "completion": [ANSWER]}, "chat-completion"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "preference"),
        ({"prompt": "a", "completion": "b", "label": True}, "unpaired-preference"),
        ({"prompt": "a", "completion": "b", "label": "False"}, "unpaired-preference"),
        ({"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}, "stepwise"),
        ({"prompt": "a"}, "prompt-only"),
        ({"text": "a", "label": "b"}, "labelled"),
        ({"premise": "a", "hypothesis": "b", "label": 1}, "labelled"),
        ({"text": "a"}, "text"),
        ({"body": "a"}, "text"),
        ({"text": "a", "id": 1, "url": "u", "page": "p"}, "text"),
        ({"alpha": "a", "beta": "b"}, None),
        ({"tokens": ["a"], "ner_tags": [0]}, None),
    ],
)
def test_formats_are_recognised_by_columns_and_values(record: dict[str, Any], expected: str | None) -> None:
    assert name_of(record) == expected


def test_every_format_can_be_named_and_is_described() -> None:
    for row_format in FORMATS.all():
        assert row_format.title and row_format.recognised and row_format.trained
        assert row_format.instead or not row_format.refused
    with pytest.raises(InputError, match="no row format 'alpacca'") as refused:
        FORMATS.get("alpacca")
    assert "alpaca" in str(refused.value.fix)


def test_sharegpt_names_of_roles_become_those_of_templates() -> None:
    turns = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "Sunny."},
    ]
    row = row_of({"conversations": turns, "tools": '[{"name": "weather", "description": "of a town"}]'})
    assert isinstance(row, Conversation)
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].calls[0]["function"] == {"name": "weather", "arguments": {"town": "Rome"}}
    assert json.loads(row.tools)[0]["function"]["description"] == "of a town"


def test_system_columns_stand_before_the_turns() -> None:
    row = row_of({"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}]})
    assert isinstance(row, Conversation) and row.messages[0] == Message("system", "Be kind.")


def test_alpaca_rows_are_an_instruction_with_its_input_and_earlier_turns() -> None:
    record = {"instruction": "Sum up", "input": "Long text", "output": "Short", "system": "S", "history": [["a", "b"]]}
    assert row_of(record) == Conversation(
        (
            Message("system", "S"),
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "Sum up\n\nLong text"),
            Message("assistant", "Short"),
        )
    )
    assert row_of({"instruction": "Say hi", "input": "", "output": "Hi"}) == Conversation(
        (Message("user", "Say hi"), Message("assistant", "Hi"))
    )


def test_only_the_completion_of_turns_is_learned() -> None:
    row = row_of({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert isinstance(row, Conversation)
    assert [message.is_target for message in row.messages] == [False, False, False, True]


def test_turns_with_weight_0_are_read() -> None:
    row = row_of({"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]})
    assert isinstance(row, Conversation)
    assert [message.is_target for message in row.messages] == [False, False, False, True]
    assert not any(message.more for message in row.messages)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ("", ""),
        ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "one two"),
        (["one ", "two"], "one two"),
        ({"answer": 4}, '{"answer": 4}'),
        (5, "5"),
    ],
)
def test_content_may_be_missing_in_parts_or_an_object(content: Any, expected: str | None) -> None:
    row = row_of({"messages": [{"role": "tool", "content": content}, ANSWER]})
    assert isinstance(row, Conversation) and row.messages[0].content == expected


def test_parts_that_are_no_text_are_refused_with_their_row() -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    table = table_from_records("data", [{"messages": [USER, ANSWER]}, {"messages": [picture, ANSWER]}])
    with pytest.raises(DataError, match="row 2 of data has a part of type image_url"):
        FORMATS.get("chat").rows(table, {"messages": "messages"})


@pytest.mark.parametrize("arguments", ['{"pier": 0}', {"pier": 0}])
@pytest.mark.parametrize("wrapped", [True, False])
def test_calls_of_tools_are_kept(arguments: Any, wrapped: bool) -> None:
    function = {"name": "tide", "arguments": arguments}
    call = {"id": "k", "type": "function", "function": function} if wrapped else function
    row = row_of({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": []})
    assert isinstance(row, Conversation)
    assert row.messages[1].is_target and row.messages[1].content is None
    assert row.messages[1].calls[0]["function"] == {"name": "tide", "arguments": {"pier": 0}}
    old = row_of({"messages": [USER, {"role": "assistant", "content": None, "function_call": function}]})
    assert isinstance(old, Conversation) and old.messages[1].calls[0]["function"]["name"] == "tide"


def test_keys_that_hold_the_text_under_another_name_are_refused() -> None:
    with pytest.raises(DataError, match="one with role, text"):
        row_of({"messages": [{"role": "user", "text": "Hi"}]})


CHOSEN = [
    ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, Completion("Q", "good")),
    ({"chosen": "H: Hi\nA: Hello you", "rejected": "H: Hi\nA: Go"}, Completion("H: Hi\nA:", "Hello you")),
    (
        {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]},
        Conversation((Message("user", "Hi", is_learned=False), Message("assistant", "Hello."))),
    ),
]


@pytest.mark.parametrize(("record", "expected"), CHOSEN)
def test_preference_data_is_read_by_its_chosen_answers_if_asked(
    record: dict[str, Any], expected: Row, write_jsonl: Callable[..., Path]
) -> None:
    path = str(write_jsonl([record] * 3))
    with pytest.raises(DataError, match=f"preference data, which {TASK} is not trained on") as refused:
        resolve_data(path, task=TASK)
    assert "--task dpo" in str(refused.value.fix) and "--format chosen" in str(refused.value.fix)
    assert resolve_data(path, task=TASK, format="chosen").format == "chosen"
    assert row_of(record, "chosen") == expected


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "a", "completion": "b", "label": False}, "unpaired preference data"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "stepwise supervision"),
        ({"prompt": "a"}, "no answer to learn"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_can_be_done(
    record: dict[str, Any], told: str, write_jsonl: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        resolve_data(str(write_jsonl([record] * 3)), task=TASK)
    assert refused.value.fix


def loaded(path: Path, task: str = TASK, **options: Any) -> Rows:
    return load_rows(resolve_data(str(path), task=task, **options), task)


def test_the_reading_and_unused_columns_are_said(write_jsonl: Callable[..., Path]) -> None:
    turns = [{"from": "human", "value": "Hi {}"}, {"from": "gpt", "value": "Hello"}]
    records = [
        {"id": i, "source": "web", "conversations": [{**turns[0], "value": f"Hi {i}"}, turns[1]]} for i in range(1204)
    ]
    rows = loaded(write_jsonl(records))
    assert rows.notes[0] == "read as ShareGPT chats: 1,204 conversations, loss on assistant turns"
    assert rows.notes[1] == "columns of data.jsonl that are not used: 'id', 'source'"


def test_a_named_format_wins_and_must_fit(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"instruction": f"i{i}", "input": "x", "output": "o", "text": f"t{i}"} for i in range(9)])
    assert isinstance(loaded(path).train[0], Conversation)
    assert isinstance(loaded(path, format="text").train[0], PlainText)
    assert "'instruction', 'input', 'output'" in loaded(path, format="text").notes[1]
    with pytest.raises(DataError, match="chats need messages") as refused:
        resolve_data(str(path), task=TASK, format="chat")
    assert "--format alpaca" in str(refused.value.fix)
    with pytest.raises(DataError, match="masked-lm is not trained on Alpaca instructions"):
        resolve_data(str(path), task="masked-lm", format="alpaca")


def test_named_columns_are_read_whatever_they_are_called(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"ask": f"q{i}", "say": f"a{i}"} for i in range(9)])
    row = loaded(path, text_column="ask", text_pair_column="say").train[0]
    assert isinstance(row, Completion) and row.prompt[1:] == row.completion[1:]
    pairs = write_jsonl([{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": "no"} for i in range(9)], "pairs.jsonl")
    row = loaded(pairs, text_column="prompt", text_pair_column="chosen").train[0]
    assert isinstance(row, Completion) and row.completion.startswith("a")


def test_conversations_without_an_assistant_say_who_speaks(write_jsonl: Callable[..., Path]) -> None:
    turns = [{"role": "customer", "content": "Hi"}, {"role": "agent", "content": "Hello"}]
    with pytest.raises(DataError, match=r"those of .* are by agent, customer"):
        loaded(write_jsonl([{"messages": turns}] * 3))


def test_tables_without_values_are_recognised_by_their_names() -> None:
    found = recognise(Table("named", {"text": (), "label": ()}, 0), (*KINDS, "labelled"), {})
    assert found is not None and found[0].name == "labelled"
    assert TEXT.find(Table("named", {"text": ()}, 0), {}) == {"text": "text"}


CALL = {"name": "tide", "arguments": "{}"}


def test_conversations_are_the_same_from_every_file(tmp_path: Path) -> None:
    """Also from tables without nested types, and from those that fill up absent fields."""
    import datasets
    import pandas

    records = [
        {
            "messages": [
                {"role": "user", "content": f"Tide {i}?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "tide", "arguments": "{}"}}],
                },
                {"role": "tool", "content": f"{i} metres"},
                {"role": "assistant", "content": f"It is {i} metres."},
            ],
            "tools": json.dumps([{"name": "tide", "parameters": {"type": "object"}}]),
        }
        for i in range(12)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "b.json").write_text(json.dumps(records, indent=1))
    with (tmp_path / "c.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["messages", "tools"], *([json.dumps(r["messages"]), r["tools"]] for r in records)]
        )
    pandas.DataFrame(records).to_csv(tmp_path / "d.csv", index=False)
    pandas.DataFrame(records).to_parquet(tmp_path / "e.parquet")
    datasets.Dataset.from_list(records).save_to_disk(str(tmp_path / "f"))
    prints = {
        name: loaded(tmp_path / name).fingerprint for name in ("a.jsonl", "b.json", "c.csv", "d.csv", "e.parquet", "f")
    }
    assert len(set(prints.values())) == 1, prints
