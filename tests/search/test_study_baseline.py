"""The study finds better configurations than random search does in the same (simulated) time."""

from __future__ import annotations

import os
import random
import statistics
from pathlib import Path

import pytest

from tests.search import study_fakes as fakes
from tests.search.study_fakes import MIB, FakeRunner, tune

SEEDS = range(10)
NOISE_SD = 0.011
FULL_ROWS = 8100


def random_search(surface: fakes.Surface, seed: int, time_s: float) -> float:
    """True loss of the best of random configurations that fit, each trained on all rows, judged with the same noise."""
    draw = random.Random(seed)
    space = fakes.declared()
    spent_s, best = 0.0, (float("inf"), float("inf"))
    while True:
        method = draw.choice(space.methods)
        values = {
            axis.field: axis.decode(
                draw.choice(axis.choices) if axis.choices else draw.randint(int(axis.low), int(axis.high))
            )
            for axis in method.axes
        }
        config = method.config(values, 2 ** draw.uniform(-2, 2))
        if fakes.memory_bytes(config) > 600 * MIB:
            continue
        spent_s += fakes.run_s(config, FULL_ROWS)
        if spent_s > time_s:
            return best[1]
        true = surface.nll(config, FULL_ROWS)
        best = min(best, (true + draw.gauss(0, NOISE_SD), true))


@pytest.mark.parametrize("time_s", [400.0, 800.0])
def test_the_median_study_beats_random_search_at_equal_time(
    tmp_path: Path, time_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing is killed here, and the disk is slow
    ours, theirs = [], []
    for seed in SEEDS:
        surface = fakes.random_surface(seed)
        runner = FakeRunner(noise_sd=NOISE_SD, seed=seed, surface=surface)
        result = tune(tmp_path / str(seed), runner, time_budget_s=time_s, seed=seed)
        assert runner.seconds <= time_s
        ours.append(surface.nll(result.best.strategy, FULL_ROWS))
        theirs.append(statistics.mean(random_search(surface, 100 * seed + repeat, time_s) for repeat in range(10)))
    assert statistics.median(ours) < statistics.median(theirs)
    assert sum(mine < other for mine, other in zip(ours, theirs, strict=True)) >= 8
