"""From a DataSpec to what the stock Trainer takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data.collators import BlockCollator
from advisor.training.data.encoding import BlockDataset, EncodedDataset
from advisor.training.data.packing import Blocks, pack, token_stream
from advisor.training.data.profiling import require_max_seq_length
from advisor.training.data.rows import Row, Rows, row_key
from advisor.training.data.rules import DataRules, data_rules

_EVAL_MASK_CHUNK = 64


@dataclass(frozen=True)
class PreparedData:
    """Tokenised data for the stock Trainer.

    Attributes:
        train_dataset, eval_dataset: Map-style data sets with ``lengths``.
        collator: Makes batches of both.
        label_names: By class index; empty for language modelling.
        max_seq_length: No row is longer.
        padded: Whether batches hold padding and a mask; packed blocks do not.
        pad_token_id: What padding is filled with.
        eval_items: A hash of each held-out item's content, equal wherever the same item is held out: of a row's text,
            or of a block's tokens.
    """

    train_dataset: EncodedDataset | BlockDataset
    eval_dataset: EncodedDataset | BlockDataset
    collator: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]
    label_names: tuple[str, ...]
    max_seq_length: int
    padded: bool
    pad_token_id: int
    eval_items: tuple[str, ...] = ()

    def longest_batch(self, micro_batch_size: int) -> dict[str, torch.Tensor]:
        """The most expensive training batch there can be: the longest rows together (repeated when too few)."""
        order = np.argsort(-self.train_dataset.lengths, kind="stable")
        chosen = [self.train_dataset[int(order[i % len(order)])] for i in range(micro_batch_size)]
        with torch.random.fork_rng(devices=[]):  # dynamic masking must not disturb the run
            return self.collator(chosen)


def prepare_data(
    spec: DataSpec, model: ModelSpec, tokenizer: Any, *, max_seq_length: int, held_out_only: bool = False
) -> PreparedData:
    """Read, split and tokenise a data set for a model.

    Args:
        spec: As ``resolve_data`` made it.
        model: Decides the task.
        tokenizer: The model's own.
        max_seq_length: Rows are cut here; packed text comes in blocks of this length.
        held_out_only: Tokenise no training rows: the held-out ones stand in their place.

    Raises:
        DataError: the data cannot be used, or the length is beyond the model's positions.
    """
    require_max_seq_length(max_seq_length, model)
    rules = data_rules(model.task)
    rows = rules.read_rows(spec)
    if rows.kind == "text":
        return _packed(spec, rows, rules, tokenizer, max_seq_length, held_out_only)
    if rows.label_names and rows.num_labels != model.num_labels:
        raise DataError(
            f"the model must have one output a class, but it has {model.num_labels}"
            f" and {spec.source} has {rows.num_labels} classes",
            fix="inspect the model again with the number of classes of this data set",
        )
    pad_token_id = padding_id(tokenizer)

    token_types = uses_token_types(model)

    def dataset(part: Sequence[Row]) -> EncodedDataset:
        encoded = rules.encode(part, tokenizer, max_seq_length=max_seq_length, token_types=token_types)
        return EncodedDataset(encoded, model.num_labels)

    held_out = dataset(rows.eval)
    return PreparedData(
        train_dataset=held_out if held_out_only else dataset(rows.train),
        eval_dataset=held_out,
        collator=rules.collator(pad_token_id, max_seq_length),
        label_names=rows.label_names,
        max_seq_length=max_seq_length,
        padded=True,
        pad_token_id=pad_token_id,
        eval_items=tuple(row_key(row).hex() for row in rows.eval),
    )


def uses_token_types(model: ModelSpec) -> bool:
    """Whether the model tells the two texts of a pair apart: more than one kind of ``token_type_ids``."""
    return int(model.config.get("type_vocab_size") or 0) > 1


def padding_id(tokenizer: Any) -> int:
    """Id that fills padding: the pad token, else the end of sequence, else 0 (masked out in any case)."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def _packed(
    spec: DataSpec, rows: Rows, rules: DataRules, tokenizer: Any, max_seq_length: int, held_out_only: bool
) -> PreparedData:
    edges = rules.block_edges(tokenizer)

    def blocks(part: Sequence[Row], limit: int | None, name: str) -> Blocks:
        stream = token_stream(part, tokenizer, rules.document_edges(tokenizer), continuous=spec.kind == "text")
        return pack(stream, edges, max_seq_length=max_seq_length, seed=spec.split_seed, limit=limit, name=name)

    evaluation = blocks(rows.eval, spec.max_eval_rows, f"the held-out part of {spec.eval_source or spec.source}")
    train = evaluation
    if not held_out_only:
        train = blocks(rows.train, spec.max_train_rows, f"the training part of {spec.source}")
    items = tuple(hashlib.blake2b(block.tobytes(), digest_size=16).hexdigest() for block in evaluation.ids)
    masking, held_out, labels = rules.masking(tokenizer), evaluation.ids, None
    if masking is not None:
        held_out, labels = _mask_once(held_out, masking, spec.split_seed)
    apart = spec.separate_documents
    return PreparedData(
        train_dataset=BlockDataset(train.ids, positions=train.positions if apart else None),
        eval_dataset=BlockDataset(held_out, labels, evaluation.positions if apart else None),
        collator=BlockCollator(masking),
        label_names=(),
        max_seq_length=max_seq_length,
        padded=False,
        pad_token_id=padding_id(tokenizer),
        eval_items=items,
    )


def _mask_once(blocks: NDArray[np.int32], masking: Any, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Mask held-out blocks with their own seed, so that every evaluation asks the same questions."""
    inputs, labels = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(blocks), _EVAL_MASK_CHUNK):
            batch = masking([{"input_ids": block.tolist()} for block in blocks[start : start + _EVAL_MASK_CHUNK]])
            inputs.append(batch["input_ids"].numpy().astype(np.int32))
            labels.append(batch["labels"].numpy().astype(np.int32))
    return np.concatenate(inputs), np.concatenate(labels)
