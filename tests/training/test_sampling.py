"""Rows of similar length together, in an order that is random, the same for the same seed, and survives a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.measurement.isolation import isolated
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer
from advisor.training.checkpoints import newest_complete, step_of
from advisor.training.data.encoding import EncodedDataset, EncodedRow
from advisor.training.run_folder import RunFolder
from advisor.training.sampling import SimilarLengths, grouped_order
from tests.training import training_runs

LENGTHS = np.random.default_rng(0).integers(4, 120, 1000)


def order(lengths: Any = LENGTHS, micro: int = 8, effective: int = 16, seed: int = 0) -> np.ndarray:
    return grouped_order(np.asarray(lengths, dtype=np.int64), micro, effective, np.random.default_rng(seed))


def padded(lengths: np.ndarray, micro: int) -> int:
    return sum(int(lengths[i : i + micro].max()) * len(lengths[i : i + micro]) for i in range(0, len(lengths), micro))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=90), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31)
)
@settings(max_examples=60)
def test_every_row_once_and_the_longest_in_front(lengths: list[int], micro: int, steps: int, seed: int) -> None:
    found = order(lengths, micro, micro * steps, seed)
    assert sorted(found.tolist()) == list(range(len(lengths)))
    whole = len(lengths) - len(lengths) % micro
    if whole == len(lengths):
        assert lengths[found[0]] == max(lengths)


def test_little_is_padded_and_batches_come_in_no_order_of_length() -> None:
    found = LENGTHS[order()]
    drawn = LENGTHS[np.random.default_rng(1).permutation(len(LENGTHS))]
    assert padded(found, 8) < 1.1 * LENGTHS.sum() < padded(drawn, 8) / 1.4
    longest = found.reshape(-1, 8).max(axis=1)[1:]
    steps = np.sign(np.diff(longest))
    assert 0.3 < (steps > 0).mean() < 0.7


def test_an_effective_batch_mixes_lengths() -> None:
    """Micro-batches are alike inside, but those of one optimizer step are not chosen for each other."""
    pairs = LENGTHS[order()][:992].reshape(-1, 2, 8).mean(axis=2)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).mean() > 10


def test_another_epoch_is_another_order_and_the_same_epoch_the_same() -> None:
    sampler = SimilarLengths(LENGTHS, 8, 16, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again
    assert first != list(sampler)
    assert len(sampler) == len(first) == 1000


def trainer(group: bool, folder: Path, dataset: Any = None) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    rows = [EncodedRow([1] * int(length), label=0) for length in LENGTHS[:96]]
    model = BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    execution = ExecutionPlan(4, 2, group_by_length=group, eval_batch_size=8)
    strategy = StrategyConfig("full", 1e-3)
    return assemble_trainer(
        model,
        training_arguments(strategy, execution, folder, seed=5),
        "sequence-classification",
        train_dataset=dataset if dataset is not None else EncodedDataset(rows),
        eval_dataset=EncodedDataset(rows),
        collator=lambda features: {"lengths": [len(feature["input_ids"]) for feature in features]},
        strategy=strategy,
        execution=execution,
    )


def test_the_trainer_draws_from_the_samplers(tmp_path: Path) -> None:
    batches = [batch["lengths"] for batch in trainer(True, tmp_path).get_train_dataloader()]
    assert [len(batch) for batch in batches] == [4] * 24
    assert sum(max(batch) * 4 for batch in batches) < 1.25 * LENGTHS[:96].sum()
    plain = [batch["lengths"] for batch in trainer(False, tmp_path).get_train_dataloader()]
    assert sum(max(batch) * 4 for batch in plain) > 1.4 * LENGTHS[:96].sum()


def test_held_out_rows_go_from_the_longest_to_the_shortest(tmp_path: Path) -> None:
    orders = [
        [length for batch in trainer(group, tmp_path).get_eval_dataloader() for length in batch["lengths"]]
        for group in (True, False)
    ]
    assert orders == [sorted(LENGTHS[:96].tolist(), reverse=True), LENGTHS[:96].tolist()]


def test_rows_without_lengths_are_drawn_all_the_same(tmp_path: Path) -> None:
    class Copies(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            return index

    assert sorted(trainer(True, tmp_path, Copies())._get_train_sampler()) == list(range(8))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    strategy = training_runs.lora_strategy(num_train_epochs=2.0)
    return training_runs.tiny_plan(
        tmp_path_factory.mktemp("tiny"), strategy=strategy, gradient_accumulation_steps=2, group_by_length=True
    )


def test_a_run_resumed_in_its_second_epoch_ends_like_one_that_was_not_interrupted(plan: Plan, tmp_path: Path) -> None:
    whole = isolated(training_runs.train_here, plan, tmp_path / "whole", 60.0).unwrap()
    output = tmp_path / "stopped"
    measured = isolated(training_runs.train_with_interrupts, plan, output, at_step=27).unwrap()
    assert measured.outcome == "interrupted"
    checkpoint = newest_complete(RunFolder(output).checkpoints)
    assert checkpoint is not None
    assert 20 < step_of(checkpoint) < 40
    resumed = isolated(training_runs.train_here, plan, output, 60.0).unwrap()
    assert resumed.metrics == whole.metrics
    assert resumed.train_losses == whole.train_losses
    weights = "model/adapter_model.safetensors"
    assert (output / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
