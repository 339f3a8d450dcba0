"""The distribution of padded micro-batch lengths, against simulation."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.data import DataProfile
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.lengths import evaluation_lengths, micro_batch_lengths, padded_lengths, row_quantile
from advisor.training.data.collators import PaddingCollator


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


@settings(max_examples=60)
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


def counted(lengths: list[int], *, train_rows: int | None = None, eval_rows: int = 100) -> DataProfile:
    counts = [0] * (max(lengths) // 8 + 1)
    for length in lengths:
        counts[(length - 1) // 8] += 1
    ordered = sorted(lengths)
    quantiles = tuple(ordered[round(i * (len(ordered) - 1) / 100)] for i in range(101))
    rows = train_rows if train_rows is not None else len(lengths)
    return DataProfile(rows, eval_rows, quantiles, ordered[-1], ordered[-1], len(lengths), length_counts=tuple(counts))


@pytest.mark.parametrize(("rows", "accumulation"), [(4, 4), (16, 1), (32, 2)])
def test_real_sentences_batched_by_the_real_collator_and_samplers(rows: int, accumulation: int) -> None:
    import numpy as np

    from advisor.training.sampling import grouped_order

    chance = np.random.default_rng(11)
    lengths = np.clip(np.round(chance.lognormal(3.1, 0.6, 3000)), 4, 96).astype(int)
    data = counted(lengths.tolist())
    collate = PaddingCollator(0, 96)

    def mean_width(order: Sequence[int]) -> float:
        batches = [order[i : i + rows] for i in range(0, len(order), rows)]
        widths = [collate([{"input_ids": [1] * lengths[i]} for i in batch])["input_ids"].shape[1] for batch in batches]
        return sum(width * len(batch) for width, batch in zip(widths, batches, strict=True)) / len(order)

    random_widths = [mean_width(chance.permutation(len(lengths)).tolist()) for _ in range(3)]
    grouped_widths = [mean_width(grouped_order(lengths, rows, rows * accumulation, chance).tolist()) for _ in range(3)]
    plan = ExecutionPlan(rows, accumulation, 96, eval_batch_size=rows)
    grouped = dataclasses.replace(plan, group_by_length=True)
    assert micro_batch_lengths(data, plan).mean == pytest.approx(statistics.fmean(random_widths), rel=0.01)
    assert micro_batch_lengths(data, grouped).mean == pytest.approx(statistics.fmean(grouped_widths), rel=0.01)
    held_out = dataclasses.replace(data, eval_rows=len(lengths))
    by_length = np.argsort(-lengths).tolist()
    assert evaluation_lengths(held_out, grouped).mean == pytest.approx(mean_width(by_length), rel=0.01)
    assert evaluation_lengths(held_out, plan).mean == pytest.approx(statistics.fmean(random_widths), rel=0.01)


def test_one_batch_of_all_rows_is_as_long_as_the_longest() -> None:
    data = counted([5, 9, 17, 30])
    assert padded_lengths(data, 4, max_seq_length=64).lengths == (32,)
    assert padded_lengths(data, 8, max_seq_length=64).lengths == (32,)


def test_counts_are_used_before_quantiles() -> None:
    tail = counted([8] * 990 + [512] * 10, train_rows=100_000)
    exact = padded_lengths(tail, 10, max_seq_length=512)
    assert exact.lengths == (8, 512)
    assert exact.weights[0] == pytest.approx(0.99**10, abs=1e-3)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    rows=st.integers(1, 40),
    accumulation=st.integers(1, 4),
    limit=st.integers(8, 400),
)
def test_grouping_never_pads_more(lengths: list[int], rows: int, accumulation: int, limit: int) -> None:
    data = counted(lengths, train_rows=5000, eval_rows=700)
    plan = ExecutionPlan(rows, accumulation, limit, eval_batch_size=rows)
    grouped = dataclasses.replace(plan, group_by_length=True)
    for distribution in (micro_batch_lengths(data, grouped), evaluation_lengths(data, grouped)):
        assert sum(distribution.weights) == pytest.approx(1)
        assert list(distribution.lengths) == sorted(set(distribution.lengths))
        assert 1 <= distribution.lengths[0] <= distribution.lengths[-1] <= limit
    assert micro_batch_lengths(data, grouped).mean <= 1.01 * micro_batch_lengths(data, plan).mean
    assert evaluation_lengths(data, grouped).mean <= 1.01 * evaluation_lengths(data, plan).mean
