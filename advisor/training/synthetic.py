"""Batches of a given shape without a data set: for timing and profiling steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from advisor.core.model import ModelSpec
from advisor.training.tasks import get_task


def synthetic_batch(
    spec: ModelSpec, rows: int, seq_length: int, *, padded: bool, separate_documents: bool = False, seed: int = 0
) -> dict[str, torch.Tensor]:
    """One micro-batch of random tokens, as the task's collator would make it.

    Args:
        spec: Decides task, vocabulary, labels and whether there are ``token_type_ids``.
        rows: Micro-batch size.
        seq_length: Padded length in tokens.
        padded: Whether the last row is half padding (with a single row: its last token).
        separate_documents: Whether every row holds two documents that do not see each other.
        seed: Of the tokens and labels.

    Returns:
        The tensors of ``Task.batch_shapes``, and ``position_ids`` of separate documents.
    """
    task = get_task(spec.task)
    generator = torch.Generator().manual_seed(seed)
    pad = int(spec.config.get("pad_token_id") or 0)
    shapes = task.batch_shapes(spec, rows, seq_length, padded=padded)
    tokens = torch.randint(0, spec.vocab_size - 1, shapes["input_ids"], generator=generator)
    tokens += tokens >= pad  # every token but the padding token
    mask = torch.ones_like(tokens)
    if padded and seq_length > 1:
        mask[-1, (seq_length // 2 if len(mask) > 1 else seq_length - 1) :] = 0
        tokens = tokens.masked_fill(mask == 0, pad)
    values = {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(tokens),
        "completion_mask": mask * (torch.arange(seq_length) >= seq_length // 4),
        "labels": task.random_labels(spec, tokens, mask, generator) if "labels" in shapes else None,
    }
    batch = {name: found for name in shapes if (found := values[name]) is not None}
    if separate_documents:
        halves = torch.arange(seq_length) % max(1, -(-seq_length // 2))
        batch["position_ids"] = halves.expand(rows, -1).clone()
    return batch


class RepeatedBatch(Dataset[int]):
    """Stands for ``rows`` rows whose every batch is a fresh copy of one template; pair it with ``collate``.

    Args:
        template: Tensors of one micro-batch.
        rows: Length of the data set.
        batch_rows: Of them that the template holds: a pair of answers is one, but makes two rows of a batch.
        first_lengths: The first batches are cut to these lengths, as batches of real text differ in length.
    """

    def __init__(
        self, template: dict[str, torch.Tensor], rows: int, batch_rows: int, first_lengths: Sequence[int] = ()
    ) -> None:
        self._template = template
        self._rows, self._batch_rows = rows, batch_rows
        self._first_lengths = list(reversed(first_lengths))

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        """A new batch of as many rows as were asked for."""
        length = self._first_lengths.pop() if self._first_lengths else None
        cut = {name: v[: len(v) * len(rows) // self._batch_rows] for name, v in self._template.items()}
        return {name: (v[:, :length] if v.dim() > 1 else v).clone() for name, v in cut.items()}
