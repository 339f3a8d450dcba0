"""The distribution of padded micro-batch lengths, against simulation."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.data import DataProfile
from advisor.costmodel.time.lengths import padded_lengths, row_quantile


def profile(quantiles: list[int], *, max_seq_length: int = 512) -> DataProfile:
    return DataProfile(1000, 100, tuple(quantiles), quantiles[-1], max_seq_length, 1000)


SENTENCES = profile([4, 8, 12, 15, 19, 23, 26, 30, 35, 42, 70])


def simulated(data: DataProfile, rows: int, limit: int, draws: int = 4000) -> list[int]:
    chance = random.Random(5)
    longest = [max(row_quantile(data, chance.random()) for _ in range(rows)) for _ in range(draws)]
    return [min(math.ceil(length / 8) * 8, limit) for length in longest]


@pytest.mark.parametrize("rows", [1, 2, 8, 32])
def test_it_agrees_with_drawing_batches(rows: int) -> None:
    drawn = simulated(SENTENCES, rows, 512)
    lengths = padded_lengths(SENTENCES, rows, max_seq_length=512)
    assert lengths.mean == pytest.approx(statistics.fmean(drawn), rel=0.03)
    assert abs(lengths.quantile(0.5) - statistics.median(drawn)) <= 8


def test_larger_batches_are_longer() -> None:
    means = [padded_lengths(SENTENCES, rows, max_seq_length=512).mean for rows in (1, 2, 4, 8, 16, 64)]
    assert means == sorted(means)
    assert means[-1] > 1.5 * means[0]


def test_the_cut_is_never_exceeded() -> None:
    lengths = padded_lengths(SENTENCES, 64, max_seq_length=30)
    assert max(lengths.lengths) == 30


def test_blocks_have_one_length() -> None:
    blocks = profile([128, 128, 128], max_seq_length=128)
    lengths = padded_lengths(blocks, 4, max_seq_length=128, padded=False)
    assert (lengths.lengths, lengths.weights) == ((128,), (1.0,))


@settings(max_examples=60, deadline=None)
@given(
    quantiles=st.lists(st.integers(1, 4000), min_size=1, max_size=30),
    rows=st.integers(1, 256),
    limit=st.integers(1, 4096),
)
def test_it_is_always_a_distribution(quantiles: list[int], rows: int, limit: int) -> None:
    lengths = padded_lengths(profile(sorted(quantiles)), rows, max_seq_length=limit)
    assert sum(lengths.weights) == pytest.approx(1)
    assert list(lengths.lengths) == sorted(set(lengths.lengths))
    assert all(1 <= length <= limit for length in lengths.lengths)
    assert lengths.lengths[0] <= lengths.mean <= lengths.lengths[-1] + 1e-9
