"""Pairs of labelled sentences: a stand-in for data of sentence pairs with three classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

MIXED = "one of each"


def sentence_pairs(rows: Sequence[tuple[str, int]], label_names: Sequence[str]) -> list[dict[str, str]]:
    """Every sentence once, in pairs of equally frequent classes: both of the first class, both of the second, mixed.

    Which sentences meet is decided by hashes of their texts, so that equal rows always make equal pairs.

    Args:
        rows: Text and class; classes beyond the second are left out.
        label_names: Of the two classes.

    Returns:
        ``text``, ``text_pair`` and ``label`` of each pair.
    """
    by_class: list[list[str]] = [[], []]
    for text in sorted({*rows}, key=lambda row: hashlib.blake2b(row[0].encode(), digest_size=8).digest()):
        if text[1] < 2:
            by_class[text[1]].append(text[0])
    each = min(len(texts) for texts in by_class) // 3
    first, second = by_class
    pairs = []
    for number in range(each):
        for name, texts in zip(label_names, by_class, strict=False):
            pair = texts[2 * number : 2 * number + 2]
            pairs.append({"text": pair[0], "text_pair": pair[1], "label": f"both {name}"})
        mixed = (first[2 * each + number], second[2 * each + number])
        one, other = mixed if number % 2 else mixed[::-1]
        pairs.append({"text": one, "text_pair": other, "label": MIXED})
    return pairs
