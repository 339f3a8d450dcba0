"""From allocation events to peaks: live bytes over the step, at the model's depth.

A deep stack repeats its layers, so two shallow depths determine the rest: positions before the repeated block are
aligned from the start of a phase, positions after it from its end, and live bytes at either grow linearly with depth.
The peak of a phase is the largest of all aligned positions; between the two alignments live bytes move linearly from
layer to layer, so no inner position can exceed both. Exact when each traced depth has at least (unfrozen layers + 2)
layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.tracing.symbolic_trace import KINDS, PHASES, EventLog

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """The largest moment of one phase.

    Attributes:
        live_bytes: All live storages, each rounded as the allocator rounds it.
        by_kind: The same by ``KINDS``, in order; adds up to ``live_bytes``.
    """

    live_bytes: int
    by_kind: tuple[int, ...]


@dataclass(frozen=True)
class _Curve:
    """Live bytes after each event of one phase, by kind: (events, kinds), and the signed sizes for alignment."""

    by_kind: Ints
    signed: Ints

    @property
    def live(self) -> Ints:
        return self.by_kind.sum(axis=1)


def phase_peaks(log: EventLog, *, round_bytes: int) -> dict[str, Peak]:
    """Peak of every phase of a fully traced step.

    Args:
        log: Events at full depth.
        round_bytes: Granularity of the allocator (``MemoryTraits``).
    """
    peaks = {}
    for name, curve in _curves(log, round_bytes).items():
        index = int(np.argmax(curve.live))
        peaks[name] = _peak(curve.by_kind[index])
    return peaks


def deep_phase_peaks(shallow: EventLog, deeper: EventLog, extra_layers: int, *, round_bytes: int) -> dict[str, Peak]:
    """Peak of every phase at ``extra_layers`` layers more than ``shallow``; ``deeper`` has one layer more than it."""
    first, second = _curves(shallow, round_bytes), _curves(deeper, round_bytes)
    peaks = {}
    for name in first:
        candidates = _aligned(first[name], second[name], extra_layers)
        peaks[name] = _peak(candidates[int(np.argmax(candidates.sum(axis=1)))])
    return peaks


def _peak(by_kind: Ints) -> Peak:
    return Peak(int(by_kind.sum()), tuple(int(n) for n in by_kind))


def _curves(log: EventLog, round_bytes: int) -> dict[str, _Curve]:
    rounded = -(-log.sizes_bytes // round_bytes) * round_bytes
    signed = log.signs * rounded[log.storages]
    steps = np.zeros((len(signed), len(KINDS)), dtype=np.int64)
    steps[np.arange(len(signed)), log.kinds[log.storages]] = signed
    live = steps.cumsum(axis=0)
    curves = {}
    for index, name in enumerate(PHASES):
        inside = log.phases == index
        if inside.any():
            curves[name] = _Curve(live[inside], signed[inside])
    return curves


def _aligned(first: _Curve, second: _Curve, extra_layers: int) -> Ints:
    """Live bytes by kind at all positions that both depths share, carried to the wanted depth."""
    short, long = len(first.signed), len(second.signed)
    prefix = _common(first.signed, second.signed[:short])
    suffix = _common(first.signed[::-1], second.signed[long - short :][::-1])
    front = first.by_kind[:prefix] + extra_layers * (second.by_kind[:prefix] - first.by_kind[:prefix])
    start = short - suffix
    tail = second.by_kind[long - suffix :]
    back = first.by_kind[start:] + extra_layers * (tail - first.by_kind[start:])
    top_first, top_second = int(np.argmax(first.live)), int(np.argmax(second.live))
    top = first.by_kind[top_first] + extra_layers * (second.by_kind[top_second] - first.by_kind[top_first])
    return np.concatenate([front, back, top[None, :]])


def _common(first: Ints, second: Ints) -> int:
    differ = np.flatnonzero(first != second)
    return int(differ[0]) if len(differ) else len(first)
