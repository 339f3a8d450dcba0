"""Completions and conversations as segments of text, each to be learned or only read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import DataError
from advisor.training.data.rows import ASSISTANT, AnswerPair, Completion, Conversation, Message, Row

_UNSEEN_KEYS = ("tool_calls", "tool_call_id", "id", "index", "type")
"""Keys of turns that templates may leave out, or whose place in the text is checked by itself."""
_CHECKED_ROWS = 200
_ESCAPED = re.compile(r"[\x00-\x1f\"\\\\<>&']")
_MARK = "\ue000\ue001"
"""Stands for the content of a turn while it is looked for; characters of private use, which texts do not hold."""


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

    A completion follows its prompt on a new line. A conversation goes through the tokenizer's chat template with its
    tools, or without one becomes lines of ``role: content``; what the assistant says is learned, including the end of
    its turn.

    Raises:
        DataError: the chat template refuses the conversation, or leaves out calls of tools.
    """
    if isinstance(row, Completion):
        prompt = [Segment(row.prompt + "\n", False)] if row.prompt else []
        return [*prompt, Segment(row.completion, True, ends=True)]
    if getattr(tokenizer, "chat_template", None):
        return _templated(row, tokenizer)
    return _plain(row)


def pair_texts(row: AnswerPair, tokenizer: Any) -> tuple[str, str, str]:
    """The prompt of a pair, and the prompt with the chosen and with the rejected answer, as they are tokenised.

    Texts are joined as they are, and end with the end-of-sequence token (TRL's ``DPOTrainer`` does the same). Turns go
    through the tokenizer's chat template, or without one become lines of ``role: content``.

    Raises:
        DataError: the chat template refuses the turns.
    """
    end = tokenizer.eos_token or ""
    if isinstance(row.prompt, str):
        answers = (f"{answer}" for answer in (row.chosen, row.rejected))
        chosen, rejected = (answer if answer.endswith(end) else answer + end for answer in answers)
        return row.prompt, row.prompt + chosen, row.prompt + rejected
    turns = [[*row.prompt], *([*row.prompt, *answer] for answer in (row.chosen, row.rejected))]
    parts = [Conversation(tuple(m for m in part if isinstance(m, Message)), row.tools) for part in turns]
    if getattr(tokenizer, "chat_template", None):
        # Without a turn there is nothing to begin the answer of.
        prompt = rendered(parts[0], tokenizer, prompt=True) if parts[0].messages else ""
        return prompt, rendered(parts[1], tokenizer), rendered(parts[2], tokenizer)
    prompt, chosen, rejected = (
        "".join(segment.text + end * segment.ends for segment in _plain(part)) for part in parts
    )
    between = "\n" if prompt and not prompt.endswith("\n") else ""
    return f"{prompt}{between}{ASSISTANT}:", chosen, rejected


def rendered(row: Conversation, tokenizer: Any, *, prompt: bool = False) -> str:
    """A conversation through the chat template.

    Args:
        row: The turns.
        tokenizer: Has the template.
        prompt: Also write what begins an answer.

    Raises:
        DataError: the template refuses the turns.
    """
    messages = [_as_dict(message, "", False) for message in row.messages]
    return _render(tokenizer, messages, json.loads(row.tools) if row.tools else None, prompt=prompt)


def _render(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, *, prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt))
    except Exception as failure:  # templates are programs of the model and raise what they like
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the model's chat template must take the conversation, but it refuses the roles {roles}: {failure}",
            fix="use the roles that the model was made for, most often user and assistant in turn",
        ) from None


def _plain(row: Conversation) -> list[Segment]:
    parts = [Segment(f"tools: {row.tools}\n", False)] if row.tools else []
    for message in row.messages:
        content = "\n".join(filter(None, (message.content, *map(_call_line, message.calls))))
        if message.role == ASSISTANT:
            parts += [
                Segment("assistant:", False),
                Segment(f" {content}", message.is_target, ends=True),
                Segment("\n", False),
            ]
        else:
            parts.append(Segment(f"{message.role}: {content}\n", False))
    return parts[:-1] if parts and parts[-1].text == "\n" else parts


def _call_line(call: dict[str, Any]) -> str:
    return json.dumps(call["function"], ensure_ascii=False)


# --- through the chat template ----------------------------------------------------------------------------------------


def _templated(row: Conversation, tokenizer: Any) -> list[Segment]:
    """Cut the templated text where each assistant turn begins and ends.

    The text up to turn ``i`` with the generation prompt, and the text including turn ``i``, are both prefixes of the
    whole in every template that writes turn after turn. Where one is not (templates that rewrite earlier turns), the
    turn is looked for by its content. Where that is not certain either, it counts as read, so that nothing but what the
    assistant says is ever learned.
    """
    text = _Templated(row, tokenizer)
    parts: list[Segment] = []
    position = 0
    for number, message in enumerate(row.messages):
        if not message.is_target:
            continue
        span = text.turn(number) or text.turn_by_content(number)
        if span is not None and position <= span[0] < span[1]:
            parts += [Segment(text.whole[position : span[0]], False, complete=True)]
            parts += [Segment(text.whole[span[0] : span[1]], True, complete=True)]
            position = span[1]
    if not parts:
        raise DataError(
            "the chat template must keep the turns of a conversation in order, but this one rewrites them",
            fix="give the rows as prompt and completion columns instead",
        )
    tail = text.whole[position:]
    parts += [Segment(tail, False, complete=True)] if tail.strip() else []
    return [part for part in parts if part.text]


