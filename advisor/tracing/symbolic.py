"""Sizes as functions of batch, length and rank: a few traces determine them, so any other point needs no trace.

Within a regime (same depth, method, checkpointing, data types, attention kernel; batch > 1; length a multiple of 8) a
step runs the same operators on the same storages for every batch B, length S and rank r, and each size is one monomial
c · B^i · P^j · r^k, where P is S rounded up to what a kernel pads to. Three points determine i, j, k and c. A sum of
two monomials is tried where one does not fit. What does not fit is refused, never approximated.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TraceShape = tuple[int, int, int]
"""``(micro_batch_size, seq_length, rank)``; rank 1 where the method has none."""

PADS = (1, 32)
"""The memory-efficient kernel rounds the length of its log-sum-exp up to 32 (attention.cu); lengths themselves come in
multiples of 8, to which masks are padded. Other roundings sit inside kernels and have rules of their own
(temporaries)."""


@dataclass(frozen=True)
class Monomial:
    """``batch^i · padded_length^j · length^l · rank^k``."""

    batch: int
    padded: int
    length: int
    rank: int
    pad: int

    def __call__(self, shape: TraceShape) -> int:
        rows, length, rank = shape
        padded = -(-length // self.pad) * self.pad
        return int(rows**self.batch * padded**self.padded * length**self.length * rank**self.rank)


def _basis() -> tuple[Monomial, ...]:
    """Simplest first: where two agree on the sampled points, the simpler one is meant."""
    basis = []
    for pad in PADS:
        for rank, (batch, padded, length) in itertools.product(
            (0, 1, 2), ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 0), (1, 2, 0), (0, 1, 1), (1, 1, 1))
        ):
            if (pad > 1 and padded == 0) or (pad == 1 and length):
                continue
            basis.append(Monomial(batch, padded, length, rank, pad))
    return tuple(sorted(basis, key=lambda m: (m.pad > 1, m.batch + m.padded + m.length + m.rank, m.pad)))


BASIS = _basis()


@functools.lru_cache(maxsize=4096)
def features(shape: TraceShape) -> npt.NDArray[np.float64]:
    """Every monomial of ``BASIS`` at ``shape``; not to be written to."""
    values = np.array([monomial(shape) for monomial in BASIS], dtype=np.float64)
    values.setflags(write=False)
    return values


class UnfitError(ValueError):
    """A quantity that is no monomial, nor a sum of two, over the sampled shapes."""


@dataclass(frozen=True)
class SymbolicSizes:
    """A vector of quantities as functions of the shape.

    Attributes:
        inverse: For each quantity the row of its formula.
        coefficients: (formulas, basis) array; each row has one or two entries.
    """

    inverse: npt.NDArray[np.int64]
    coefficients: npt.NDArray[np.float64]

    def __call__(self, shape: TraceShape) -> npt.NDArray[np.int64]:
        """All quantities at ``shape``, exact integers."""
        return np.rint(self.coefficients @ features(shape)).astype(np.int64)[self.inverse]


def fit_sizes(values: npt.NDArray[np.int64], shapes: list[TraceShape]) -> SymbolicSizes:
    """Find the formula of every quantity.

    Args:
        values: (quantities, shapes) integers.
        shapes: The sampled points; more than two, none a simple multiple of another.

    Raises:
        UnfitError: a quantity has no formula.
    """
    rows, inverse = np.unique(values, axis=0, return_inverse=True)
    monomials = np.array([[monomial(shape) for shape in shapes] for monomial in BASIS], dtype=np.int64)
    coefficients = np.zeros((len(rows), len(BASIS)))
    for index, row in enumerate(rows):
        for position, coefficient in _formula(row, monomials):
            coefficients[index, position] = coefficient
    return SymbolicSizes(inverse.reshape(-1).astype(np.int64), coefficients)


def _formula(row: npt.NDArray[np.int64], features: npt.NDArray[np.int64]) -> list[tuple[int, float]]:
    if not row.any():
        return []
    exact = (row[None, :] * features[:, :1] == row[0] * features).all(axis=1)
    if exact.any():
        position = int(np.argmax(exact))
        return [(position, row[0] / features[position, 0])]
    for first, second in itertools.combinations(range(len(BASIS)), 2):
        pair = features[[first, second]].astype(np.float64).T
        solution, *_ = np.linalg.lstsq(pair, row.astype(np.float64), rcond=None)
        rounded = np.rint(solution)
        if (pair @ rounded == row).all() and rounded.all():
            return [(first, float(rounded[0])), (second, float(rounded[1]))]
    raise UnfitError(f"sizes {row.tolist()} follow no formula of batch, length and rank")
