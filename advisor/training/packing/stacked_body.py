"""The frozen body of a model, passed through once for all members of a pack."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.nn import functional

from advisor.core.errors import InputError
from advisor.strategies.targets import backbone
from advisor.training.packing.random_streams import MemberDropout, MemberRows, RandomStream, with_the_same_masks

ADAPTER = "default"
"""PEFT's name of the only adapter of a model."""

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class PassRequest:
    """What one member's head wants from the body.

    Attributes:
        inputs: Keyword arguments of the body's forward pass.
        training: Whether the member trains; else it evaluates.
        with_gradient: Whether a backward pass will follow.
        stream: The member's random numbers.
    """

    inputs: Inputs
    training: bool
    with_gradient: bool
    stream: RandomStream | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can be stacked."""
        rows, _ = self.size
        present = tuple(sorted(name for name, value in self.inputs.items() if isinstance(value, torch.Tensor)))
        return (self.training, self.with_gradient, rows, present)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and tokens of the batch."""
        name = "input_ids" if isinstance(self.inputs.get("input_ids"), torch.Tensor) else "inputs_embeds"
        first = self.inputs[name]
        return int(first.shape[0]), int(first.shape[1])


class StackedBody:
    """Runs the body of the first model on the stacked batches of several, each with its own adapters.

    A forward pass is followed by the backward pass of the same requests, if they have any.

    Args:
        precision: Mixed precision of a forward pass.
        device_type: What torch calls the device.
    """

    def __init__(self, precision: Callable[[], contextlib.AbstractContextManager[Any]], device_type: str) -> None:
        self._precision, self._device_type = precision, device_type
        self._bodies: list[Any] = []
        self._layers: dict[str, list[Any]] = {}
        self._run: Callable[..., Any] = _no_member
        self._active: Sequence[int] = ()
        self._rows = MemberRows((None,), 1, (1,), 1)
        self._dropout: MemberDropout | None = None
        self._stacked: list[torch.Tensor] = []
        self._leaves: list[list[torch.Tensor]] = []

    def join(self, model: Any) -> int:
        """Add a model; after the first, it gives up its frozen weights for the first one's.

        Args:
            model: As ``build_model`` makes it, with the architecture, targets and frozen weights of the others.

        Returns:
            The member's number.

        Raises:
            InputError: it cannot be packed with the others.
        """
        body = body_of(model)
        if self._bodies:
            share_frozen(self._bodies[0], body)
            for name, layers in self._layers.items():
                layers.append(_plain(name, body.get_submodule(name), type(layers[0])))
        else:
            self._run = body.forward
            self._replace_layers(body)
        self._bodies.append(body)
        return len(self._bodies) - 1

    def forward(self, members: Sequence[int], requests: Sequence[PassRequest]) -> list[Any]:
        """Each member's output, as the body alone would return it."""
        lengths = tuple(request.size[1] for request in requests)
        rows = requests[0].size[0]
        self._rows = MemberRows(tuple(request.stream for request in requests), rows, lengths, max(lengths))
        self._active = members
        first = self._bodies[0]
        if first.training != requests[0].training:
            first.train(requests[0].training)
        stacked = stacked_inputs([request.inputs for request in requests], _padding(first))
        with torch.set_grad_enabled(requests[0].with_gradient), self._drawing(), self._precision():
            output = self._run(**stacked)
        self._stacked, self._leaves = [], [[] for _ in requests]
        return [self._part(output, member) for member in range(len(requests))]

    def backward(self) -> None:
        """Pass the gradients that the members' heads left at their outputs through the body.

        A member without any (its head failed) adds none.
        """
        stacked, gradients = [], []
        for index, tensor in enumerate(self._stacked):
            parts = [leaves[index].grad for leaves in self._leaves]
            if any(part is not None for part in parts):
                stacked.append(tensor)
                gradients.append(self._joined(tensor, parts))
        self._stacked, self._leaves = [], []
        if stacked:
            torch.autograd.backward(stacked, gradients)

    def _joined(self, tensor: torch.Tensor, parts: Sequence[torch.Tensor | None]) -> torch.Tensor:
        whole = tensor.shape[:1] == (self._rows.rows * self._rows.members,)
        own = [None if part is None else _lengthened(part, tensor) for part in parts]
        size = (self._rows.rows, *tensor.shape[1:]) if whole else tensor.shape
        return torch.cat([tensor.new_zeros(size) if part is None else part for part in own])

    # --- the layers -----------------------------------------------------------------------------------------------

    def _replace_layers(self, first: Any) -> None:
        own: set[int] = set()
        for name, module in first.named_modules():
            if isinstance(module, LoraLayer | ModulesToSaveWrapper):
                layers = self._layers[name] = [_plain(name, module, type(module))]
                forward = self._adapted if isinstance(module, LoraLayer) else self._saved
                module.forward = functools.partial(forward, layers)
                own |= {id(parameter) for parameter in module.parameters()}
            elif (checkpoint := getattr(module, "_gradient_checkpointing_func", None)) is not None:
                module._gradient_checkpointing_func = functools.partial(self._checkpointed, checkpoint)
        left = [name for name, p in first.named_parameters() if p.requires_grad and id(p) not in own]
        if left:
            raise InputError(
                "all that trains in the body of a packed model must be adapters and copies of whole modules, "
                f"but {left[0]} trains, too",
                fix="train it alone",
            )

    def _checkpointed(self, checkpoint: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return with_the_same_masks(self._rows, self._drawing, checkpoint)(*args, **options)

    def _adapted(self, layers: Sequence[Any], x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """The frozen layer once, and each member's low-rank update on its own rows.

        Ranks are filled up with zeros to the largest: products with them are exactly zero.
        """
        result: torch.Tensor = layers[0].base_layer(x, *args, **options)
        active, rows = [layers[member] for member in self._active], self._rows
        if x.shape[0] % (rows.rows * rows.members):
            raise InputError(
                f"a stacked batch must go through every layer row by row, but one gets {tuple(x.shape)}",
                fix="train the members one after the other",
            )
        downs = [layer.lora_A[ADAPTER].weight for layer in active]
        ups = [layer.lora_B[ADAPTER].weight for layer in active]
        if not torch.is_autocast_enabled(self._device_type):
            x = x.to(downs[0].dtype)
        shares = [getattr(layer.lora_dropout[ADAPTER], "p", 0.0) for layer in active]
        if self._bodies[0].training and any(shares):
            x = self._by_member(x, lambda member, part: functional.dropout(part, shares[member], True))
        rank = max(len(down) for down in downs)
        down = torch.stack([functional.pad(w, (0, 0, 0, rank - len(w))) if len(w) < rank else w for w in downs])
        up = torch.stack(
            [
                (functional.pad(w, (0, rank - w.shape[1])) if w.shape[1] < rank else w) * layer.scaling[ADAPTER]
                for w, layer in zip(ups, active, strict=True)
            ]
        )
        inner = torch.bmm(x.reshape(rows.members, -1, x.shape[-1]), down.transpose(1, 2))
        flat = result.reshape(rows.members, -1, result.shape[-1])
        if flat.dtype == up.dtype or torch.is_autocast_enabled(self._device_type):
            total = torch.baddbmm(flat, inner, up.transpose(1, 2))
        else:
            total = flat + torch.bmm(inner, up.transpose(1, 2))
        return total.view(result.shape).to(result.dtype)

    def _saved(self, wrappers: Sequence[Any], x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """A module that every member trains a copy of."""
        active = [wrappers[member].modules_to_save[ADAPTER] for member in self._active]
        return self._by_member(x, lambda member, part: active[member](part, *args, **options))

    def _by_member(self, x: torch.Tensor, apply: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``apply`` to each member's rows, with the member's random numbers."""
        parts = []
        for member, part in enumerate(self._rows.split(x)):
            with self._dropout.only(member) if self._dropout is not None else contextlib.nullcontext():
                parts.append(apply(member, part))
        return torch.cat(parts)

    # --- the passes -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Inside, members draw their own dropout; autograd leaves it, so that recomputation enters it anew."""
        if not self._bodies[0].training:
            yield
            return
        try:
            with MemberDropout(self._rows) as self._dropout:
                yield
        finally:
            self._dropout = None

    def _part(self, value: Any, member: int) -> Any:
        """A member's rows of everything in an output; what is kept for generation is left out."""
        if isinstance(value, torch.Tensor):
            return self._part_of_tensor(value, member)
        if isinstance(value, dict):
            parts = {name: self._part(item, member) for name, item in value.items()}
            return type(value)(**parts)
        if isinstance(value, tuple | list):
            return type(value)(self._part(item, member) for item in value)
        return value if isinstance(value, str | int | float) else None

    def _part_of_tensor(self, tensor: torch.Tensor, member: int) -> torch.Tensor:
        rows = self._rows
        own = tensor
        if tensor.dim() and tensor.shape[0] == rows.rows * rows.members:
            own = rows.split(tensor)[member]
            if tensor.dim() >= 3 and tensor.shape[1] == rows.length:
                own = own.narrow(1, 0, rows.lengths[member])
        if not tensor.requires_grad:
            return own
        leaf = own.detach().requires_grad_()
        if member == 0:
            self._stacked.append(tensor)
        self._leaves[member].append(leaf)
        return leaf


def body_of(model: Any) -> Any:
    """The part of a PEFT model before its head.

    Raises:
        InputError: it has none of its own.
    """
    base = model.get_base_model()
    body = backbone(base)
    if body is base:
        raise InputError(
            f"a packed model needs a body that its head reads from, but {type(base).__name__} is one piece",
            fix="train the members one after the other",
        )
    return body


def _plain(name: str, layer: Any, kind: type) -> Any:
    """A layer that does nothing but add the product of two matrices, or a wrapper of a trained copy.

    Raises:
        InputError: it is another.
    """
    plain = isinstance(layer, kind)
    if plain and isinstance(layer, LoraLayer):
        factors: list[Any] = [factor[ADAPTER] for factor in (layer.lora_A, layer.lora_B) if ADAPTER in factor]
        linear = len(factors) == 2 and all(isinstance(f, nn.Linear) and f.bias is None for f in factors)
        plain = linear and not getattr(layer, "lora_variant", None)
    if not plain:
        raise InputError(
            f"packed members must have plain LoRA on the same linear layers, but {name} is {type(layer).__name__}",
            fix="train the members one after the other",
        )
    return layer


def _no_member(**inputs: Any) -> Any:
    raise RuntimeError("a pack needs a member before a forward pass")


def share_frozen(first: nn.Module, other: nn.Module) -> None:
    """Let one model use the frozen weights of another, which must be equal.

    Raises:
        InputError: they are not.
    """
    if isinstance(first, ModulesToSaveWrapper):
        return
    if isinstance(first, LoraLayer) and isinstance(first, nn.Module):
        share_frozen(first.base_layer, other.base_layer)
        return
    for name, weight in first._parameters.items():
        own = other._parameters.get(name)
        if weight is None or own is None or weight.requires_grad or weight is own:
            continue
        if not _equal(weight, own):
            raise InputError(
                f"members of a pack must share their frozen weights, but {name} of {type(first).__name__} differs",
                fix="give them the same model with the same weights, or train them one after the other",
            )
        other._parameters[name] = weight
    for name, child in first.named_children():
        share_frozen(child, other.get_submodule(name))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if type(one.data).__name__ == "FakeTensor":
        return one.shape == other.shape
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _padding(body: Any) -> dict[str, int]:
    """What inputs are filled up with: the padding token, and zeros for what is not named here."""
    token = getattr(body.config, "pad_token_id", None)
    token = token[0] if isinstance(token, list | tuple) else token
    return {name: int(token or 0) for name in ("input_ids", "decoder_input_ids")}


def stacked_inputs(inputs: Sequence[Inputs], padding: Mapping[str, int]) -> dict[str, Any]:
    """Batches of several members as one, each filled up on the right to the longest.

    Raises:
        InputError: they cannot be stacked.
    """
    stacked: dict[str, Any] = {}
    for name, first in inputs[0].items():
        values = [batch.get(name) for batch in inputs]
        if isinstance(first, torch.Tensor):
            stacked[name] = _stacked(name, values, padding.get(name, 0))
        elif all(value is first or value == first for value in values):
            stacked[name] = first
        else:
            raise InputError(
                f"members of a pack must call the model alike, but {name} differs",
                fix="train the members one after the other",
            )
    lengths = {int(batch["input_ids"].shape[1]) for batch in inputs if "input_ids" in batch}
    if len(lengths) > 1 and stacked.get("attention_mask") is None:
        raise InputError(
            f"batches without a mask must be of one length, but got {sorted(lengths)} tokens",
            fix="train the members one after the other",
        )
    return stacked


def _stacked(name: str, values: Sequence[torch.Tensor], filler: int) -> torch.Tensor:
    if values[0].dim() == 0:
        return values[0]
    if values[0].dim() == 1:
        return torch.cat(list(values))
    length = max(value.shape[1] for value in values)
    return torch.cat([_right_padded(value, length, filler) for value in values])


def _right_padded(value: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    missing = length - value.shape[1]
    if not missing:
        return value
    return functional.pad(value, [0] * 2 * (value.dim() - 2) + [0, missing], value=filler)


def _lengthened(part: torch.Tensor, stacked: torch.Tensor) -> torch.Tensor:
    """A gradient of a member's output in the stack's length."""
    return _right_padded(part, stacked.shape[1], 0) if part.dim() >= 3 else part
