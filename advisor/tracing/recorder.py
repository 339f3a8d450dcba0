"""Records what a step does: every operator it dispatches, and every storage it allocates and frees.

The recorder is a dispatch mode above the fake-tensor mode. Storages are watched through weak references, so a free is
recorded at the moment the last tensor over it dies, exactly as a real allocator would see it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from advisor.hardware.backends import is_host
from advisor.tracing.kernel_temporaries import BEHIND_OUTPUTS, TILE, KernelCall, hidden_bytes, kernel_call
from advisor.tracing.ops import CAUSAL, MEMBERS, TracedOp, encode_signature

aten = torch.ops.aten

_FLASH_PRODUCTS = {aten._flash_attention_forward: (2, 0, 6), aten._flash_attention_backward: (5, 1, 9)}
"""Matrix products of (length, width) by (width, keys) that a flash kernel computes per row and head, and where the
query and the number of keys stand among its arguments."""

VIEW_OPERATORS = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select"),
        *("unsqueeze", "squeeze", "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind"),
        *("lift_fresh", "diagonal", "unfold", "chunk", "_reshape_alias", "view_as_real", "view_as_complex"),
    )
)
PRODUCTS = frozenset(f"{MEMBERS['gemm']} {MEMBERS['bmm']}".split())
"""Matrix products of cuBLAS, the first of which takes a workspace."""
LAST_OUTPUT_FIRST = frozenset({"native_dropout"})
"""Operators of CUDA that allocate their outputs from the last to the first: dropout's mask before its values."""


@dataclass(frozen=True)
class RecordedOperator:
    """One dispatched operator at concrete shapes.

    Attributes:
        name: Schema name with overload, ``"addmm.default"``.
        phase: Phase of the step it ran in.
        flops: By torch's registry (2·M·N·K for a matrix product); 0 for operators without an entry.
        read_bytes, written_bytes: Per tensor; dimensions of stride 0 are read once.
        dtype: Of the first floating-point input.
        signature: What ``encode_signature`` made of the call; empty unless asked for.
    """

    name: str
    phase: str
    flops: int
    read_bytes: tuple[int, ...]
    written_bytes: tuple[int, ...]
    dtype: str
    signature: str = ""

    def traced(self) -> TracedOp:
        """The same as one call with its traffic summed up."""
        read_bytes, written_bytes = sum(self.read_bytes), sum(self.written_bytes)
        phase: Any = self.phase
        return TracedOp(self.name, phase, self.flops, read_bytes, written_bytes, self.dtype, self.signature)


@dataclass
class Storage:
    """One recorded storage: its size, what it is, and where it was made."""

    size_bytes: int
    kind: str
    phase: str


@dataclass
class Recording:
    """Raw outcome of one traced step.

    Attributes:
        events: ``(+1 | -1, storage number, phase)`` in program order.
        kernel_calls: Calls with hidden temporaries, with the number of their first storage; and tiles.
        first_products: By phase, the storage that its first matrix product wrote.
    """

    operators: list[RecordedOperator] = field(default_factory=list)
    events: list[tuple[int, int, str]] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    kernel_calls: list[tuple[int, KernelCall]] = field(default_factory=list)
    first_products: dict[str, int] = field(default_factory=dict)


@dataclass
class _Sum:
    """A sum of two gradients that is not yet known to be one: it is, unless the first of them dies at once.

    Autograd adds a further gradient to the one it holds, in place where nobody else holds that one and it is no view; a
    tensor subclass, as fake tensors are, is added out of place (torch/csrc/autograd/input_buffer.cpp).
    """

    key: int
    first: int
    phase: str


_UNSETTLED = -1
"""Number of a sum's storage until it is known."""


