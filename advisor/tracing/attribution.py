"""Where every storage of a step comes from: the module, the operator, the shape, and whether a backward pass made it.

During a forward pass the innermost running module owns what is allocated. During the backward pass it is the module
whose forward pass made the autograd node that is running: nodes carry the sequence number of their creation. A
recomputed forward pass (gradient checkpointing) runs its modules again and is told apart by that.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.autograd import _get_sequence_nr

from advisor.tracing.environment import patched
from advisor.tracing.recorder import Recording, StepRecorder
from advisor.tracing.step import TraceRequest, trace_step

WRAPPED_LAYER = "base_layer"
"""What PEFT's layers call the layer that they wrap."""
BACKWARD_PHASES = ("first_backward", "backward")


@dataclass(frozen=True)
class Origin:
    """What made a storage.

    Attributes:
        module: Dotted name of the owning module in the model; ``""`` outside of every module (batch, loss, optimizer).
            For weights the parameter's own name.
        module_class: Class of that module; ``""`` outside of every module.
        operator: Schema name of the operator that allocated it (``"native_dropout"``); ``""`` for what was there before
            the step.
        shape: Of the first tensor over it; empty for a kernel's hidden temporaries.
        dtype: For example ``"float32"``.
        backward: Made by a backward operator.
        recomputed: Made by a forward pass that runs again inside the backward pass.
    """

    module: str = ""
    module_class: str = ""
    operator: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    backward: bool = False
    recomputed: bool = False


@dataclass
class AttributedRecording(Recording):
    """A recording whose storages and operators have origins.

    Attributes:
        origins: By storage number.
        operator_modules: Of ``operators``, in their order: the module that ran each, or whose backward pass it is
            (``""`` outside of every module).
        adapter_modules: Modules that an adapter library put around or beside the model's own.
    """

    origins: list[Origin] = field(default_factory=list)
    operator_modules: list[str] = field(default_factory=list)
    adapter_modules: frozenset[str] = frozenset()


def attributed_trace(request: TraceRequest) -> AttributedRecording:
    """Trace one configuration at its own shape and depth, with the origin of every storage.

    Raises:
        UntraceableError: a library's operator cannot run on fake tensors; the message names it.
    """
    recorders: list[AttributingRecorder] = []

    def recorder_of(model: torch.nn.Module, device_type: str) -> StepRecorder:
        recorders.append(AttributingRecorder(model, device_type, masked=request.execution.masked))
        return recorders[-1]

    trace_step(request, recorder_of)
    return recorders[-1].attributed


def adapter_modules(model: torch.nn.Module) -> frozenset[str]:
    """Names of the modules that PEFT put around or beside the model's own: its layers, and what they hold but for the
    layer that they wrap.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            inner = (child for child, _ in layer.named_modules() if child.partition(".")[0] != WRAPPED_LAYER)
            found.update(f"{name}.{child}".strip(".") for child in inner)
    return frozenset(found)


class ModuleWatch:
    """Knows which module's forward runs, and which module a backward node belongs to."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = {id(module): (name, type(module).__name__) for name, module in model.named_modules()}
        self._parameters = {id(parameter): name for name, parameter in model.named_parameters()}
        self._running: list[tuple[str, str]] = []
        self._made_at: list[int] = []
        self._makers: list[tuple[str, str]] = []
        self._last = ("", "")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow every module call inside the block, also those that end in an exception (checkpoints stop early)."""
        original = torch.nn.Module.__call__

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            known = self._modules.get(id(module))
            if known is None:
                return original(module, *args, **kwargs)
            self._running.append(known)
            try:
                return original(module, *args, **kwargs)
            finally:
                self._running.pop()

        with patched(torch.nn.Module, "__call__", call):
            yield

    def in_forward(self) -> bool:
        return bool(self._running)

    def forward_owner(self) -> tuple[str, str]:
        """The innermost running module; remembers it for the autograd node that this operator belongs to."""
        owner = self._running[-1] if self._running else ("", "")
        number = _get_sequence_nr() - 1
        if not self._made_at or self._made_at[-1] < number:
            self._made_at.append(number)
            self._makers.append(owner)
        return owner

    def backward_owner(self) -> tuple[str, str]:
        """The module whose forward pass made the running node; between nodes, that of the last one."""
        node = torch._C._current_autograd_node()
        if node is not None:
            parameter = getattr(node, "variable", None)
            if parameter is not None and id(parameter) in self._parameters:
                self._last = (self._parameters[id(parameter)].rpartition(".")[0], "")
            else:
                position = bisect.bisect_right(self._made_at, node._sequence_nr()) - 1
                self._last = self._makers[position] if position >= 0 else ("", "")
        return self._last


class AttributingRecorder(StepRecorder):
    """A recorder that also keeps the origin of every storage.

    Args:
        model: The model whose modules are named; built, on fake tensors.
        device_type: Whose storages count.
        masked: As in :class:`StepRecorder`.
    """

    def __init__(self, model: torch.nn.Module, device_type: str, *, masked: bool) -> None:
        super().__init__(device_type, masked=masked)
        self.attributed = AttributedRecording(adapter_modules=adapter_modules(model))
        self.recording = self.attributed
        self._watch = ModuleWatch(model)
        self._names = {
            tensor.untyped_storage()._cdata: name
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        self._making: Origin | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> AttributingRecorder:
        self._stack.enter_context(self._watch.watching())
        super().__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._stack.close()

    def watch(self, tensors: Iterable[Any], kind: str) -> None:
        """Record storages as allocated now; outside of an operator they are named after their parameter."""
        kept = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
        super().watch(kept, kind)
        for tensor in kept:
            self._name(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._making = self._origin(func._schema.name.split("::")[1])
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            self._fill(len(self.recording.storages))
            new = len(self.recording.operators) - len(self.attributed.operator_modules)
            self.attributed.operator_modules.extend([self._making.module] * new)
        finally:
            self._making = None
        return out

    def _origin(self, operator: str) -> Origin:
        backward = self.phase in BACKWARD_PHASES
        recomputed = backward and self._watch.in_forward()
        if backward and not recomputed:
            module, module_class = self._watch.backward_owner()
        else:
            module, module_class = self._watch.forward_owner()
        return Origin(module, module_class, operator, backward=backward and not recomputed, recomputed=recomputed)

    def _name(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()._cdata
        entry = self._live.get(storage)
        if entry is None or entry[0] < len(self.attributed.origins):
            return
        self._fill(entry[0])
        origin = self._making or Origin(self._names.get(storage, ""))
        shape, dtype = tuple(int(length) for length in tensor.shape), str(tensor.dtype).removeprefix("torch.")
        self.attributed.origins.append(replace(origin, shape=shape, dtype=dtype))

    def _fill(self, count: int) -> None:
        """Storages without a tensor: what the running kernel takes for itself."""
        missing = count - len(self.attributed.origins)
        self.attributed.origins.extend([self._making or Origin()] * missing)
