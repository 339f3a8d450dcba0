"""Batches of rows of similar length, so that little padding is computed, in an order that a resumed run finds again.

The Trainer's own ``LengthGroupedSampler`` measures every row in Python, draws from torch's global generator (an epoch
that is resumed half-way then goes on in another order), and feeds each pool of rows from the longest batch to the
shortest. Here lengths come as an array, the order depends on seed and epoch alone, and the batches of a pool are
shuffled: gradients of successive steps differ as those of randomly drawn rows do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers import Trainer

from advisor.training.loss import fused_evaluation

POOL_BATCHES = 50
"""At most so many effective batches are sorted together (``transformers.trainer_pt_utils.get_length_grouped_indices``
has the same)."""
LEAST_POOLS = 4
"""An epoch has at least so many pools (the same source)."""


def pool_rows(rows: int, effective_batch_size: int) -> int:
    """Rows that are sorted by length together: whole effective batches."""
    return effective_batch_size * max(1, min(rows // (effective_batch_size * LEAST_POOLS), POOL_BATCHES))


def grouped_order(
    lengths: NDArray[np.int64], micro_batch_size: int, effective_batch_size: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of all rows, such that every ``micro_batch_size`` of them in turn have similar lengths.

    Rows are shuffled, cut into pools, sorted within each and cut into micro-batches, which are shuffled within the
    pool. The micro-batch with the longest row comes first, so that a run that does not fit fails at once; an incomplete
    one comes last.

    Args:
        lengths: Tokens of each row, shape (rows,).
        micro_batch_size: Rows per forward pass.
        effective_batch_size: A multiple of it.
        draw: Where the order comes from.
    """
    order = draw.permutation(len(lengths))
    batches, rest = [], order[:0]
    size = pool_rows(len(lengths), effective_batch_size)
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        full = len(pool) - len(pool) % micro_batch_size
        rest = pool[full:]
        batches.append(draw.permutation(pool[:full].reshape(-1, micro_batch_size)))
    whole = np.concatenate(batches)
    if len(whole):
        longest = int(np.argmax(lengths[whole[:, 0]]))
        whole[[0, longest]] = whole[[longest, 0]]
    return np.concatenate([whole.reshape(-1), rest])


class SimilarLengths(Sampler[int]):
    """Training rows in ``grouped_order``, another one in every epoch.

    Args:
        lengths: Tokens of each row, shape (rows,).
        micro_batch_size: Rows per forward pass.
        effective_batch_size: Rows per optimizer step.
        seed: Of the order, together with the epoch.
    """

    def __init__(self, lengths: NDArray[np.int64], micro_batch_size: int, effective_batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._sizes = micro_batch_size, effective_batch_size
        self._seed = abs(seed)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader before every epoch, also before the one that a run resumes in."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self._seed, self._epoch])
        return iter(grouped_order(self._lengths, *self._sizes, draw).tolist())


class OrderingTrainer(Trainer):
    """The stock Trainer with an order of rows of its own; its training step is untouched. Where the loss is fused,
    evaluation is, too.

    Where the arguments ask for grouping by length, training rows are grouped, and held-out rows, whose order changes no
    metric, go from the longest to the shortest: hardly any padding, and the batch that needs the most memory first.
    Data sets without ``lengths`` (copies of one batch) are drawn from as the Trainer does without grouping.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(dataset)
        lengths = getattr(dataset, "lengths", None)
        if lengths is None:
            return RandomSampler(dataset)
        rows = self.args.train_batch_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return SimilarLengths(lengths, rows, rows * self.args.gradient_accumulation_steps, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | list[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        lengths = getattr(eval_dataset, "lengths", None)
        if lengths is None:
            return SequentialSampler(eval_dataset)
        order: list[int] = np.argsort(-np.asarray(lengths), kind="stable").tolist()
        return order

    def prediction_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        with fused_evaluation(model):
            return super().prediction_step(model, *args, **kwargs)


def evaluation_order(trainer: Trainer) -> list[int]:
    """Which held-out row each evaluated row is."""
    dataset: Any = trainer.eval_dataset
    sampler = trainer._get_eval_sampler(dataset)
    return [int(index) for index in sampler] if sampler is not None else list(range(len(dataset)))
