"""Which tokens are learned: the four commonest instruction formats on SmolLM2, against a reference written by hand.

The reference knows the template of the model (ChatML with a system prompt of its own), nothing of the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data import prepare_data, resolve_data
from advisor.training.data.conversations import segments, template_findings
from advisor.training.data.encoding import IGNORED_LABEL
from advisor.training.data.rows import Conversation, Message
from advisor.training.models import inspect_model

DEFAULT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
TURNS = [
    ("user", "What is a tide?"),
    ("assistant", "Water that rises and falls."),
    ("user", "Why?"),
    ("assistant", "The moon."),
]


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_dir)


@pytest.fixture(scope="module")
def model(smollm2_dir: Path) -> ModelSpec:
    return inspect_model(str(smollm2_dir), "causal-lm")


def by_hand(tokenizer: Any, turns: list[tuple[str, str]], number: int) -> list[tuple[int, bool]]:
    """ChatML: every turn between its marks; what the assistant says, its end mark and the line break are learned."""
    pieces = [(DEFAULT, False)] if turns[0][0] != "system" else []
    for role, content in turns:
        pieces.append((f"<|im_start|>{role}\n", False))
        pieces.append((content.format(number) + "<|im_end|>\n", role == "assistant"))
    return marked(tokenizer, pieces)


def marked(tokenizer: Any, pieces: list[tuple[str, bool]]) -> list[tuple[int, bool]]:
    return [
        (token, learned) for text, learned in pieces for token in tokenizer(text, add_special_tokens=False).input_ids
    ]


def trained(path: Path, tokenizer: Any, model: ModelSpec) -> list[list[tuple[int, bool]]]:
    """Tokens of all rows as the Trainer gets them, and whether each counts in the loss."""
    data = prepare_data(resolve_data(str(path), task="causal-lm"), model, tokenizer, max_seq_length=256)
    items = [part[i] for part in (data.train_dataset, data.eval_dataset) for i in range(len(part))]
    rows = [list(zip(item["input_ids"], item["labels"], strict=True)) for item in items]
    assert all(label in (IGNORED_LABEL, token) for row in rows for token, label in row)
    return sorted([(token, label != IGNORED_LABEL) for token, label in row] for row in rows)


def chat(i: int) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content.format(i)} for role, content in numbered()]}


def sharegpt(i: int) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": content.format(i)} for role, content in numbered()]}


def alpaca(i: int) -> dict[str, Any]:
    return {"instruction": f"Add the numbers, case {i}.", "input": "1 and 2" if i % 2 else "", "output": f"It is {i}."}


def prompt(i: int) -> dict[str, Any]:
    return {"prompt": f"Case {i}: what is a tide?", "completion": f"Water, number {i}."}


def numbered() -> list[tuple[str, str]]:
    return [(role, f"{content} {{}}") for role, content in TURNS]


def alpaca_turns(i: int) -> list[tuple[str, str]]:
    request = f"Add the numbers, case {i}." + ("\n\n1 and 2" if i % 2 else "")
    return [("user", request), ("assistant", f"It is {i}.")]


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        (chat, lambda t, i: by_hand(t, numbered(), i)),
        (sharegpt, lambda t, i: by_hand(t, numbered(), i)),
        (alpaca, lambda t, i: by_hand(t, alpaca_turns(i), i)),
        (
            prompt,
            lambda t, i: marked(t, [(f"Case {i}: what is a tide?\n", False), (f"Water, number {i}.<|im_end|>", True)]),
        ),
    ],
    ids=["chat", "ShareGPT", "Alpaca", "prompt and completion"],
)
def test_a_run_learns_exactly_these_tokens(
    record: Callable[[int], dict[str, Any]], reference: Any, tmp_path: Path, tokenizer: Any, model: ModelSpec
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record(i)) + "\n" for i in range(10)))
    assert trained(path, tokenizer, model) == sorted(reference(tokenizer, i) for i in range(10))


CALL = '{"tool_calls": [{"type": "function", "function": {"name": "tide", "arguments": {"pier": 1}}}]}'
ROW = Conversation(
    (Message("user", "Tide?"), Message("assistant", None, CALL), Message("assistant", "Two metres.")),
    tools='[{"type": "function", "function": {"name": "tide", "description": "height of the water"}}]',
)
END = "<|im_end|>\n"


def template(call: str) -> str:
    """ChatML with calls of tools after the content."""
    calls = "{% for c in m.tool_calls or [] %}<call>" + call + "</call>{% endfor %}"
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + calls + END + "{% endfor %}"
    return turns + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("call", "written"),
    [
        ("{{ c.function | tojson }}", '"arguments": {"pier": 1}'),
        ("{{ c.function.name }} {{ c.function.arguments }}", 'tide {"pier": 1}'),
        (
            "{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}",
            "tide pier=1",
        ),
        ("{{ c.function.name + ' ' + c.function.arguments }}", 'tide {"pier": 1}'),
    ],
    ids=["as JSON", "printed", "by name", "as text"],
)
def test_calls_of_tools_are_written_as_the_template_wants_them(
    tokenizer: Any, call: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template(call))
    learned = [part.text for part in segments(ROW, tokenizer) if part.is_target]
    assert len(learned) == 2 and written in learned[0] and learned[1] == "Two metres." + END
    assert "None" not in learned[0]


def test_a_template_that_leaves_calls_out_is_refused_and_one_that_leaves_tools_out_is_named(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"tool_calls.*leaves out 'tide'"):
        segments(ROW, tokenizer)
    thought = Message("assistant", "Two.", '{"reasoning_content": "Moon"}')
    found = template_findings([Conversation((Message("user", "Tide?"), thought), ROW.tools)], tokenizer)
    assert ["'reasoning_content'" in found[0], "'tools'" in found[1], len(found)] == [True, True, 2]


def test_turns_that_a_template_does_not_let_be_learned_are_counted(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened = "{{ m.content if loop.last else m.content[:3] }}"
    monkeypatch.setattr(tokenizer, "chat_template", template("").replace("{{ m.content }}", shortened))
    turns = Conversation(tuple(Message(role, content) for role, content in TURNS))
    assert template_findings([turns], tokenizer) == [
        "1 of 2 assistant turns are read but not learned: the chat template rewrites earlier turns"
    ]


def test_without_a_template_calls_and_tools_are_text(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    parts = segments(ROW, tokenizer)
    assert "height of the water" in parts[0].text
    learned = [part.text for part in parts if part.is_target]
    assert learned == [' {"name": "tide", "arguments": {"pier": 1}}', " Two metres."]
