"""Values of a table as parts of rows: texts, turns of conversations, tools.

Nested values may stand as JSON text, as tables without nested types hold them, or as Python wrote them.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import json
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.training.data.rows import Conversation, Message

_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool", "function-response": "tool",
}  # fmt: skip
_CALL_ROLES = ("function_call", "function-call", "tool_call")
"""Turns of these hold a call of a tool as JSON: the assistant makes it."""
_TURN_KEYS = ("role", "from", "content", "value")
_SCALARS = (str, int, float, decimal.Decimal, datetime.date, bytes)
_LONGEST_SHOWN = 80


class CellError(ValueError):
    """A value is not what its column must hold.

    Args:
        wanted: What it must hold.
        got: What it holds.
        fix: What can be done about it.
    """

    def __init__(self, wanted: str, got: str, fix: str = "") -> None:
        super().__init__(wanted, got)
        self.wanted, self.got = wanted, got
        self.fix = fix or "correct or remove that row, or name another --format"


# --- what a value is --------------------------------------------------------------------------------------------------


def is_absent(value: Any) -> bool:
    """Missing, blank or empty. Writers of Parquet turn missing text into NaN."""
    if isinstance(value, str | list | dict):
        return not (value.strip() if isinstance(value, str) else value)
    return value is None or value != value


def is_text(value: Any) -> bool:
    """Text, or a number or date that stands for it."""
    return isinstance(value, _SCALARS) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    """True or false, also as text."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def is_list(value: Any) -> bool:
    """A list, also as text."""
    return isinstance(parsed(value), list)


def is_turns(value: Any) -> bool:
    """A list of turns."""
    turns = parsed(value)
    return (
        isinstance(turns, list)
        and bool(turns)
        and isinstance(turns[0], dict)
        and any(k in turns[0] for k in _TURN_KEYS)
    )


def is_completion(value: Any) -> bool:
    """A text or turns."""
    return is_text(value) or is_turns(value)


def turns_are_from_and_value(value: Any) -> bool:
    """Whether turns are written as ShareGPT does."""
    return "from" in parsed(value)[0]


def parsed(value: Any) -> Any:
    """A list or object that stands as text; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


# --- texts and turns --------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """Text without blanks around it; empty where there is none.

    Raises:
        CellError: it is no text.
    """
    if is_absent(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if not isinstance(value, _SCALARS):
        raise CellError("text", f"a {type(value).__name__}: {str(value)[:_LONGEST_SHOWN]}")
    return str(value).strip()


def conversation(turns: Any, *, system: Any = None, tools: Any = None) -> Conversation:
    """A conversation of turns, and of what stands beside them.

    Raises:
        CellError: they are no turns, or hold something else than text.
    """
    messages = messages_of(turns)
    opening = text_of(system)
    if opening and messages and messages[0].role != "system":
        messages = [Message("system", opening), *messages]
    return Conversation(tuple(messages), tools_of(tools))


def messages_of(turns: Any) -> list[Message]:
    """Turns as messages, in order.

    Raises:
        CellError: they are no turns, or hold something else than text.
    """
    if is_absent(turns):
        return []
    turns = parsed(turns)
    if not isinstance(turns, list | tuple):
        raise CellError(
            "a list of objects with role and content (or from and value)", f"a {type(turns).__name__}", _TURNS_FIX
        )
    return [_message(turn) for turn in turns]


_TURNS_FIX = 'write turns as {"role": "user", "content": "..."}'


def _message(turn: Any) -> Message:
    told = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    if not isinstance(told, str):
        raise CellError(
            "a list of objects with role and content (or from and value)", str(turn)[:_LONGEST_SHOWN], _TURNS_FIX
        )
    content = turn.get("content", turn.get("value"))
    more = {key: value for key, value in turn.items() if key not in _TURN_KEYS and value is not None}
    calls = [*_calls(more.pop("tool_calls", None)), *_calls(more.pop("function_call", None))]
    if content is None and not calls and any(isinstance(value, str) for value in more.values()):
        raise CellError("turns with role and content (or from and value)", f"one with {', '.join(turn)}", _TURNS_FIX)
    role = _ROLES.get(told.strip().lower(), told.strip())
    if role.lower() in _CALL_ROLES:
        found = _calls(content)
        role, calls, content = "assistant", found, None if found else content
    is_learned = _is_learned(more.pop("weight", None)) and _is_learned(more.pop("train", None))
    if calls:
        more["tool_calls"] = calls
    return Message(role, _content(content), _json(more) if more else "", is_learned)


def _is_learned(weight: Any) -> bool:
    """Whether a turn's weight, as fine-tuning services know it, is not 0."""
    return weight is None or bool(weight)


def _content(value: Any) -> str | None:
    """Content of a turn: text, the texts of a list of parts, or an object (what a tool answers) as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _json(value)
    if not isinstance(value, list):
        return text_of(value)
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type", "other") if isinstance(part, dict) else type(part).__name__
            raise CellError(
                "text", f"a part of type {kind}", "only text is trained: remove such parts, or the rows that have them"
            )
        texts.append(text)
    return "".join(texts)


# --- tools ------------------------------------------------------------------------------------------------------------


def tools_of(value: Any) -> str:
    """Descriptions of tools as the JSON of a list, each as ``{"type": "function", "function": {...}}``; empty without.

    Raises:
        CellError: they are no list of objects.
    """
    if is_absent(value):
        return ""
    tools = parsed(value)
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(parsed(tool), dict) for tool in tools):
        raise CellError("tools as a list of objects", str(value)[:_LONGEST_SHOWN])
    return _json([_described(parsed(tool)) for tool in tools]) if tools else ""


def _described(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}


def _calls(value: Any) -> list[dict[str, Any]]:
    """Calls of tools; arguments that stand as JSON text become objects, as chat templates want them."""
    if is_absent(value):
        return []
    found = parsed(value)
    calls: Sequence[Any] = found if isinstance(found, list) else [found]
    result = []
    for call in calls:
        call = parsed(call)
        function = parsed(call.get("function", call)) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise CellError(
                "calls of tools as objects with name and arguments",
                str(call)[:_LONGEST_SHOWN],
                'write them as {"type": "function", "function": {"name": "...", "arguments": {...}}}',
            )
        arguments = parsed(function.get("arguments", {}))
        named = {key: part for key, part in function.items() if key not in ("type", "id")}
        beside = {key: part for key, part in call.items() if key == "id" and part is not None}
        result.append({**beside, "type": "function", "function": {**named, "arguments": arguments}})
    return result


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
