"""What one repeated block of layers adds to a part of an event log: where it is inserted, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.costmodel.trace.family import KINDS
from advisor.costmodel.trace.symbolic import Shape

Ints = npt.NDArray[np.int64]

TELLING_SHAPES: tuple[Shape, ...] = ((3, 40, 5), (5, 24, 11), (2, 104, 7))
"""Shapes at which storages are compared: of the same size in all of them, they follow the same formula."""

MOST_GROWTH = 2.0
"""How much larger a storage may be in the deeper model: it has at most twice the layers, and what is stacked or
concatenated over layers grows less than their number."""

_OF_THE_STEP = (KINDS.index("activation"), KINDS.index("temporary"))


class MisalignedError(ValueError):
    """The two depths differ by more than repeated layers."""


@dataclass(frozen=True)
class Insertion:
    """``length`` storages of the deeper log from ``start`` (counted from the start of the part) are an added layer."""

    start: int
    length: int


def align(shallow: Ints, deeper: Ints) -> list[Insertion]:
    """Where the deeper part has storages that the shallow one has not, in order of their start.

    Args:
        shallow: (storages, features) tokens.
        deeper: The same with one layer more.

    Raises:
        MisalignedError: the shallow part is not what is left without a few blocks.
    """
    left = len(deeper) - len(shallow)
    if left < 0:
        raise MisalignedError("a phase allocates less in the deeper model")
    insertions: list[Insertion] = []
    i = j = 0
    while True:
        run = _common(shallow[i:], deeper[j:])
        i, j = i + run, j + run
        if i == len(shallow):
            if left:
                insertions.append(_rolled(deeper, j, left, insertions))
            return insertions
        length, grows = _best_step(shallow[i:], deeper[j:], left)
        if length:
            insertions.append(_rolled(deeper, j, length, insertions))
        i, j, left = i + grows, j + length + grows, left - length


def _best_step(shallow: Ints, deeper: Ints, left: int) -> tuple[int, int]:
    """Length of the added block here, and 1 if it is followed by a storage whose size grows with depth (the norms of
    all gradients in one tensor); the one after which the two go on alike for longest.
    """
    steps = {(length, 0): _common(shallow, deeper[length:]) for length in range(1, left + 1)}
    for length in range(left + 1):
        if _grown(shallow[0], deeper[length]):
            steps[length, 1] = 1 + _common(shallow[1:], deeper[length + 1 :])
    best = max(steps, key=lambda step: (steps[step], -step[1], -step[0]), default=(0, 0))
    if not steps or not steps[best]:
        raise MisalignedError("a phase does not go on after the block that a layer adds")
    return best


def _grown(shallow: Ints, deeper: Ints) -> bool:
    """Whether two storages of the step itself differ only in that the deeper model's is larger by the same factor at
    every shape.
    """
    number = len(TELLING_SHAPES)
    small, large = shallow[:number], deeper[:number]
    alike = bool((shallow[number:] == deeper[number:]).all()) and shallow[number] in _OF_THE_STEP
    in_proportion = bool((small * large[0] == large * small[0]).all())
    return alike and in_proportion and bool(small[0] <= large[0] <= MOST_GROWTH * small[0])


def _rolled(deeper: Ints, start: int, length: int, earlier: list[Insertion]) -> Insertion:
    """The same insertion one period earlier if the layer before is like it: a middle layer has neighbours on both
    sides.
    """
    floor = earlier[-1].start + earlier[-1].length if earlier else 0
    rolled = 0
    while rolled < length and start - rolled > floor:
        if (deeper[start - rolled - 1] != deeper[start - rolled - 1 + length]).any():
            break
        rolled += 1
    return Insertion(start - rolled, length)


def _common(first: Ints, second: Ints) -> int:
    """Length of the common beginning."""
    length = min(len(first), len(second))
    differ = np.flatnonzero((first[:length] != second[:length]).any(axis=1))
    return int(differ[0]) if len(differ) else length
