"""Features of a data set's rows: read from disk as far as they were computed before, computed for the others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.data import DataSpec
from advisor.core.errors import InputError, ModelError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.tasks import TASKS, task_traits
from advisor.hardware.backends import HOST
from advisor.training.linear_probe.feature_store import (
    Features,
    KeptFeatures,
    content_fingerprint,
    feature_key,
    keep_features,
    load_features,
)

if TYPE_CHECKING:
    from torch import nn

    from advisor.strategies.base import Pooling

BATCH_ROWS = 32
CHUNK_ROWS = 512
"""Rows whose lengths are sorted before they are made into batches; a time limit is looked at in between."""
EVALUATION_SHARE = 0.3
"""Of a time limit that held-out rows may take, which come first."""

OnShare = Callable[[float], None]


@dataclass(frozen=True)
class FrozenFeatures:
    """Features and labels of the rows that were looked at: the first of each split, in the data set's seeded order.

    Attributes:
        train, evaluation: float32, shape (rows, width).
        train_labels, eval_labels: Class indices, int64, shape (rows,).
        label_names: By class index.
        texts: Of the training rows, cut to a readable length; shape (rows,).
        lengths: Tokens of the training rows, cut at ``max_seq_length``.
        all_train_rows, all_eval_rows: Rows of the data set.
        duplicate_rows: Further copies of a text among all training rows.
        pooling: As asked for.
        seconds: Wall clock.
        kept_rows: How many rows' features came from the disk.
    """

    train: Features
    evaluation: Features
    train_labels: NDArray[np.int64]
    eval_labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    texts: tuple[str, ...]
    lengths: NDArray[np.int64]
    all_train_rows: int
    all_eval_rows: int
    max_seq_length: int
    pooling: Pooling
    duplicate_rows: int = 0
    seconds: float = 0.0
    kept_rows: int = 0
    model_fingerprint: str = ""
    data_fingerprint: str = field(default="")

    def first(self, train_rows: int) -> FrozenFeatures:
        """Only so many training rows; the held-out ones stay."""
        return dataclasses.replace(
            self,
            train=self.train[:train_rows],
            train_labels=self.train_labels[:train_rows],
            texts=self.texts[:train_rows],
            lengths=self.lengths[:train_rows],
        )


def check_probed_task(task: str) -> None:
    """Refuse tasks without one class a row.

    Raises:
        InputError: naming those that a probe works for.
    """
    if task_traits(task).one_class_per_row:
        return
    known = [name for name in TASKS.names() if task_traits(name).one_class_per_row]
    raise InputError(
        f"a linear classifier on frozen features needs a task with one class a row, but {task} is"
        f" {task_traits(task).title}",
        fix=f"it works for {' and '.join(known)}, of single texts and of pairs",
    )


def probe_features(
    model: ModelSpec,
    data: DataSpec,
    *,
    max_seq_length: int,
    pooling: Pooling = "mean",
    limit_s: float | None = None,
    device_type: str = HOST,
    num_threads: int | None = None,
    on_share: OnShare | None = None,
) -> FrozenFeatures:
    """Pass the rows of a data set through a model once, as far as that was not done before.

    Args:
        model: With weights, for a task with one class a row.
        data: As ``resolve_data`` made it.
        max_seq_length: Where rows are cut.
        pooling: How features are made of tokens.
        limit_s: Stop after about this long, with as many rows as were done; held-out rows come first and take at most
            ``EVALUATION_SHARE`` of it.
        device_type: Name of the back end to compute on.
        num_threads: Intra-op threads on a CPU; ``None`` leaves torch's choice.
        on_share: Told how far it is, from 0 to 1.

    Raises:
        InputError: the task has no classes, or anything about model and data that cannot be used.
        ModelError: the model has no weights.
    """
    check_probed_task(model.task)
    if not model.has_weights:
        raise ModelError(f"features need weights, but {model.source} has none", fix="name the model's folder or hub id")
    from advisor.training.data import load_rows, prepare_data
    from advisor.training.models import load_tokenizer

    began_s = time.perf_counter()
    rows = load_rows(data, model.task)
    prepared = prepare_data(data, model, load_tokenizer(model), max_seq_length=max_seq_length)
    train, evaluation = prepared.train_dataset, prepared.eval_dataset
    fingerprint = content_fingerprint(model)
    key = feature_key(model, fingerprint, rows.fingerprint, max_seq_length, pooling)
    kept = load_features(key) if fingerprint else None
    known = (len(kept.evaluation), len(kept.training)) if kept is not None else (0, 0)
    if kept is None or known != (len(evaluation), len(train)):
        deadline_s = None if limit_s is None else began_s + limit_s
        with _LoadedModel(model, pooling, prepared.collator, device_type, num_threads) as loaded:
            found = _continued(kept, loaded, evaluation, train, began_s, deadline_s, on_share)
        if fingerprint:
            keep_features(key, found)
    else:
        found = kept
    done = len(found.training)
    return FrozenFeatures(
        train=found.training,
        evaluation=found.evaluation,
        train_labels=_labels(rows.train[:done]),
        eval_labels=_labels(rows.eval[: len(found.evaluation)]),
        label_names=rows.label_names,
        texts=tuple(" / ".join(row.texts)[:MOST_CHARACTERS] for row in rows.train[:done]),
        lengths=np.asarray(train.lengths[:done]),
        all_train_rows=len(train),
        all_eval_rows=len(evaluation),
        max_seq_length=max_seq_length,
        pooling=pooling,
        duplicate_rows=rows.findings.duplicate_rows,
        seconds=time.perf_counter() - began_s,
        kept_rows=sum(known),
        model_fingerprint=fingerprint,
        data_fingerprint=rows.fingerprint,
    )


MOST_CHARACTERS = 160
"""Of a row's text that is shown."""


