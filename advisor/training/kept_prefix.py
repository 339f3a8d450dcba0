"""Frozen first layers whose output is computed once and kept: later passes over the rows skip them.

Where only the last layers or the head train, the hidden states in front of them are the same in every epoch, provided
that the frozen layers run without dropout. They are computed in evaluation mode before training, stored in a file that
is mapped into memory, and put in the place of the last frozen layer's output. Frozen layers before it pass on what they
get. The embeddings still run; they cost next to nothing and their output goes nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from advisor.core.errors import InputError, OutputError
from advisor.core.memo import recall_structure
from advisor.core.model import ModelSpec
from advisor.core.store import ensure_writable_dir
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import backbone, backbone_layers
from advisor.training.sampling import OrderingTrainer

ROW, ROWS = "row", "feature_rows"
"""Names under which a row, and a batch, says which kept features are its own."""

_ATTRIBUTE = "_kept_prefix"

CHUNK_ROWS = 512
"""Rows whose lengths are sorted before they are made into batches."""


def skip_frozen_layers(spec: ModelSpec, model: nn.Module, strategy: StrategyConfig) -> None:
    """Let a built model take the output of its frozen first layers from ``kept_prefix(model)``.

    Until that has any, zeros of the right shape stand in: a step on made-up rows costs the same.

    Raises:
        InputError: the method or the model has no such layers.
    """
    problem = kept_features_problem(spec, model, strategy)
    if problem is not None:
        raise InputError(problem, fix="leave --keep-features out")
    _, layers = backbone_layers(model)
    count = get_strategy(strategy.method).frozen_first_layers(model, strategy)
    setattr(model, _ATTRIBUTE, KeptPrefix(model, layers[:count], returns_tuples=layers_return_tuples(spec)))


def kept_features_problem(spec: ModelSpec, model: nn.Module, strategy: StrategyConfig) -> str | None:
    """Why there is nothing to keep, one sentence; ``None`` when there is.

    Args:
        spec: Its task decides whether rows stay as they are.
        model: Built, or its skeleton.
        strategy: What trains.
    """
    if spec.traits.masks_anew:
        return f"keep_features needs rows that stay as they are, but the task {spec.task} masks them anew in each epoch"
    if spec.traits.learns_preferences:
        return f"keep_features needs one pass a row, but the task {spec.task} scores it before and after training"
    if getattr(model.config, "is_encoder_decoder", False):
        return f"keep_features needs one stack of layers, but {type(model).__name__} has an encoder and a decoder"
    if not get_strategy(strategy.method).frozen_first_layers(model, strategy):
        return f"keep_features skips frozen first layers, but {strategy.method} freezes none of this model's"
    return None


def kept_prefix(model: nn.Module) -> KeptPrefix:
    """What ``skip_frozen_layers`` left at a model."""
    prefix: KeptPrefix = getattr(model, _ATTRIBUTE)
    return prefix


class KeptPrefix:
    """The frozen first layers of a model, and their output for every row of a data set.

    Args:
        model: As built.
        layers: Its frozen first layers, one at least.
        returns_tuples: Whether a layer returns hidden states and more.

    Attributes:
        rows: Which rows the next forward pass is about; ``None`` gives zeros.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], *, returns_tuples: bool) -> None:
        self.rows: Sequence[int] | None = None
        self._body, self._layers, self._returns_tuples = backbone(model), list(layers), returns_tuples
        self._values: torch.Tensor | None = None
        self._starts = np.zeros(1, dtype=np.int64)
        self._skip()

    def _skip(self) -> None:
        for layer in self._layers[:-1]:
            layer.forward = self._passed
        self._layers[-1].forward = self._kept

    def restore(self) -> None:
        """From now on the layers run, whatever rows come."""
        for layer in self._layers:
            del layer.forward
        self._values = self.rows = None

    def _returned(self, hidden: torch.Tensor) -> Any:
        return (hidden, None) if self._returns_tuples else hidden

    def _passed(self, hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
        return self._returned(hidden_states)

    def _kept(self, hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
        if self.rows is None or self._values is None:
            return self._returned(torch.zeros_like(hidden_states))
        shape = (len(self.rows), *hidden_states.shape[1:])
        pinned = hidden_states.is_cuda
        batch = torch.zeros(shape, dtype=self._values.dtype, pin_memory=pinned)
        for place, row in enumerate(self.rows):
            start, stop = self._starts[row], self._starts[row + 1]
            batch[place, : stop - start] = self._values[start:stop]
        return self._returned(batch.to(hidden_states.device, non_blocking=pinned))

    def compute(
        self,
        datasets: Sequence[Any],
        collator: Callable[[Sequence[Any]], dict[str, torch.Tensor]],
        file: Path,
        *,
        device: str,
        batch_rows: int,
        precision: Callable[[], contextlib.AbstractContextManager[Any]],
        check: Callable[[], None],
    ) -> None:
        """Pass all rows through the frozen layers, in evaluation mode, and keep what comes out.

        Args:
            datasets: Map-style; rows are numbered through in this order.
            collator: Makes batches of rows.
            file: Where the values lie; it has no name any more as soon as it is open, so that nothing is left behind.
            device: Where the model is.
            batch_rows: Rows per forward pass.
            precision: Mixed precision of a forward pass.
            check: Called between batches; raises what ends the run.

        Raises:
            OutputError: the disk is full.
        """
        lengths = np.concatenate([[len(data[i]["input_ids"]) for i in range(len(data))] for data in datasets])
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        first = 0
        with self._running() as output_of, torch.no_grad(), precision():
            for data in datasets:
                for chosen in _batches(lengths[first : first + len(data)], batch_rows):
                    check()
                    batch = collator([data[int(index)] for index in chosen])
                    hidden = output_of({name: v.to(device) for name, v in batch.items() if name != "labels"})
                    if self._values is None:
                        self._values = _mapped(file, int(self._starts[-1]), hidden)
                    for place, index in enumerate(chosen):
                        start, stop = self._starts[first + index], self._starts[first + index + 1]
                        self._values[start:stop] = hidden[place, : stop - start].to("cpu")
                first += len(data)

    @contextlib.contextmanager
    def _running(self) -> Iterator[Callable[[dict[str, torch.Tensor]], torch.Tensor]]:
        """Inside, the layers run, and what is yielded gives the last one's output."""
        seen: list[torch.Tensor] = []

        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[:] = [output[0] if isinstance(output, tuple) else output]

        def output_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            self._body(**batch)
            return seen.pop()

        training = self._body.training
        for layer in self._layers:
            del layer.forward
        handle = self._layers[-1].register_forward_hook(see)
        self._body.eval()
        try:
            yield output_of
        finally:
            handle.remove()
            self._skip()
            self._body.train(training)


def _batches(lengths: np.ndarray, batch_rows: int) -> Iterator[np.ndarray]:
    """Indices of all rows; rows of similar length share a batch."""
    for start in range(0, len(lengths), CHUNK_ROWS):
        order = start + np.argsort(-lengths[start : start + CHUNK_ROWS], kind="stable")
        yield from np.split(order, range(batch_rows, len(order), batch_rows))


def _mapped(file: Path, tokens: int, like: torch.Tensor) -> torch.Tensor:
    """A file of that many hidden states, mapped into memory."""
    width = like.shape[-1]
    size_bytes = tokens * width * like.element_size()
    ensure_writable_dir(file.parent, needed_bytes=size_bytes)
    try:
        with file.open("wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, max(1, size_bytes))
            else:
                stream.truncate(size_bytes)
        values = torch.from_file(str(file), shared=True, size=tokens * width, dtype=like.dtype)
    except OSError as failure:
        raise OutputError(
            f"{file.parent} must take {size_bytes} bytes of kept features, but: {failure}",
            fix="free some space, or leave --keep-features out",
        ) from failure
    finally:
        file.unlink(missing_ok=True)
    return values.view(tokens, width)


def layers_return_tuples(spec: ModelSpec) -> bool:
    """Whether this architecture's layers return hidden states and more. Remembered; on a device that is made up, whose
    models look at nothing, it must be known before.
    """
    found: bool = recall_structure("layers return tuples", spec, [], lambda: _returns_tuples(spec), code=(__name__,))
    return found


def _returns_tuples(spec: ModelSpec) -> bool:
    """As a pass without weights shows."""
    skeleton = build_skeleton(spec)
    _, layers = backbone_layers(skeleton)
    found: list[bool] = []
    handle = layers[0].register_forward_hook(lambda module, inputs, output: found.append(isinstance(output, tuple)))
    try:
        # Models do not look at the values of masks that are fake; those of plain meta tensors they want to know.
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with _disable_current_modes(), fake, torch.no_grad(), torch.device("meta"):
            ids = torch.zeros(1, 8, dtype=torch.long)
            backbone(skeleton)(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as failure:
        if not found:
            raise InputError(
                f"keep_features needs layers that can be looked into, but those of {spec.model_type} cannot: {failure}",
                fix="leave --keep-features out",
            ) from failure
    finally:
        handle.remove()
    return found[0]


class NumberedRows:
    """A data set whose rows say which ones they are.

    Args:
        dataset: Map-style.
        first: Number of its first row.
    """

    def __init__(self, dataset: Any, first: int) -> None:
        self._dataset, self._first = dataset, first
        if getattr(dataset, "lengths", None) is not None:
            self.lengths = dataset.lengths

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return {**self._dataset[index], ROW: self._first + index}


class NumberingCollator:
    """Batches that say which rows they are made of."""

    def __init__(self, collator: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self._collator = collator

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch as without, and under ``ROWS`` a list of numbers."""
        return {**self._collator(features), ROWS: [feature[ROW] for feature in features]}


class KeptPrefixTrainer(OrderingTrainer):
    """The Trainer of a model with a kept prefix: before each forward pass it says which rows it is about."""

    def __init__(self, *args: Any, prefix: KeptPrefix, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prefix = prefix

    def _prepare_inputs(self, inputs: Any) -> Any:
        self._prefix.rows = inputs.pop(ROWS)
        return super()._prepare_inputs(inputs)


def kept_prefix_trainer(model: nn.Module) -> Callable[..., OrderingTrainer]:
    """Makes a model's Trainer."""
    return functools.partial(KeptPrefixTrainer, prefix=kept_prefix(model))
