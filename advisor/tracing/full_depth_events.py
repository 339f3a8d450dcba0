"""The event log of a deep stack from two shallow ones: what a further layer does is inserted once per missing layer.

Two depths that differ by one layer are aligned part by part (weights, forward, backward, …). What only the deeper one
allocates is the block that a layer adds; it is repeated for every further layer. A storage may die in another part than
it was born in, and parts run through the layers in their own directions: where each repetition dies follows from where
its neighbours, one layer before or after, die. Everything is counted in allocations since the start of a part, and is
linear in the number of layers; the log of sizes is a gather over the two evaluated logs, so it costs no alignment per
shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.tracing.symbolic import TraceShape
from advisor.tracing.symbolic_trace import KINDS, EventLog, SymbolicTrace

Ints = npt.NDArray[np.int64]

NEVER = -1

SHORT_LIFE = 16
"""Lives of up to so many allocations tell storages apart (a cast that is cached until the end from one that is not);
longer ones may span layers and grow with depth. Only used where storages are not told apart without it."""


@dataclass(frozen=True)
class DeepLog:
    """Events at full depth, for any shape.

    Attributes:
        signs, storages, phases, kinds: As in ``EventLog``.
        base: By storage, its number in the shallow log; in the deeper one where it is of an added layer.
        slope: By storage, the deeper log's number of a storage that may grow with depth; -1 for those of added layers.
        layers: How often a further layer was inserted.
    """

    signs: Ints
    storages: Ints
    phases: Ints
    kinds: Ints
    base: Ints
    slope: Ints
    layers: int

    def events(self, shallow: EventLog, deeper: EventLog) -> EventLog:
        """The log at the shape that both were evaluated at."""
        added = self.slope == NEVER
        sizes = np.empty(len(self.base), dtype=np.int64)
        sizes[added] = deeper.sizes_bytes[self.base[added]]
        small = shallow.sizes_bytes[self.base[~added]]
        sizes[~added] = small + self.layers * (deeper.sizes_bytes[self.slope[~added]] - small)
        forward, backward = (self._kept(number) for number in shallow.first_products)
        return EventLog(self.signs, self.storages, self.phases, sizes, self.kinds, (forward, backward))

    def _kept(self, number: int) -> int:
        """Number of a storage of the shallow log at full depth; -1 where there is none."""
        found = np.flatnonzero((self.base == number) & (self.slope != NEVER))
        return int(found[0]) if len(found) else NEVER


@dataclass(frozen=True)
class _Lives:
    """Births and deaths of one log.

    Attributes:
        parts: Phase of each part: a part is a run of events of one phase.
        starts: First storage of each part, and the number of storages at the end.
        part: By storage, the part it is born in.
        death_part: By storage, the part it dies in; ``NEVER`` if it outlives the log.
        death_rank: By storage, how many storages of that part are born before it dies.
        tokens: By storage, what it is: its sizes at the telling shapes, kind, the part of its death, and how soon after
            its birth that is.
    """

    parts: tuple[int, ...]
    starts: Ints
    part: Ints
    death_part: Ints
    death_rank: Ints
    tokens: Ints
    kinds: Ints


def deepen(shallow: SymbolicTrace, deeper: SymbolicTrace, layers: int) -> DeepLog:
    """The log at ``layers`` layers more than ``shallow``; ``deeper`` has one layer more than it.

    Raises:
        MisalignedError: the logs do not differ by repeated layers alone, or it cannot be told where a storage dies.
    """
    try:
        return _Synthesis(_lives(shallow, 0), _lives(deeper, 0), layers).log()
    except MisalignedError:
        return _Synthesis(_lives(shallow, SHORT_LIFE), _lives(deeper, SHORT_LIFE), layers).log()


def _lives(family: SymbolicTrace, short_life: int) -> _Lives:
    changes = np.flatnonzero(np.diff(family.phases)) + 1
    part_of_event = np.zeros(len(family.phases), dtype=np.int64)
    part_of_event[changes] = 1
    part_of_event = part_of_event.cumsum()
    born = family.signs > 0
    number = int(born.sum())
    if not (family.storages[born] == np.arange(number)).all():
        raise MisalignedError("storages are not numbered in the order of their allocation")
    part = part_of_event[born]
    starts = np.searchsorted(part, np.arange(int(part_of_event[-1]) + 2))
    born_before = born.cumsum()
    death_part = np.full(number, NEVER, dtype=np.int64)
    death_rank = np.zeros(number, dtype=np.int64)
    dead = family.storages[~born]
    death_part[dead] = part_of_event[~born]
    death_rank[dead] = born_before[~born] - starts[part_of_event[~born]]
    sizes = [family.events(shape).sizes_bytes for shape in TELLING_SHAPES]
    ages = np.minimum(death_rank - (np.arange(number) - starts[part]), short_life)
    tokens = np.stack([*sizes, family.kinds, death_part, np.where(death_part == part, ages, NEVER)], axis=1)
    firsts = np.concatenate([[0], changes])
    return _Lives(
        parts=tuple(int(phase) for phase in family.phases[firsts]),
        starts=starts,
        part=part,
        death_part=death_part,
        death_rank=death_rank,
        tokens=tokens,
        kinds=family.kinds,
    )


class _Synthesis:
    """Builds the deep log from two aligned ones."""

    def __init__(self, first: _Lives, second: _Lives, layers: int) -> None:
        if first.parts != second.parts:
            raise MisalignedError("the two depths run through different phases")
        self.first, self.second, self.layers = first, second, layers
        self.insertions: list[list[Insertion]] = []
        self.twin = np.full(len(second.part), NEVER, dtype=np.int64)
        """By storage of the deeper log, its counterpart in the shallow one; ``NEVER`` for an added layer's."""
        for part in range(len(first.parts)):
            mine = slice(first.starts[part], first.starts[part + 1])
            theirs = slice(second.starts[part], second.starts[part + 1])
            insertions = align(first.tokens[mine], second.tokens[theirs])
            self.insertions.append(insertions)
            kept = np.ones(theirs.stop - theirs.start, dtype=bool)
            for insertion in insertions:
                kept[insertion.start : insertion.start + insertion.length] = False
            self.twin[theirs.start + np.flatnonzero(kept)] = np.arange(mine.start, mine.stop)

    def log(self) -> DeepLog:
        kept, added = self._kept(), self._added()
        columns = np.concatenate([kept, *added]) if added else kept
        order = np.lexsort((columns[:, 1], columns[:, 0]))
        part, _, death_part, death_rank, base, slope, kind = columns[order].T
        rank = np.arange(len(part)) - np.searchsorted(part, part)
        return self._sorted_log(part, rank, death_part, death_rank, base, slope, kind)

    def _kept(self) -> Ints:
        """What both logs have: positions are linear in the number of layers."""
        second = np.flatnonzero(self.twin != NEVER)
        first = self.twin[second]
        shallow, deeper = self.first, self.second
        if (shallow.death_part[first] != deeper.death_part[second]).any():
            raise MisalignedError("a storage dies in different phases at the two depths")
        rank = first - shallow.starts[shallow.part[first]]
        shift = second - deeper.starts[deeper.part[second]] - rank
        death = shallow.death_rank[first]
        death = death + self.layers * (deeper.death_rank[second] - death)
        return np.stack(
            [
                shallow.part[first],
                rank + self.layers * shift,
                shallow.death_part[first],
                death,
                first,
                second,
                deeper.kinds[second],
            ],
            axis=1,
        )

    def _added(self) -> list[Ints]:
        """What the further layers allocate: one table per insertion, a row per storage and layer."""
        tables = []
        for part, insertions in enumerate(self.insertions):
            before = 0
            for insertion in insertions:
                # Insertions before this one have moved it by one block each; at full depth they move it by all.
                start = insertion.start - before + self.layers * before
                tables.append(self._repeated(part, insertion, start))
                before += insertion.length
        return tables

    def _repeated(self, part: int, insertion: Insertion, start: int) -> Ints:
        """One block at every further layer, the first at rank ``start`` of its part."""
        offsets = np.arange(insertion.length)
        storages = self.second.starts[part] + insertion.start + offsets
        copies = np.arange(self.layers)
        rows = np.empty((self.layers, insertion.length, 7), dtype=np.int64)
        rows[:, :, 0] = part
        rows[:, :, 1] = start + offsets + insertion.length * copies[:, None]
        rows[:, :, 2] = self.second.death_part[storages]
        rows[:, :, 3] = self._deaths(storages, insertion.length, copies[:, None])
        rows[:, :, 4] = storages
        rows[:, :, 5] = NEVER
        rows[:, :, 6] = self.second.kinds[storages]
        return rows.reshape(-1, 7)

    def _deaths(self, storages: Ints, period: int, copies: Ints) -> Ints:
        """Rank of the death of every repetition (layers, storages), from the deaths of the neighbours: of the layer
        before, or of the one after.
        """
        deaths = np.zeros((self.layers, len(storages)), dtype=np.int64)
        unknown = self.second.death_part[storages] != NEVER
        for neighbours, steps in ((storages - period, copies + 1), (storages + period, copies - self.layers)):
            found = unknown & self._alike(storages, neighbours)
            mine, theirs = storages[found], neighbours[found]
            here = self.second.death_rank[theirs]
            there = self.first.death_rank[self.twin[theirs]]
            slope = (self.second.death_rank[mine] - here) * np.sign(mine - theirs)
            usual = self._usual_slopes(mine, slope)
            found[np.flatnonzero(found)[~usual]] = False
            deaths[:, found] = (there + self.layers * (here - there) + steps * slope)[:, usual]
            unknown &= ~found
        for index in np.flatnonzero(unknown):
            self._follow_sibling(deaths, storages, unknown, int(index))
        return deaths

    def _follow_sibling(self, deaths: Ints, storages: Ints, unknown: npt.NDArray[np.bool_], index: int) -> None:
        """Let a storage without counterpart (the first layer is often another) die beside that of its own layer whose
        death is nearest.
        """
        part, ranks = self.second.death_part[storages], self.second.death_rank[storages]
        siblings = np.flatnonzero((part == part[index]) & ~unknown)
        reach = max((insertion.length for insertion in self.insertions[int(part[index])]), default=0)
        distance = np.abs(ranks[siblings] - ranks[index])
        if not len(siblings) or distance.min() > reach:
            raise MisalignedError("a storage of an added layer has no counterpart in the layers beside it")
        nearest = siblings[int(np.argmin(distance))]
        deaths[:, index] = deaths[:, nearest] + ranks[index] - ranks[nearest]

    def _alike(self, storages: Ints, neighbours: Ints) -> npt.NDArray[np.bool_]:
        """Whether the neighbours are there at both depths and are the same thing."""
        inside = (neighbours >= 0) & (neighbours < len(self.second.part))
        safe = np.where(inside, neighbours, 0)
        same = (self.second.tokens[safe] == self.second.tokens[storages]).all(axis=1)
        return inside & (self.twin[safe] != NEVER) & same

    def _usual_slopes(self, storages: Ints, slopes: Ints) -> npt.NDArray[np.bool_]:
        """Whether deaths move by one added block from layer to layer, forwards or backwards, or not at all."""
        usual = slopes == 0
        for part in np.unique(self.second.death_part[storages]):
            lengths = [insertion.length for insertion in self.insertions[part]]
            usual |= (self.second.death_part[storages] == part) & np.isin(np.abs(slopes), lengths)
        return usual

    def _sorted_log(
        self, part: Ints, rank: Ints, death_part: Ints, death_rank: Ints, base: Ints, slope: Ints, kind: Ints
    ) -> DeepLog:
        number = len(part)
        mortal = np.flatnonzero(death_part != NEVER)
        signs = np.concatenate([np.ones(number, dtype=np.int64), np.full(len(mortal), -1, dtype=np.int64)])
        storages = np.concatenate([np.arange(number), mortal])
        event_part = np.concatenate([part, death_part[mortal]])
        event_rank = np.concatenate([rank, death_rank[mortal]])
        order = np.lexsort((storages, signs, event_rank, event_part))
        phases = np.array(self.first.parts, dtype=np.int64)[event_part[order]]
        log = DeepLog(signs[order], storages[order], phases, kind, base, slope, self.layers)
        _check_order(log)
        return log


def _check_order(log: DeepLog) -> None:
    """Every storage is born before it dies."""
    birth = np.empty(len(log.base), dtype=np.int64)
    positions = np.arange(len(log.signs))
    born = log.signs > 0
    birth[log.storages[born]] = positions[born]
    if (birth[log.storages[~born]] >= positions[~born]).any():
        raise MisalignedError("a storage would die before it is allocated")


# --------------------
# What one repeated block of layers adds to a part of an event log: where it is inserted, and how long it is.

TELLING_SHAPES: tuple[TraceShape, ...] = ((3, 40, 5), (5, 24, 11), (2, 104, 7))
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
