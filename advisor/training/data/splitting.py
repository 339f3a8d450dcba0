"""Hold-out, order and caps: decided by a hash of each row's text, so that they depend on nothing else.

The order does not change when rows are added or the file is sorted, copies of one text always fall on the same side,
and the rows of a smaller cap are a prefix of those of a larger one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from advisor.core.errors import DataError
from advisor.training.data.rows import PlainText, Row, row_key

R = TypeVar("R", bound=Row)


def rank(key: bytes, seed: int) -> bytes:
    """Position of a key in the seeded order."""
    return hashlib.blake2b(key, digest_size=16, key=seed.to_bytes(16, "little", signed=True)).digest()


def shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    """Rows in the seeded order; copies of one text stay in the order they came in, spread like different rows."""
    copies: Counter[bytes] = Counter()
    ranked = []
    for row in rows:
        key = row_key(row)
        copies[key] += 1
        ranked.append((rank(key + copies[key].to_bytes(8, "little"), seed), row))
    ranked.sort(key=lambda pair: pair[0])
    return [row for _, row in ranked]


def hold_out(rows: Sequence[Row], fraction: float, seed: int, *, name: str) -> tuple[list[Row], list[Row]]:
    """Split rows by text into training and held-out ones.

    Args:
        rows: Cleaned rows.
        fraction: Share of the distinct texts that is held out (at least one, and one stays).
        seed: Seed of the split.
        name: How messages call the data.

    Raises:
        DataError: fewer than two distinct texts.
    """
    keys = [row_key(row) for row in rows]
    distinct = sorted(set(keys), key=lambda key: rank(b"split" + key, seed))
    if len(distinct) < 2:
        raise DataError(
            f"holding rows out needs at least two different texts, but {name} has {len(distinct)}",
            fix="add rows, or name a separate evaluation set",
        )
    held = set(distinct[: min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)])
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    evaluation = [row for row, key in zip(rows, keys, strict=True) if key in held]
    return train, evaluation


def hold_out_tail(rows: Sequence[PlainText], fraction: float, *, name: str) -> tuple[list[Row], list[Row]]:
    """Split running text: its last paragraphs are held out, because neighbouring ones tell of each other.

    Raises:
        DataError: fewer than two paragraphs.
    """
    if len(rows) < 2:
        raise DataError(
            f"holding text out needs at least two paragraphs or lines, but {name} has {len(rows)}",
            fix="add text, or name a separate evaluation file",
        )
    wanted = fraction * sum(len(row.text) for row in rows)
    start, held = len(rows), 0
    while start > 1 and (held < wanted or start == len(rows)):
        start -= 1
        held += len(rows[start].text)
    return list(rows[:start]), list(rows[start:])


def drop_shared(train: Sequence[R], evaluation: Sequence[Row], *, min_characters: int = 0) -> tuple[list[R], int]:
    """Training rows whose text is not in the held-out split, and how many were dropped; shorter ones may be shared."""
    held = {row_key(row) for row in evaluation if _characters(row) >= min_characters}
    kept = [row for row in train if row_key(row) not in held]
    return kept, len(train) - len(kept)


def count_copies(rows: Sequence[Row], *, min_characters: int = 0) -> int:
    """Rows beyond the first of their text; shorter ones do not count."""
    keys = [row_key(row) for row in rows if _characters(row) >= min_characters]
    return len(keys) - len(set(keys))


def _characters(row: Row) -> int:
    return sum(len(text) for text in row.texts)
