"""How many intra-op threads train fastest on a CPU: measured on encoder layers, forward and backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from advisor.hardware.host import Host
from advisor.hardware.load import LoadMeter
from advisor.hardware.timing import CFS_PERIOD_S, ClockError

WIDTH, HEADS, FEED_FORWARD = 384, 12, 1536
"""Of a layer of MiniLM-L6-H384."""
SHAPES = ((8, 32), (8, 128), (16, 128))
"""Batch and length of short sentences, of paragraphs, and of a larger batch of these."""
QUICK_SHAPES = SHAPES[:2]
CLEARLY = 0.03
"""More threads must be at least this much faster: fewer leave the rest of the machine alone, and repeats of one count
vary by as much."""
COMPARED = "measured"
"""How the reason begins where counts were compared."""
MIN_ROUNDS, MAX_ROUNDS = 3, 12
MAX_CALLS = 1000
"""In one sample, should the clock stand still."""


class ThreadChoice(NamedTuple):
    """Intra-op threads to train with, and why: what was compared, with figures."""

    threads: int
    reason: str


def candidates(host: Host) -> tuple[int, ...]:
    """Thread counts worth trying: powers of two, the physical cores and all usable cores."""
    powers = [2**exponent for exponent in range(host.cores.bit_length())]
    physical = host.physical_cores or host.cores
    return tuple(sorted({count for count in (*powers, physical, host.cores) if 1 <= count <= host.cores}))


def choose_threads(host: Host, *, budget_s: float, quick: bool = False, load: str = "") -> ThreadChoice:
    """Measure each candidate in turn, round by round, so that slow drifts meet them all alike.

    A machine that is busy with other work would make a single thread win, which an idle one would regret for as long as
    the profile is kept: then the physical cores are chosen unmeasured.

    Args:
        host: Its usable cores bound the candidates.
        budget_s: Wall clock; ``MIN_ROUNDS`` are made in any case.
        quick: Two shapes instead of three.
        load: Of the busy machine, in words; empty when it is idle enough to measure.
    """
    counts = candidates(host)
    if len(counts) == 1:
        return ThreadChoice(counts[0], f"the only choice: {host.reasons['cores']}")
    if load:
        return _unmeasured(host, load)
    import torch

    steps = [encoder_step(*shape) for shape in (QUICK_SHAPES if quick else SHAPES)]
    before = torch.get_num_threads()
    least_s = 2 * CFS_PERIOD_S if host.throttled else 0.0
    try:
        with LoadMeter(cores=host.cores) as others:
            times = compare(counts, steps, torch.set_num_threads, budget_s=budget_s, least_s=least_s)
    finally:
        torch.set_num_threads(before)
    return _unmeasured(host, busy) if (busy := others.load(max(counts))) else decide(times)


def _unmeasured(host: Host, load: str) -> ThreadChoice:
    physical = host.physical_cores or host.cores
    return ThreadChoice(physical, f"physical cores; not measured, because the machine was busy ({load})")


def compare(
    counts: Sequence[int],
    steps: Sequence[Callable[[], object]],
    set_threads: Callable[[int], object],
    *,
    budget_s: float,
    least_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, list[list[float]]]:
    """Time every step with every thread count, in rounds that alternate in direction, until the budget is used up.

    Args:
        counts: Thread counts.
        steps: Functions to call.
        set_threads: Called with a count before its steps.
        budget_s: Wall clock; ``MIN_ROUNDS`` are made in any case.
        least_s: Shortest sample: several refill periods where a quota stops the process.
        clock: Monotonic seconds; samples during which it stood still or went backwards are dropped.

    Returns:
        By thread count: for each step its samples in seconds.
    """
    times: dict[int, list[list[float]]] = {count: [[] for _ in steps] for count in counts}
    start = clock()
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and clock() - start > budget_s:
            break
        for count in counts if number % 2 == 0 else reversed(counts):
            set_threads(count)
            for step, samples in zip(steps, times[count], strict=True):
                if number == 0:
                    step()  # threads start and kernels are chosen
                samples += _sample(step, least_s, clock)
    if not all(samples for steps_of in times.values() for samples in steps_of):
        raise ClockError("the clock stood still or went backwards in every round")
    return times


def _sample(step: Callable[[], object], least_s: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of one step, averaged over ``least_s``; nothing when the clock was of no use."""
    begin = clock()
    calls, elapsed = 0, 0.0
    while calls == 0 or (elapsed < least_s and calls < MAX_CALLS):
        step()
        calls += 1
        elapsed = clock() - begin
    return [elapsed / calls] if elapsed > 0 else []


def decide(times: dict[int, list[list[float]]]) -> ThreadChoice:
    """The fewest threads that are within ``CLEARLY`` of the fastest.

    Compared is the geometric mean over steps of the shortest samples: other work on the machine can only prolong one,
    and it would hit more threads harder.
    """
    means = {count: statistics.geometric_mean([min(samples) for samples in steps]) for count, steps in times.items()}
    best = min(means.values())
    chosen = min(count for count, mean in means.items() if mean <= best * (1 + CLEARLY))
    figures = ", ".join(f"{count}: {mean * 1e3:.3g} ms" for count, mean in means.items())
    rounds = min(len(samples) for steps in times.values() for samples in steps)
    return ThreadChoice(
        chosen,
        f"{COMPARED} on forward and backward of an encoder layer of width {WIDTH} "
        f"(threads: geometric mean over {len(next(iter(times.values())))} shapes of the best of {rounds} rounds; "
        f"{figures})",
    )


def encoder_step(batch: int, length: int) -> Callable[[], object]:
    """Forward and backward of one encoder layer at MiniLM's width, float32, as a function to call."""
    import torch

    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, FEED_FORWARD, activation="gelu", batch_first=True)
    x = torch.randn(batch, length, WIDTH, requires_grad=True)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    return step
