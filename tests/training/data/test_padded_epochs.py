"""Predicted padding against whole epochs of real sentences, through the real samplers and the real collator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.lengths import evaluation_lengths, micro_batch_lengths
from advisor.training.data import PreparedData, prepare_data, profile_data, resolve_data
from advisor.training.sampling import grouped_order

Spec = Callable[..., ModelSpec]
BATCH = 16


def padded_tokens_per_row(data: PreparedData, dataset: Any, order: Iterable[int]) -> float:
    indices = list(order)
    total = 0
    for start in range(0, len(indices), BATCH):
        total += data.collator([dataset[i] for i in indices[start : start + BATCH]])["input_ids"].numel()
    return total / len(indices)


@pytest.mark.parametrize("cap", [640, None])
def test_an_epoch_of_movie_sentences(
    minilm_dir: Path, movie_sentences: Path, model_spec: Spec, cap: int | None
) -> None:
    from transformers import AutoTokenizer

    spec, tokenizer = model_spec(max_positions=512), AutoTokenizer.from_pretrained(minilm_dir)
    source = resolve_data(str(movie_sentences), task=spec.task, max_train_rows=cap, max_eval_rows=cap)
    profile = profile_data(source, spec, tokenizer)
    data = prepare_data(source, spec, tokenizer, max_seq_length=profile.max_seq_length)
    plan = ExecutionPlan(BATCH, 2, profile.max_seq_length, eval_batch_size=BATCH)
    grouped = dataclasses.replace(plan, group_by_length=True)
    chance, lengths = np.random.default_rng(5), data.train_dataset.lengths

    random_order = chance.permutation(len(lengths)).tolist()
    similar = grouped_order(lengths, BATCH, 2 * BATCH, chance).tolist()
    held_out = np.argsort(-data.eval_dataset.lengths, kind="stable").tolist()
    measured = [
        padded_tokens_per_row(data, data.train_dataset, random_order),
        padded_tokens_per_row(data, data.train_dataset, similar),
        padded_tokens_per_row(data, data.eval_dataset, held_out),
    ]
    predicted = [
        micro_batch_lengths(profile, plan).mean,
        micro_batch_lengths(profile, grouped).mean,
        evaluation_lengths(profile, grouped).mean,
    ]
    assert predicted[:2] == pytest.approx(measured[:2], rel=0.02)
    assert predicted[2] == pytest.approx(measured[2], rel=0.06), "the held-out rows' lengths are taken from training"
    assert profile.mean_tokens(plan.max_seq_length) == pytest.approx(lengths.mean(), rel=0.02)
