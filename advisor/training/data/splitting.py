"""Hold-out, order and caps: decided by a hash of each row's text, so that they depend on nothing else.

The order does not change when rows are added or the file is sorted, copies of one text always fall on the same side,
and the rows of a smaller cap are a prefix of those of a larger one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def hold_out(
    rows: Sequence[Row], fraction: float, seed: int, *, name: str, stratum: Callable[[Row], int] | None = None
) -> tuple[list[Row], list[Row]]:
    """Split rows by text into training and held-out ones.

    Args:
        rows: Cleaned rows.
        fraction: Share of the distinct texts that is held out (at least one, and one stays).
        seed: Seed of the split.
        name: How messages call the data.
        stratum: Class of a row: each gives its share, rounded so that the sum is right, and keeps at least one text
            for training. ``None`` draws from all rows alike.

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
    wanted = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    if stratum is None:
        held = set(distinct[:wanted])
    else:
        strata: dict[bytes, int] = {}
        for key, row in zip(keys, rows, strict=True):  # a text with several classes counts for the first of them
            strata[key] = min(stratum(row), strata.get(key, stratum(row)))
        held = _stratified(distinct, strata, wanted)
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    evaluation = [row for row, key in zip(rows, keys, strict=True) if key in held]
    return train, evaluation


def _stratified(distinct: Sequence[bytes], strata: Mapping[bytes, int], wanted: int) -> set[bytes]:
    """The first texts of every class, ``wanted`` in all: largest remainders after every class's whole share."""
    members: dict[int, list[bytes]] = {}
    for key in distinct:
        members.setdefault(strata[key], []).append(key)
    share = {stratum: wanted * len(keys) / len(distinct) for stratum, keys in members.items()}
    counts = {stratum: min(int(exact), len(members[stratum]) - 1) for stratum, exact in share.items()}
    by_remainder = sorted(share, key=lambda stratum: (int(share[stratum]) - share[stratum], stratum))
    while sum(counts.values()) < wanted:
        open_ones = [stratum for stratum in by_remainder if counts[stratum] < len(members[stratum]) - 1]
        if not open_ones:
            break  # every class has kept one text for training
        for stratum in open_ones[: wanted - sum(counts.values())]:
            counts[stratum] += 1
    held = {key for stratum, keys in members.items() for key in keys[: counts[stratum]]}
    return held or {distinct[0]}


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
