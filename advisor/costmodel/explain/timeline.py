"""Live bytes over a step, thinned to what a picture can show without losing a peak."""

from __future__ import annotations

import itertools

import numpy as np

from advisor.costmodel.explain.records import Timeline
from advisor.costmodel.explain.roles import KIND_NAMES
from advisor.costmodel.trace.attribution import AttributedRecording
from advisor.costmodel.trace.family import KINDS

MOMENTS = 600
"""Moments of a thinned timeline: about one for two pixels of its picture."""
_BEFORE_STEP = ("weights", "states")


def thinned_timeline(recording: AttributedRecording, rounded: list[int], peak: int, extra_batch_bytes: int) -> Timeline:
    """Of each stretch of events the moment with most live bytes, and the peak itself.

    Stretches end at phase borders. What was there before the step (weights, optimizer states) is one moment.

    Args:
        recording: Events with origins.
        rounded: Bytes of each storage as the allocator rounds them.
        peak: Index of the peak's event.
        extra_batch_bytes: Held throughout the step besides what was traced.
    """
    live = _live_by_kind(recording, rounded)
    live[:, KINDS.index("activation")] += extra_batch_bytes
    totals = live.sum(axis=1)
    bounds = _stretches([phase for *_, phase in recording.events])
    moments: list[int] = []
    phases: list[tuple[str, int]] = []
    for name, start, stop in bounds:
        best = start + int(np.argmax(totals[start:stop]))
        best = peak if start <= peak < stop else best
        if not phases or phases[-1][0] != name:
            phases.append((name, len(moments)))
        moments.append(best)
    return Timeline(
        kinds=tuple(KIND_NAMES[kind] for kind in KINDS),
        live_bytes=tuple(tuple(int(n) for n in live[moment]) for moment in moments),
        events=tuple(moments),
        phases=tuple(phases),
        places=tuple(_place(recording, moment) for moment in moments),
        peak_index=moments.index(peak),
    )


def _live_by_kind(recording: AttributedRecording, rounded: list[int]) -> np.ndarray:
    signs = np.array([sign for sign, _, _ in recording.events], dtype=np.int64)
    numbers = np.array([number for _, number, _ in recording.events], dtype=np.int64)
    kinds = np.array([KINDS.index(storage.kind) for storage in recording.storages], dtype=np.int64)
    steps = np.zeros((len(signs), len(KINDS)), dtype=np.int64)
    steps[np.arange(len(signs)), kinds[numbers]] = signs * np.array(rounded, dtype=np.int64)[numbers]
    return steps.cumsum(axis=0)


def _stretches(phases: list[str]) -> list[tuple[str, int, int]]:
    """``(phase, first event, end)`` of every stretch."""
    borders = [0, *(i for i in range(1, len(phases)) if phases[i] != phases[i - 1]), len(phases)]
    width = max(1, len(phases) // MOMENTS)
    found = []
    for start, stop in itertools.pairwise(borders):
        if phases[start] in _BEFORE_STEP:
            found.append((phases[start], stop - 1, stop))
            continue
        found.extend((phases[start], first, min(first + width, stop)) for first in range(start, stop, width))
    return found


def _place(recording: AttributedRecording, index: int) -> str:
    """What the event was: ``"+ model.layers.3.mlp mm"``."""
    sign, number, _ = recording.events[index]
    origin = recording.origins[number]
    where = (
        " ".join(part for part in (origin.module, origin.operator) if part)
        or KIND_NAMES[recording.storages[number].kind]
    )
    return f"{'allocates' if sign > 0 else 'frees'} {where}"
