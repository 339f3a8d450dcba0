"""Random numbers of each member of a pack: those that its run would draw alone.

A run draws from global generators: Python's, NumPy's and torch's. While a member works, these have the member's own
state. In the common forward pass each dropout is drawn member by member, from the member's state and in the shape that
its own batch has.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.state import GradientState
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from advisor.hardware.backends import is_host


class RandomStream:
    """The state of every global generator as one member's run left it, and accelerate's view of its data loaders.

    Args:
        device: Where the model draws; its generator is part of the stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._take()

    def _take(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._host = torch.get_rng_state()
        self._on_device = None if is_host(self._device.type) else self._of_device.get_rng_state(self._device)
        self._loaders = _copied(GradientState().__dict__)

    @property
    def _of_device(self) -> Any:
        return torch.get_device_module(self._device)

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[None]:
        """Inside, all generators go on from the member's states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._host)
        if self._on_device is not None:
            self._of_device.set_rng_state(self._on_device, self._device)
        shared = GradientState().__dict__
        shared.clear()
        shared.update(self._loaders)
        try:
            yield
        finally:
            self._take()

    @property
    def drawn_from(self) -> torch.Tensor:
        """State of the generator that the model's own operators draw from."""
        return self._host if self._on_device is None else self._on_device

    @drawn_from.setter
    def drawn_from(self, state: torch.Tensor) -> None:
        if self._on_device is None:
            self._host = state
        else:
            self._on_device = state

    @contextlib.contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Inside, operators of the model draw from the member's state."""
        if self._on_device is None:
            torch.set_rng_state(self._host)
            yield
            self._host = torch.get_rng_state()
        else:
            self._of_device.set_rng_state(self._on_device, self._device)
            yield
            self._on_device = self._of_device.get_rng_state(self._device)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


@dataclass(frozen=True)
class MemberRows:
    """How the rows of a stacked batch belong to members, in order.

    Attributes:
        streams: One for each member; ``None`` draws from the global generators as they are.
        rows: Of each member's batch; all have as many.
        lengths: Tokens per row of each member's own batch.
        length: Tokens per row of the stacked batch.
    """

    streams: tuple[RandomStream | None, ...]
    rows: int
    lengths: tuple[int, ...]
    length: int

    @property
    def members(self) -> int:
        """How many."""
        return len(self.streams)

    def only(self, member: int) -> MemberRows:
        """One member's rows alone, still in the length of the stack."""
        return MemberRows((self.streams[member],), self.rows, (self.lengths[member],), self.length)

    def split(self, stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each member's part of a tensor whose first dimension is rows, or a multiple of them."""
        return stacked.tensor_split(self.members)

    def snapshot(self) -> list[torch.Tensor]:
        """States of the members' generators."""
        return [stream.drawn_from for stream in self.streams if stream is not None]

    def restore(self, states: Sequence[torch.Tensor]) -> None:
        """Set them back."""
        for stream, state in zip(filter(None, self.streams), states, strict=True):
            stream.drawn_from = state

    def drawn(self, draw: Callable[..., torch.Tensor], *stacked: torch.Tensor | None) -> torch.Tensor:
        """``draw`` of each member's part, with the member's random numbers and in its own length.

        Args:
            draw: An operator with random numbers. Its result has the first tensor's rows and length.
            stacked: Tensors to be split; one whose first dimension is 1 is for all.
        """
        parts = []
        for member, stream in enumerate(self.streams):
            own = [self._own(tensor, member) for tensor in stacked]
            with stream.in_the_model() if stream is not None else contextlib.nullcontext():
                part = draw(*own)
            first = stacked[0]
            assert first is not None
            parts.append(_filled(part, first, self.length, self.lengths[member]))
        return torch.cat(parts)

    def _own(self, tensor: torch.Tensor | None, member: int) -> torch.Tensor | None:
        if tensor is None:
            return None
        part = tensor if tensor.shape[0] == 1 < self.members * self.rows else self.split(tensor)[member]
        if self.lengths[member] == self.length:
            return part
        for dimension in _token_dimensions(tensor, self.length, self.rows * self.members):
            part = part.narrow(dimension, 0, self.lengths[member])
        return part


def _token_dimensions(tensor: torch.Tensor, length: int, rows: int) -> list[int]:
    """Which dimensions of a tensor count tokens: hidden states (rows, tokens, width), attention scores (rows, heads,
    tokens, tokens) or (rows * heads, tokens, tokens), queries (rows, heads, tokens, width).
    """
    if tensor.dim() == 3:
        square = tensor.shape[0] > rows and tensor.shape[1] == tensor.shape[2] == length
        return [1, 2] if square else [1] if tensor.shape[1] == length else []
    if tensor.dim() == 4:
        if tensor.shape[3] == length and tensor.shape[2] in (1, length):
            return [2, 3] if tensor.shape[2] == length else [3]
        return [2] if tensor.shape[2] == length else [1] if tensor.shape[1] == length else []
    return []


def _filled(part: torch.Tensor, stacked: torch.Tensor, length: int, own_length: int) -> torch.Tensor:
    """A member's result in the length of the stack. What is filled in is padding, which nothing reads."""
    if own_length == length:
        return part
    sizes = zip(part.shape[:0:-1], stacked.shape[:0:-1], strict=True)
    amounts = [length - own_length if sizes == (own_length, length) else 0 for sizes in sizes]
    return functional.pad(part, [n for amount in amounts for n in (0, amount)])


class MemberDropout(TorchFunctionMode):
    """Inside, every dropout of a stacked batch is drawn member by member."""

    def __init__(self, rows: MemberRows) -> None:
        super().__init__()
        self._rows = [rows]

    @contextlib.contextmanager
    def only(self, member: int) -> Iterator[None]:
        """Inside, tensors hold one member's rows."""
        self._rows.append(self._rows[-1].only(member))
        try:
            yield
        finally:
            self._rows.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        split = _SPLIT.get(func)
        answer = split(self._rows[-1], *args, **kwargs) if split is not None else None
        return func(*args, **kwargs) if answer is None else answer


def _dropout(
    rows: MemberRows, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor | None:
    if not training or p == 0:
        return None
    dropped = rows.drawn(lambda part: functional.dropout(part, p, True), input)
    return input.copy_(dropped) if inplace else dropped


def _attention(
    rows: MemberRows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> torch.Tensor | None:
    if dropout_p == 0:
        return None
    attend = functools.partial(
        functional.scaled_dot_product_attention, dropout_p=dropout_p, is_causal=is_causal, **options
    )
    return rows.drawn(attend, query, key, value, attn_mask)


_SPLIT: dict[Any, Callable[..., torch.Tensor | None]] = {
    functional.dropout: _dropout,
    torch.dropout: _dropout,
    functional.scaled_dot_product_attention: _attention,
}


def with_the_same_masks(
    rows: MemberRows, drawing: Callable[[], contextlib.AbstractContextManager[None]], checkpoint: Callable[..., Any]
) -> Callable[..., Any]:
    """Gradient checkpointing whose second pass draws what the first one drew.

    Args:
        rows: Of the members in the pass.
        drawing: Inside, members draw their own dropout; the first pass is inside already.
        checkpoint: ``torch.utils.checkpoint.checkpoint`` with its options.
    """

    def checkpointed(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        before: list[list[torch.Tensor]] = []

        def again(*inputs: Any, **named: Any) -> Any:
            if not before:
                before.append(rows.snapshot())
                return function(*inputs, **named)
            now = rows.snapshot()
            rows.restore(before[0])
            try:
                with drawing():
                    return function(*inputs, **named)
            finally:
                rows.restore(now)

        return checkpoint(again, *args, **options)

    return checkpointed