class _Templated:
    """A conversation through a chat template.

    Templates differ in how they want turns without content and arguments of calls: the first way is taken in which the
    arguments of every call are written as JSON, or else one in which every name is written.

    Raises:
        DataError: the template refuses the conversation, or writes no calls.
    """

    def __init__(self, row: Conversation, tokenizer: Any) -> None:
        self._tokenizer, self._row = tokenizer, row
        self._tools = json.loads(row.tools) if row.tools else None
        calls = [call["function"] for message in row.messages for call in message.calls]
        refusals: list[DataError] = []
        best = -1
        for empty, as_text in _WAYS if calls or any(m.content is None for m in row.messages) else _WAYS[:1]:
            messages = [_as_dict(message, empty, as_text) for message in row.messages]
            try:
                whole = self._render(messages)
            except DataError as refused:
                refusals.append(refused)
                continue
            written = _written(whole, calls)
            if written > best:
                best, self.whole, self._messages = written, whole, messages
            if best == _WHOLE:
                break
        if best < 0:
            raise refusals[0]
        if best == _NOT:
            raise DataError(
                f"calls of tools (tool_calls) must reach the model, but its chat template leaves out "
                f"{calls[0]['name']!r}",
                fix="take a model whose chat template writes tool_calls, or write the calls into the content of turns",
            )

    def turn(self, number: int) -> tuple[int, int] | None:
        """Where an assistant turn begins and ends, by what the template writes before it and with it."""
        before = self._render(self._messages[:number], prompt=True) if number else ""
        through = self._render(self._messages[: number + 1])
        certain = self.whole.startswith(through) and through.startswith(before)
        return (len(before), len(through)) if certain else None

    def turn_by_content(self, number: int) -> tuple[int, int] | None:
        """The same by its content, in a template that writes a turn otherwise when others follow."""
        content = self._messages[number].get("content")
        if not content or self._row.messages[number].calls:
            return None
        marked = {**self._messages[number], "content": _MARK}
        pieces = self._render([*self._messages[:number], marked, *self._messages[number + 1 :]]).split(_MARK)
        end = self._render([*self._messages[:number], marked]).rpartition(_MARK)[2]
        for said in (content, content.strip()):
            if len(pieces) == 2 and self.whole == said.join(pieces) and pieces[1].startswith(end):
                return len(pieces[0]), len(pieces[0]) + len(said) + len(end)
        return None

    def _render(self, messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
        return _render(self._tokenizer, messages, self._tools, prompt=prompt)


_WAYS = (("", False), (None, False), ("", True), (None, True))
"""What stands for missing content, and whether arguments of calls are JSON text."""
_NOT, _NAMES, _WHOLE = 0, 1, 2


def _as_dict(message: Message, empty: str | None, arguments_as_text: bool) -> dict[str, Any]:
    """As ``apply_chat_template`` takes it."""
    more = json.loads(message.more) if message.more else {}
    if arguments_as_text:
        for call in more.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"].get("arguments"), ensure_ascii=False)
    content = message.content
    if not (content or "").strip() and more.get("tool_calls"):
        content = empty
    return {"role": message.role, "content": empty if content is None else content, **more}


def _written(text: str, calls: Sequence[dict[str, Any]]) -> int:
    """How much of the calls is in a text."""
    names = Counter(call["name"] for call in calls)
    if not all(text.count(name) >= count for name, count in names.items()):
        return _NOT
    arguments = (call.get("arguments", {}) for call in calls)
    written = (a if isinstance(a, str) else json.dumps(a, ensure_ascii=False) for a in arguments)
    return _WHOLE if all(part in text for part in written) else _NAMES


# --- what a template leaves out ---------------------------------------------------------------------------------------


def template_findings(rows: Sequence[Row], tokenizer: Any) -> list[str]:
    """What of the first conversations the chat template does not write or the loss does not reach, in sentences.

    Raises:
        DataError: the chat template refuses a conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        return []
    left_out: Counter[str] = Counter()
    turns = unlearned = 0
    sample = [row for row in rows[:_CHECKED_ROWS] if isinstance(row, Conversation)]
    for row in sample:
        parts = segments(row, tokenizer)
        whole = "".join(part.text for part in parts)
        left_out.update({key for key, values in _beside(row) if not any(value in whole for value in values)})
        expected = sum(message.is_target for message in row.messages)
        turns += expected
        unlearned += expected - sum(part.is_target for part in parts)
    found = [
        f"the chat template of the model does not write {key!r}, which {count} of {len(sample)} conversations have"
        for key, count in sorted(left_out.items())
    ]
    if unlearned:
        found.append(
            f"{unlearned} of {turns} assistant turns are read but not learned: the chat template rewrites earlier turns"
        )
    return found


def _beside(row: Conversation) -> Iterator[tuple[str, list[str]]]:
    """Keys of turns beside role and content, and tools, with texts that show that they were written."""
    if row.tools:
        described = [tool.get("function", tool) for tool in json.loads(row.tools)]
        yield "tools", [text for tool in described for text in _leaves(tool.get("description") or tool.get("name"))]
    for message in row.messages:
        for key, value in (json.loads(message.more) if message.more else {}).items():
            texts = [text for text in _leaves(value) if text.strip()]
            if key not in _UNSEEN_KEYS and texts:
                yield key, texts


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield max(_ESCAPED.split(value), key=len).strip()  # the longest part that JSON does not change
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