class StepRecorder(TorchDispatchMode):
    """Watches storages on one device type.

    Args:
        device_type: Whose storages count.
        masked: What data-dependent branches see: ``attention_mask.all()``, and whether all positions are of one
            document, is ``not masked``.
        keep_signatures: Keep what is needed to replay each operator on real tensors.
    """

    def __init__(self, device_type: str, *, masked: bool, keep_signatures: bool = False) -> None:
        super().__init__()
        self.device_type = device_type
        self._on_host = is_host(device_type)
        self.masked = masked
        self.keep_signatures = keep_signatures
        self.recording = Recording()
        self.phase = "weights"
        self._live: dict[int, tuple[int, Any]] = {}
        self._sum: _Sum | None = None
        self._tile_rows: int | None = None
        self._closed = False

    def close(self) -> None:
        """Stop recording: what dies afterwards is the trace's own clean-up."""
        self._settle()
        self._closed = True

    @contextlib.contextmanager
    def tiles(self, rows: int) -> Iterator[None]:
        """Inside, new tensors of that many rows are tiles, which hold at most ``TILE_TOKENS`` of them at a time."""
        outer, self._tile_rows = self._tile_rows, rows
        try:
            yield
        finally:
            self._tile_rows = outer

    def watch(self, tensors: Iterable[Any], kind: str) -> None:
        """Record the storages of ``tensors`` as allocated now."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device_type:
                is_tile = self._tile_rows is not None and tensor.shape[:1] == (self._tile_rows,)
                self._watch_storage(tensor.untyped_storage(), kind, self._tile_rows if is_tile else None)

    def label(self, tensor: torch.Tensor, kind: str) -> None:
        """Say what an already recorded storage is (for example a gradient)."""
        self._settle()
        entry = self._live.get(tensor.untyped_storage()._cdata)
        if entry is not None:
            self.recording.storages[entry[0]].kind = kind

    def _watch_storage(self, storage: Any, kind: str, tile_rows: int | None = None) -> None:
        if storage._cdata in self._live or storage.nbytes() == 0:
            return
        self._settle()
        number = self._born(storage.nbytes(), kind, self.phase)
        self._live[storage._cdata] = (number, self._reference(storage))
        if tile_rows:
            call = KernelCall(TILE, (tile_rows, storage.nbytes() // tile_rows))
            self.recording.kernel_calls.append((number, call))

    def _born(self, size_bytes: int, kind: str, phase: str) -> int:
        number = len(self.recording.storages)
        self.recording.storages.append(Storage(size_bytes, kind, phase))
        self.recording.events.append((+1, number, phase))
        return number

    def _reference(self, storage: Any) -> Any:
        key = storage._cdata
        reference: Any = None

        def freed(_: Any) -> None:
            entry = self._live.get(key)
            if entry is not None and entry[1] is reference:
                self._freed(key)

        reference = weakref.ref(storage, freed)
        return reference

    def _freed(self, key: int) -> None:
        if self._sum is not None and (self._sum.key == key or self._sum.phase != self.phase):
            self._settle()
        number, _ = self._live.pop(key)
        if self._sum is not None and self._sum.first == number:
            self._live[self._sum.key] = (number, self._live[self._sum.key][1])
            self._sum = None
        elif not self._closed:
            self.recording.events.append((-1, number, self.phase))

    def _watch_sum(self, first: torch.Tensor, result: torch.Tensor) -> bool:
        """Note a sum that may turn out to be in place; says whether it is one."""
        held, storage = self._live.get(first.untyped_storage()._cdata), result.untyped_storage()
        alike = first.dtype == result.dtype and first.untyped_storage().nbytes() == storage.nbytes()
        if held is None or not alike or first._is_view() or storage._cdata in self._live or not storage.nbytes():
            return False
        self._settle()
        self._live[storage._cdata] = (_UNSETTLED, self._reference(storage))
        self._sum = _Sum(storage._cdata, held[0], self.phase)
        return True

    def _settle(self) -> None:
        """The sum was none in place: it has memory of its own."""
        if self._sum is None:
            return
        found, self._sum = self._sum, None
        reference = self._live[found.key][1]
        size_bytes = self.recording.storages[found.first].size_bytes
        self._live[found.key] = (self._born(size_bytes, "activation", found.phase), reference)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return self._scalar(args[0])
        out = self._every_index(args[0]) if func is aten.nonzero.default else func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if name not in VIEW_OPERATORS and self._concerns_device(name, outputs):
            self._record_operator(func, name, args, kwargs, out, outputs)
        if self._adds_gradients(func) and self._watch_sum(args[0], out):
            return out
        call = kernel_call(name, args, kwargs, out, on_host=self._on_host)
        outputs_first = call is not None and call.rule in BEHIND_OUTPUTS
        if outputs_first:
            self.watch(outputs, "activation")
        numbers = self._allocate_hidden(call) if call is not None else []
        if not outputs_first:
            self.watch(reversed(outputs) if name in LAST_OUTPUT_FIRST and not self._on_host else outputs, "activation")
        self.recording.events.extend((-1, number, self.phase) for number in numbers)
        if outputs and self.phase not in self.recording.first_products and name in PRODUCTS:
            self.recording.first_products[self.phase] = self._live[outputs[0].untyped_storage()._cdata][0]
        return out

    def _adds_gradients(self, func: Any) -> bool:
        """Whether this may be autograd, adding a gradient to one that it holds."""
        in_backward = self.phase in ("first_backward", "backward") and not torch.is_grad_enabled()
        return in_backward and not self._on_host and func is aten.add.Tensor

    def _allocate_hidden(self, call: KernelCall) -> list[int]:
        """One storage per slot of the rule, also when it is empty here: another shape may fill it."""
        self._settle()
        first = len(self.recording.storages)
        sizes = hidden_bytes(call.rule, call.sizes)
        self.recording.kernel_calls.append((first, call))
        for size_bytes in sizes:
            self.recording.events.append((+1, len(self.recording.storages), self.phase))
            self.recording.storages.append(Storage(size_bytes, "temporary", self.phase))
        return list(range(first, first + len(sizes)))

    def _scalar(self, tensor: torch.Tensor) -> bool | float | int:
        """The value a data-dependent branch sees; every tensor is treated as ordinary finite data."""
        if tensor.dtype == torch.bool:
            return not self.masked
        return 1.0 if tensor.dtype.is_floating_point else 1

    def _every_index(self, tensor: torch.Tensor) -> torch.Tensor:
        """``nonzero`` of ordinary data: every element counts (DeBERTa asks which labels are given)."""
        return torch.empty((tensor.numel(), tensor.dim()), dtype=torch.long, device=tensor.device)

    def _concerns_device(self, name: str, outputs: list[torch.Tensor]) -> bool:
        return any(t.device.type == self.device_type for t in outputs) or name.startswith(("_foreach", "_fused"))

    def _record_operator(
        self, func: Any, name: str, args: Any, kwargs: Any, out: Any, outputs: list[torch.Tensor]
    ) -> None:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        written = [_touched_bytes(t) for t in outputs]
        if not outputs and args and isinstance(args[0], list | tuple):
            written = [_touched_bytes(t) for t in args[0] if isinstance(t, torch.Tensor)]
        if func._schema.name == "bitsandbytes::gemm_4bit":
            written.append(_dequantized_traffic_bytes(args))
        signature = encode_signature(func, args, kwargs) if self.keep_signatures else ""
        self.recording.operators.append(
            RecordedOperator(
                name=f"{name}.{_overload(func, args, kwargs)}",
                phase=self.phase,
                flops=_flops(func, args, kwargs, out),
                read_bytes=tuple(_touched_bytes(t) for t in inputs),
                written_bytes=tuple(written),
                dtype=next((str(t.dtype).removeprefix("torch.") for t in inputs if t.is_floating_point()), "int"),
                signature=signature,
            )
        )


def _overload(func: Any, args: Any, kwargs: Any) -> str:
    """The schema's overload; ``CAUSAL`` where an attention kernel is told to skip what lies above the diagonal."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "is_causal":
            is_causal = args[position] if position < len(args) else kwargs.get("is_causal", False)
            return CAUSAL if is_causal else str(func._overloadname)
    return str(func._overloadname)


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    if func._schema.name == "bitsandbytes::gemm_4bit":
        # torch's registry has no entry: activations (…, K) times 4-bit weights of logical shape (N, K).
        activations, weight_shape = args[0], args[2]
        return 2 * activations.numel() * int(weight_shape[0])
    if func._overloadpacket in _FLASH_PRODUCTS:
        # torch's entry reads (batch, length, heads, width) as (batch, heads, length, width).
        products, query, max_k = _FLASH_PRODUCTS[func._overloadpacket]
        return products * 2 * int(args[query].numel()) * int(args[max_k])
    formula = flop_registry.get(func._overloadpacket)
    args = tuple(value for value in args if not isinstance(value, torch.dtype))  # of the output, which no entry knows
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


def _dequantized_traffic_bytes(args: Any) -> int:
    """A 4-bit product writes a de-quantised copy of its weight (N, K) in the activations' type and reads it again."""
    activations, weight_shape = args[0], args[2]
    return 2 * int(weight_shape[0]) * int(weight_shape[1]) * int(activations.element_size())


def _touched_bytes(tensor: torch.Tensor) -> int:
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride != 0:
            size *= int(length)
    return size
