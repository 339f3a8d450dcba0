"""Where training text comes from (DataSpec) and what it looks like (DataProfile)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from advisor.core.serialization import LATER

Packing = Literal["separate", "joined"]
"""Whether documents that are packed into one block are kept apart, or are one running text."""

DataKind = Literal["demo", "csv", "jsonl", "parquet", "excel", "text", "conll", "datasets"]

PAD_MULTIPLE = 8
"""Collators round the longest row of a batch up to a multiple of this many tokens, which keeps matrix shapes in one
regime and fits tensor cores (NVIDIA's guide to mixed-precision training asks for multiples of 8 with 16-bit types)."""


def padded_length(tokens: int) -> int:
    """Tokens per row of a batch whose longest row has ``tokens``."""
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


QUOTINGS = ("double", "backslash", "none")
"""How quotation marks inside a delimited file are written: doubled (RFC 4180), after a backslash, or as they are."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file where what is detected is not what was meant; ``None`` detects.

    Attributes:
        encoding: Of text, by Python's name of the codec.
        delimiter: Between the fields of a delimited file, one character.
        quoting: One of ``QUOTINGS``.
        header: Whether the first line of a delimited file or sheet names the columns.
        sheet: Name of the sheet of a workbook.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quoting: Literal["double", "backslash", "none"] | None = None
    header: bool | None = None
    sheet: str | None = None


AS_DETECTED = ReadOptions()


@dataclass(frozen=True)
class DataSpec:
    """How to read a data set again, exactly.

    Attributes:
        source: Name of a registered data set, file, ``datasets`` folder, or hub id.
        kind: How to read ``source``; ``"demo"`` stands for every registered data set.
        text_column, text_pair_column, label_column: Columns of a labelled table.
        split: Training split of a ``datasets`` source.
        eval_source: Separate held-out file, or split name of a ``datasets`` source; otherwise rows are held out.
        eval_fraction: Share of rows held out when there is no ``eval_source``.
        max_train_rows, max_eval_rows: Caps, taken after the seeded shuffle.
        split_seed: Seed of shuffle and hold-out, independent of the training seed.
        inner_holdout: Put the held-out rows aside and hold ``eval_fraction`` of the *training* rows out instead (before
            ``max_train_rows`` is applied), so that a search never sees the rows that judge the final run.
        format: Name of the row format (``advisor.training.data.formats``); ``None``, in older files, leaves it to the
            columns.
        reading: How to read files.
        label_map: Pairs of a label in the data and the class that it stands for.
        drop_labels: Rows of these classes are left out.
        drop_unlabelled: Rows without a label are left out; otherwise they are refused.
        stratified: Every class gives its share of the held-out rows; older files hold out without regard to classes.
        separate_documents: Documents that are packed into one block do not see each other: attention and positions
            begin anew at each, and its first token is not predicted. Otherwise a block is one running text.
    """

    source: str
    kind: DataKind
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    split: str | None = None
    eval_source: str | None = None
    eval_fraction: float = 0.1
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    split_seed: int = 17
    inner_holdout: bool = False
    format: str | None = None
    reading: ReadOptions = AS_DETECTED
    label_map: tuple[tuple[str, str], ...] = ()
    drop_labels: tuple[str, ...] = ()
    drop_unlabelled: bool = False
    stratified: bool = False
    separate_documents: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"0 < eval_fraction < 1 must hold, but got {self.eval_fraction}")
        for name in ("max_train_rows", "max_eval_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} >= 1 must hold, but got {value}")


@dataclass(frozen=True)
class DataProfile:
    """What planning needs to know of a data set, without its text.

    Attributes:
        train_rows, eval_rows: Rows after cleaning and caps. For a plain text file: blocks of ``max_seq_length`` tokens.
        token_length_quantiles: Token lengths (with special tokens, truncated at ``max_seq_length``) at evenly spaced
            quantiles from 0 to 1, measured on a sample with the model's own tokenizer.
        max_token_length: Longest row of the sample before truncation.
        max_seq_length: Where rows are cut.
        sampled_rows: How many rows the lengths were measured on.
        class_counts: Rows by label name in the training split; empty for language modelling.
        empty_rows, duplicate_rows, cross_split_duplicates, truncated_rows: What cleaning found. Empty rows and
            duplicates across the splits are dropped from training; duplicates within it are kept and reported.
        text_bytes: UTF-8 size of all texts, which host memory must hold.
        fingerprint: Content hash of the rows in order.
        length_counts: Sampled rows by token length in cells of ``PAD_MULTIPLE``, so that the counts decide the
            length of every batch exactly: the first counts lengths 1 to 8, the second 9 to 16, up to the cut. Empty
            where only the quantiles are known.
        reading_s: Wall clock of reading, cleaning, splitting and ordering the source here, whatever the caps (of packed
            text also of tokenising it, since all of it is); ``None`` where it was not measured.
        tokenizing_s_per_row: The same of tokenising one row.
        separate_documents: As in ``DataSpec``.
    """

    train_rows: int
    eval_rows: int
    token_length_quantiles: tuple[int, ...]
    max_token_length: int
    max_seq_length: int
    sampled_rows: int
    class_counts: dict[str, int] = field(default_factory=dict)
    empty_rows: int = 0
    duplicate_rows: int = 0
    cross_split_duplicates: int = 0
    truncated_rows: int = 0
    text_bytes: int = 0
    fingerprint: str = ""
    length_counts: tuple[int, ...] = ()
    reading_s: float | None = field(default=None, compare=False)
    tokenizing_s_per_row: float | None = field(default=None, compare=False)
    separate_documents: bool = field(default=False, metadata=LATER)

    @property
    def padded(self) -> bool:
        """Whether batches hold padding: rows differ in length."""
        return len(set(self.token_length_quantiles)) > 1

    @property
    def num_labels(self) -> int:
        return len(self.class_counts)

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.class_counts)

    @property
    def majority_share(self) -> float | None:
        """Accuracy of always answering the most frequent class; ``None`` without classes."""
        total = sum(self.class_counts.values())
        return max(self.class_counts.values()) / total if total else None

    def mean_tokens(self, max_seq_length: int | None = None) -> float:
        """Mean tokens of a row that is cut there: trapezoidal integral of the quantile function."""
        lengths = [min(tokens, max_seq_length or tokens) for tokens in self.token_length_quantiles]
        if len(lengths) == 1:
            return float(lengths[0])
        return (sum(lengths) - (lengths[0] + lengths[-1]) / 2) / (len(lengths) - 1)