def _labels(rows: Sequence[Any]) -> NDArray[np.int64]:
    return np.array([row.label for row in rows], dtype=np.int64)


def _continued(
    kept: KeptFeatures | None,
    loaded: _LoadedModel,
    evaluation: Any,
    train: Any,
    began_s: float,
    deadline_s: float | None,
    on_share: OnShare | None,
) -> KeptFeatures:
    """What is kept, and the rows after it."""
    total = len(evaluation) + len(train)
    early_s = None if deadline_s is None else began_s + EVALUATION_SHARE * (deadline_s - began_s)

    def extended(known: Features | None, rows: Any, until_s: float | None, before: int) -> Features:
        start = 0 if known is None else len(known)
        parts = [] if known is None else [np.asarray(known)]
        for first in range(start, len(rows), CHUNK_ROWS):
            chunk = range(first, min(first + CHUNK_ROWS, len(rows)))
            parts.append(loaded.features([rows[index] for index in chunk]))
            if on_share is not None:
                on_share((before + chunk.stop) / total)
            if until_s is not None and time.perf_counter() > until_s:
                break
        return np.concatenate(parts)

    held_out = extended(kept.evaluation if kept is not None else None, evaluation, early_s, 0)
    training = extended(kept.training if kept is not None else None, train, deadline_s, len(held_out))
    return KeptFeatures(held_out, training)


class _LoadedModel:
    """A model that turns rows into features, alive while the context is."""

    def __init__(
        self, model: ModelSpec, pooling: Pooling, collator: Any, device_type: str, num_threads: int | None
    ) -> None:
        self._spec, self._pooling, self._collator = model, pooling, collator
        self._device_type, self._num_threads = device_type, num_threads

    def __enter__(self) -> _LoadedModel:
        from advisor.hardware.backends import get_backend
        from advisor.strategies.skeleton import usual_attention
        from advisor.training.linear_probe.pooling import Pooler

        backend = get_backend(self._device_type)
        backend.runtime.prepare_process(self._num_threads)
        execution = ExecutionPlan(micro_batch_size=BATCH_ROWS, attn_implementation=usual_attention(self._spec))
        model = frozen_model(self._spec, execution, backend.torch_device)
        self._pooler = Pooler(model, self._pooling, execution, backend.torch_device)
        self._pooler.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._pooler.__exit__(*details)

    def features(self, rows: Sequence[dict[str, Any]]) -> Features:
        return pooled_rows(self._pooler, rows, self._collator, BATCH_ROWS)


def frozen_model(spec: ModelSpec, execution: ExecutionPlan, device: str) -> nn.Module:
    """The model with its head, in evaluation mode, nothing to train."""
    import torch

    from advisor.strategies import REFERENCE_METHOD, get_strategy
    from advisor.training.build import build_base

    plain = get_strategy(REFERENCE_METHOD).default_config(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of a head that the checkpoint does not have
        model = build_base(spec, plain, execution, device=device)
    return model.eval().requires_grad_(False)


def pooled_rows(pooler: Any, rows: Sequence[dict[str, Any]], collator: Any, batch_rows: int) -> Features:
    """Features of tokenised rows in their order; rows of similar length share a batch."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    found: dict[int, Features] = {}
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        batch = pooler(collator([rows[index] for index in chosen])).cpu().numpy()
        found.update(zip(chosen, batch, strict=True))
    return np.stack([found[index] for index in range(len(rows))]).astype(np.float32, copy=False)
