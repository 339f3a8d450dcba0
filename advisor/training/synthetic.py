"""Batches of a given shape without a data set: for timing and profiling steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from advisor.core.model import ModelSpec

PACKED_TASKS = frozenset({"causal-lm", "masked-lm"})
"""Tasks whose texts can be packed into full blocks; every other task pads row by row and always has a mask."""

MASKED_SHARE = 0.15
"""Share of tokens that masked language modelling predicts (Devlin et al. 2019)."""

IGNORED_LABEL = -100
"""Label that the loss skips (``torch.nn.functional.cross_entropy``)."""


def batch_shapes(spec: ModelSpec, rows: int, seq_length: int, *, padded: bool) -> dict[str, tuple[int, ...]]:
    """Which tensors the task's collator puts into a batch, and their shapes: all int64.

    Args:
        spec: Decides the task and whether there are ``token_type_ids``.
        rows: Micro-batch size.
        seq_length: Padded length in tokens; a sequence-to-sequence target is as long as its source.
        padded: Without padding, decoders and masked language models get packed blocks, which come without a mask.

    Returns:
        ``input_ids`` and ``labels``, and unless packed ``attention_mask`` and, for models with two segments,
        ``token_type_ids``. Sequence-to-sequence models make ``decoder_input_ids`` from the labels themselves.
    """
    full = (rows, seq_length)
    shapes: dict[str, tuple[int, ...]] = {"input_ids": full}
    if padded or spec.task not in PACKED_TASKS:
        shapes["attention_mask"] = full
        if int(spec.config.get("type_vocab_size") or 0) > 1:
            # Tokenizers of two-segment models (BERT) hand these over too.
            shapes["token_type_ids"] = full
    return shapes | {"labels": (rows,) if spec.task == "sequence-classification" else full}


def synthetic_batch(
    spec: ModelSpec, rows: int, seq_length: int, *, padded: bool, seed: int = 0
) -> dict[str, torch.Tensor]:
    """One micro-batch of random tokens, as the task's collator would make it.

    Args:
        spec: Decides vocabulary, labels and whether there are ``token_type_ids``.
        rows: Micro-batch size.
        seq_length: Padded length in tokens.
        padded: Whether the last row is half padding (with a single row: its last token).
        seed: Of the tokens and labels.

    Returns:
        The tensors of ``batch_shapes``.
    """
    generator = torch.Generator().manual_seed(seed)
    pad = int(spec.config.get("pad_token_id") or 0)
    tokens = torch.randint(0, spec.vocab_size - 1, (rows, seq_length), generator=generator)
    tokens += tokens >= pad  # every token but the padding token
    mask = torch.ones(rows, seq_length, dtype=torch.long)
    if padded and seq_length > 1:
        mask[-1, (seq_length // 2 if rows > 1 else seq_length - 1) :] = 0
        tokens = tokens.masked_fill(mask == 0, pad)
    values = {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(tokens),
        "labels": _labels(spec, tokens, mask, generator),
    }
    return {name: values[name] for name in batch_shapes(spec, rows, seq_length, padded=padded)}


def _labels(spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if spec.task == "sequence-classification":
        return torch.randint(0, spec.num_labels, (tokens.shape[0],), generator=generator)
    if spec.task == "token-classification":
        classes = torch.randint(0, spec.num_labels, tokens.shape, generator=generator)
        return classes.masked_fill(mask == 0, IGNORED_LABEL)
    labels = tokens.masked_fill(mask == 0, IGNORED_LABEL)
    if spec.task == "masked-lm":
        kept = torch.rand(tokens.shape, generator=generator) < MASKED_SHARE
        kept[:, 0] = True
        labels = labels.masked_fill(~kept, IGNORED_LABEL)
    return labels


class RepeatedBatch(Dataset[int]):
    """Stands for ``rows`` rows whose every batch is a fresh copy of one template; pair it with ``collate``.

    Args:
        template: Tensors of one micro-batch.
        rows: Length of the data set.
        first_lengths: The first batches are cut to these lengths, as batches of real text differ in length.
    """

    def __init__(self, template: dict[str, torch.Tensor], rows: int, first_lengths: Sequence[int] = ()) -> None:
        self._template = template
        self._rows = rows
        self._first_lengths = list(reversed(first_lengths))

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        """A new batch of as many rows as were asked for."""
        length = self._first_lengths.pop() if self._first_lengths else None
        cut = {name: values[: len(rows)] for name, values in self._template.items()}
        return {name: (v[:, :length] if v.dim() > 1 else v).clone() for name, v in cut.items()}
