"""The raw rows of a data set, before any token is made."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RowKind = Literal["labelled", "text", "completion", "conversation"]
CONVERSATION_COLUMN = "messages"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, or a pair of texts, and the index of its class."""

    text: str
    pair: str | None
    label: int

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)


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
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; those of the assistant are to be learned."""

    messages: tuple[Message, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part for message in self.messages for part in (message.role, message.content))


Row: TypeAlias = LabelledText | PlainText | Completion | Conversation


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
    """

    kind: RowKind
    train: tuple[Row, ...]
    eval: tuple[Row, ...]
    label_names: tuple[str, ...] = ()
    findings: Findings = field(default_factory=Findings)
    columns: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @property
    def class_counts(self) -> dict[str, int]:
        """Training rows by label name, in the order of the class indices."""
        counts = Counter(row.label for row in self.train if isinstance(row, LabelledText))
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
            digest.update(row_key(row))
            if isinstance(row, LabelledText):
                digest.update(row.label.to_bytes(4, "little"))
        return digest.hexdigest()
