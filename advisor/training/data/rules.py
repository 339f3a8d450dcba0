"""What a task decides about its data: the part of ``advisor.training.tasks.Task`` that this package asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from advisor.core.data import DataSpec
from advisor.core.errors import DataError, InputError
from advisor.core.tasks import TASKS
from advisor.training.data.rows import Row, RowKind, Rows
from advisor.training.data.tables import Table

if TYPE_CHECKING:
    from advisor.training.data.encoding import EncodedRow

Edges: TypeAlias = tuple[list[int], list[int]]
"""Token ids before and after a text."""


class DataRules(ABC):
    """How a task finds, reads and tokenises its rows. The tokenizer is always the model's own.

    Attributes:
        row_kinds: Kinds of rows that it learns from.
    """

    row_kinds: tuple[RowKind, ...] = ()

    @abstractmethod
    def row_kind(self, spec: DataSpec) -> RowKind:
        """Which rows the task makes of a source."""

    @abstractmethod
    def with_columns(self, spec: DataSpec, table: Table | None) -> DataSpec:
        """``spec`` with the columns that will be used.

        Args:
            spec: Has the columns that the user named.
            table: The source; ``None`` for plain text, which has no columns.

        Raises:
            DataError: a column that is needed is missing, or one was named that has no meaning.
        """

    @abstractmethod
    def read_rows(self, spec: DataSpec) -> Rows:
        """The rows of a source, cleaned, split, ordered and capped.

        Raises:
            DataError: the data cannot be found, read, or used for the task.
        """

    @abstractmethod
    def encode(
        self, rows: Sequence[Row], tokenizer: Any, *, max_seq_length: int | None, token_types: bool = False
    ) -> Iterator[EncodedRow]:
        """Tokenised rows; all rows are of one kind, and are cut at ``max_seq_length`` where there is one."""

    @abstractmethod
    def collator(self, pad_token_id: int, max_seq_length: int) -> Any:
        """Makes batches of encoded rows. It can be pickled, so that loader workers can use it."""

    @abstractmethod
    def document_edges(self, tokenizer: Any) -> Edges:
        """What stands around every document of packed text."""

    @abstractmethod
    def block_edges(self, tokenizer: Any) -> Edges:
        """What stands around every block of packed text."""

    @abstractmethod
    def masking(self, tokenizer: Any) -> Any | None:
        """Makes inputs and labels of packed blocks by masking tokens; ``None`` where the tokens are the labels.

        Raises:
            DataError: the tokenizer has no token to mask with.
        """


def data_rules(task: str) -> DataRules:
    """The rules of a task that can be trained.

    Raises:
        InputError: there is no such task.
        DataError: it can be predicted, but not trained.
    """
    found = TASKS.get(task)
    if found.traits.predicted_only:
        *names, last = [other.name for other in TASKS.all() if not other.traits.predicted_only]
        raise DataError(
            f"training data is read for {', '.join(names)} and {last}, but the task is {task}:"
            f" {found.traits.predicted_only}",
            fix="`advisor predict` answers for this task without --data",
        )
    if not isinstance(found, DataRules):
        raise InputError(f"a task must be an advisor.training.tasks.Task, but {task} is a {type(found).__name__}")
    return found
