from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.core.errors import DataError
from advisor.training.data.encoding import IGNORED_LABEL, EncodedDataset, encode
from advisor.training.data.rows import Completion, Conversation, LabelledText, Message, Row

TEMPLATE = (
    "{% for m in messages %}< {{ m.role }} > {{ m.content }} < end > {% endfor %}"
    "{% if add_generation_prompt %}< assistant > {% endif %}"
)


def chat(*turns: str) -> Conversation:
    roles = ("user", "assistant") * len(turns)
    return Conversation(tuple(Message(role, content) for role, content in zip(roles, turns, strict=False)))


def learned(tokenizer: Any, row: Row, max_seq_length: int | None = None) -> tuple[str, str]:
    """The whole text that the model sees, and what of it counts in the loss."""
    item = EncodedDataset(encode([row], tokenizer, max_seq_length=max_seq_length))[0]
    targets = [token for token in item["labels"] if token != IGNORED_LABEL]
    assert all(label in (IGNORED_LABEL, token) for label, token in zip(item["labels"], item["input_ids"], strict=True))
    return (
        " ".join(tokenizer.convert_ids_to_tokens(item["input_ids"])),
        " ".join(tokenizer.convert_ids_to_tokens(targets)),
    )


def test_labelled_rows(encoder_tokenizer: Any) -> None:
    rows = [LabelledText("good film", None, 1), LabelledText("bad", None, 0)]
    data = EncodedDataset(encode(rows, encoder_tokenizer, max_seq_length=16, token_types=True))
    assert encoder_tokenizer.convert_ids_to_tokens(data[0]["input_ids"]) == ["[CLS]", "good", "film", "[SEP]"]
    assert [data[0]["labels"], data[1]["labels"], data[-1]["labels"]] == [1, 0, 0]
    assert data[1]["token_type_ids"] == [0, 0, 0]
    assert data.lengths.tolist() == [4, 3]
    with pytest.raises(IndexError):
        data[2]


def test_pairs_have_token_types_and_are_cut_together(encoder_tokenizer: Any) -> None:
    row = LabelledText("good good good good", "bad bad", 1)
    (whole,) = encode([row], encoder_tokenizer, max_seq_length=None, token_types=True)
    assert whole.token_type_ids == [0] * 6 + [1] * 3
    (cut,) = encode([row], encoder_tokenizer, max_seq_length=7, token_types=True)
    assert len(cut.input_ids) == 7
    (plain,) = encode([row], encoder_tokenizer, max_seq_length=7)
    assert plain.token_type_ids is None


def test_loss_is_on_the_completion_and_its_end(decoder_tokenizer: Any) -> None:
    whole, target = learned(decoder_tokenizer, Completion("question one", "answer two"))
    assert whole == "<s> question one answer two </s>"
    assert target == "answer two </s>"


def test_loss_is_on_the_assistant_without_a_template(decoder_tokenizer: Any) -> None:
    whole, target = learned(decoder_tokenizer, chat("hello", "yes", "question", "no"))
    assert whole == "<s> user : hello assistant : yes </s> user : question assistant : no </s>"
    assert target == "yes </s> no </s>"


def test_loss_is_on_the_assistant_through_the_template(decoder_tokenizer: Any) -> None:
    decoder_tokenizer.chat_template = TEMPLATE
    whole, target = learned(decoder_tokenizer, chat("hello", "yes", "question", "no"))
    assert (
        whole == "< user > hello < end > < assistant > yes < end > < user > question < end > < assistant > no < end >"
    )
    assert target == "yes < end > no < end >"


def test_unfinished_conversations_end_unlearned(decoder_tokenizer: Any) -> None:
    decoder_tokenizer.chat_template = TEMPLATE
    whole, target = learned(decoder_tokenizer, chat("hello", "yes", "question"))
    assert whole.endswith("question < end >")
    assert target == "yes < end >"


def test_templates_that_refuse_are_explained(decoder_tokenizer: Any) -> None:
    decoder_tokenizer.chat_template = "{{ raise_exception('only user and assistant') }}"
    with pytest.raises(DataError, match="refuses the roles user, assistant: only user and assistant"):
        learned(decoder_tokenizer, chat("hello", "yes"))


def test_templates_that_rewrite_earlier_turns_never_teach_what_users_say(decoder_tokenizer: Any) -> None:
    last_turn_differs = "{% if loop.last and m.role == 'assistant' %}very {% endif %}{{ m.content }}"
    decoder_tokenizer.chat_template = TEMPLATE.replace("{{ m.content }}", last_turn_differs)
    whole, target = learned(decoder_tokenizer, chat("hello", "yes", "question", "no"))
    assert whole.split().count("very") == 1
    assert target == "yes < end > very no < end >"
    decoder_tokenizer.chat_template = "{{ messages | length }} " + TEMPLATE
    assert learned(decoder_tokenizer, chat("hello", "yes"))[1] == "yes < end >"
    decoder_tokenizer.chat_template = "{{ messages | length }} " + TEMPLATE.replace("m.content", "m.content | upper")
    with pytest.raises(DataError, match="rewrites them"):
        learned(decoder_tokenizer, chat("hello", "yes"))


def test_rows_are_cut_from_the_right_unless_nothing_to_learn_is_left(decoder_tokenizer: Any) -> None:
    long_answer = learned(decoder_tokenizer, Completion("one two", "three " * 20), 8)
    assert long_answer == ("<s> one two three three three three three", "three three three three three")
    whole, target = learned(decoder_tokenizer, Completion("one " * 30, "two three"), 8)
    assert len(whole.split()) == 8
    assert target == "two three </s>"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(prompt=st.integers(0, 40), completion=st.integers(1, 40), limit=st.integers(8, 32))
def test_every_cut_row_still_teaches_something(
    decoder_tokenizer: Any, prompt: int, completion: int, limit: int
) -> None:
    row = Completion(" ".join(["one"] * prompt), " ".join(["two"] * completion))
    (encoded,) = encode([row], decoder_tokenizer, max_seq_length=limit)
    assert len(encoded.input_ids) == min(limit, 1 + prompt + completion + 1)
    assert encoded.target is not None and any(encoded.target[1:])


def test_the_pretrained_chat_template_is_followed(smollm2_dir: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    (row,) = encode([chat("Hi there", "Hello!", "Bye", "See you.")], tokenizer, max_seq_length=None)
    target = [token for token, counts in zip(row.input_ids, row.target or [], strict=True) if counts]
    assert tokenizer.decode(target) == "Hello!<|im_end|>\nSee you.<|im_end|>\n"
    assert tokenizer.decode(row.input_ids).count("<|im_start|>") == 5
