"""Completions and conversations as segments of text, each to be learned or only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advisor.core.errors import DataError
from advisor.training.data.rows import Completion, Conversation


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that counts in the loss as a whole or not at all.

    Attributes:
        text: The text.
        is_target: Whether the model learns to write it.
        ends: Whether the end-of-sequence token follows.
        complete: Whether the text brings its own special tokens (it came out of a chat template).
    """

    text: str
    is_target: bool
    ends: bool = False
    complete: bool = False


def segments(row: Completion | Conversation, tokenizer: Any) -> list[Segment]:
    """The segments of one row, in order.

    A completion follows its prompt on a new line. A conversation goes through the tokenizer's chat template, or without
    one becomes lines of ``role: content``; what the assistant says is learned, including the end of its turn.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    if isinstance(row, Completion):
        prompt = [Segment(row.prompt + "\n", False)] if row.prompt else []
        return [*prompt, Segment(row.completion, True, ends=True)]
    if getattr(tokenizer, "chat_template", None):
        return _templated(row, tokenizer)
    return _plain(row)


def _plain(row: Conversation) -> list[Segment]:
    parts = []
    for message in row.messages:
        if message.role == "assistant":
            parts += [
                Segment("assistant:", False),
                Segment(f" {message.content}", True, ends=True),
                Segment("\n", False),
            ]
        else:
            parts.append(Segment(f"{message.role}: {message.content}\n", False))
    return parts[:-1] if parts and parts[-1].text == "\n" else parts


def _templated(row: Conversation, tokenizer: Any) -> list[Segment]:
    """Cut the templated text where each assistant turn begins and ends.

    The text up to turn ``i`` with the generation prompt, and the text including turn ``i``, are both prefixes of the
    whole in every template that writes turn after turn. Where one is not (templates that rewrite earlier turns), the
    turn counts as read, so that nothing but what the assistant says is ever learned.
    """
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    whole = _render(tokenizer, messages)
    parts: list[Segment] = []
    position = 0
    for number, message in enumerate(row.messages):
        if message.role != "assistant":
            continue
        before = _render(tokenizer, messages[:number], prompt=True) if number else ""
        through = _render(tokenizer, messages[: number + 1])
        certain = whole.startswith(through) and through.startswith(before) and len(before) >= position
        if certain and len(through) > len(before):
            parts += [Segment(whole[position : len(before)], False, complete=True)]
            parts += [Segment(whole[len(before) : len(through)], True, complete=True)]
            position = len(through)
    if not parts:
        raise DataError(
            "the chat template must keep the turns of a conversation in order, but this one rewrites them",
            fix="give the rows as prompt and completion columns instead",
        )
    tail = whole[position:]
    parts += [Segment(tail, False, complete=True)] if tail.strip() else []
    return [part for part in parts if part.text]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool = False) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except Exception as failure:  # templates are programs of the model and raise what they like
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the model's chat template must take the conversation, but it refuses the roles {roles}: {failure}",
            fix="use the roles that the model was made for, most often user and assistant in turn",
        ) from None
