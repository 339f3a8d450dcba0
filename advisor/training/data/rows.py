"""The raw rows of a data set, before any token is made."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

RowKind = Literal[
    "labelled",
    "multi-labelled",
    "scored",
    "tagged",
    "source-target",
    "text",
    "completion",
    "conversation",
    "answer-pair",
]
LABEL_KINDS: tuple[RowKind, ...] = ("labelled", "multi-labelled", "scored", "tagged")
"""Rows with labels that stand in a column of their own."""
CONVERSATION_COLUMN = "messages"
ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class TextOrPair:
    """A text, or a pair of texts, that something is to be said of."""

    text: str
    pair: str | None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of its classes; none where it has no class."""
        return ()


@dataclass(frozen=True, slots=True)
class LabelledText(TextOrPair):
    """With the index of its class."""

    label: int

    @property
    def classes(self) -> tuple[int, ...]:
        return (self.label,)


@dataclass(frozen=True, slots=True)
class MultiLabelledText(TextOrPair):
    """With the indices of its labels in ascending order: any number, also none."""

    labels: tuple[int, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        return self.labels


@dataclass(frozen=True, slots=True)
class ScoredText(TextOrPair):
    """With a number."""

    value: float


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A text with the places of its words, and the index of each word's tag."""

    text: str
    words: tuple[tuple[int, int], ...]
    tags: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def classes(self) -> tuple[int, ...]:
        """Of its words."""
        return self.tags


@dataclass(frozen=True, slots=True)
class PlainText:
    """A document for language modelling."""

    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Completion:
    """An instruction and the answer that is to be learned."""

    prompt: str
    completion: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.prompt, self.completion)


@dataclass(frozen=True, slots=True)
class SourceAndTarget:
    """A text, and the one that is to be written from it.

    Attributes:
        source: What is read.
        target: What is learned: the first of the references.
        references: All texts that are right.
    """

    source: str
    target: str
    references: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.source, self.target)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks, as chat templates call it.
        content: The text; ``None`` where there is none, beside a call of a tool for example.
        more: Further keys (``tool_calls``, ``name``, ``reasoning_content``, ...) as the JSON of an object; or empty.
        is_learned: Whether it counts in the loss, if the assistant speaks.
    """

    role: str
    content: str | None
    more: str = ""
    is_learned: bool = True

    @property
    def is_target(self) -> bool:
        """Whether it counts in the loss."""
        return self.role == ASSISTANT and self.is_learned and bool((self.content or "").strip() or self.calls)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Calls of tools that it makes."""
        return json.loads(self.more).get("tool_calls", []) if self.more else []


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; those of the assistant are to be learned.

    Attributes:
        messages: The turns.
        tools: Descriptions of the tools that can be called, as the JSON of a list; or empty.
    """

    messages: tuple[Message, ...]
    tools: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return (*_turns(self.messages), *([self.tools] if self.tools else []))


def _turns(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield from (message.role, message.content or "", *([message.more] if message.more else []))


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one prompt, of which one is preferred. All three are texts, or all three are turns.

    Attributes:
        prompt: What is answered; empty where the answers are all there is.
        chosen: The answer that is preferred.
        rejected: The other one.
        tools: As in ``Conversation``.
    """

    prompt: str | tuple[Message, ...]
    chosen: str | tuple[Message, ...]
    rejected: str | tuple[Message, ...]
    tools: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        parts = (self.prompt, self.chosen, self.rejected)
        found = [text for part in parts for text in ([part] if isinstance(part, str) else _turns(part))]
        return (*found, *([self.tools] if self.tools else []))

    @property
    def is_whole(self) -> bool:
        """Whether both answers say something."""
        return all(
            part.strip() if isinstance(part, str) else any((m.content or "").strip() or m.calls for m in part)
            for part in (self.chosen, self.rejected)
        )


Row: TypeAlias = (
    LabelledText
    | MultiLabelledText
    | ScoredText
    | TaggedText
    | SourceAndTarget
    | PlainText
    | Completion
    | Conversation
    | AnswerPair
)


def classes_of(row: Row) -> tuple[int, ...]:
    """Indices of a row's classes; none where it has no class."""
    return row.classes if isinstance(row, TextOrPair | TaggedText) else ()


def _learned(row: Row) -> bytes:
    """What is learned of a row beside its texts."""
    if isinstance(row, ScoredText):
        return struct.pack("<d", row.value)
    indices = b"".join(index.to_bytes(4, "little") for index in classes_of(row))
    return indices + b"|" if isinstance(row, MultiLabelledText) else indices


def row_key(row: Row) -> bytes:
    """Identity of a row's text (labels left out): 16 bytes that are equal exactly for duplicates."""
    digest = hashlib.blake2b(digest_size=16)
    for text in row.texts:
        part = text.encode("utf-8", "surrogatepass")
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


@dataclass(frozen=True)
class Findings:
    """What cleaning found, in rows.

    Attributes:
        empty_rows: Dropped, because they had no text.
        duplicate_rows: Further copies of a text within the training split; kept.
        cross_split_duplicates: Dropped from training, because their text is also in the held-out split.
    """

    empty_rows: int = 0
    duplicate_rows: int = 0
    cross_split_duplicates: int = 0


@dataclass(frozen=True)
class Rows:
    """A data set, cleaned, split, shuffled with its seed and capped.

    A smaller cap gives a prefix of the rows of a larger one.

    Attributes:
        kind: Which kind of row ``train`` and ``eval`` hold.
        train, eval: The rows in order. Documents for language modelling are not capped here, but after packing.
        label_names: By class index; empty without labels.
        findings: What cleaning found.
        columns: Columns that were used, also the ones that were detected.
        notes: How the source was read and what is worth knowing of it, each a sentence for the user.
    """

    kind: RowKind
    train: tuple[Row, ...]
    eval: tuple[Row, ...]
    label_names: tuple[str, ...] = ()
    findings: Findings = field(default_factory=Findings)
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @property
    def class_counts(self) -> dict[str, int]:
        """Training rows by label name, in the order of the class indices; a row counts for each of its labels."""
        counts = Counter(index for row in self.train for index in classes_of(row))
        return {name: counts[index] for index, name in enumerate(self.label_names)}

    @property
    def text_bytes(self) -> int:
        """UTF-8 size of all texts."""
        return sum(
            len(text.encode("utf-8", "surrogatepass")) for row in (*self.train, *self.eval) for text in row.texts
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind, label names and all rows with their labels, in order."""
        digest = hashlib.sha256(repr((self.kind, self.label_names, len(self.train), len(self.eval))).encode())
        for row in (*self.train, *self.eval):
            digest.update(row_key(row) + _learned(row))
        return digest.hexdigest()
