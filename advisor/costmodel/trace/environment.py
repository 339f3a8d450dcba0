"""Makes fake tensors behave like the device a step will really run on, and undoes it afterwards.

Two semantics: ``cpu`` (plain CPU fakes decompose exactly as the CPU does) and ``cuda`` (the operators that CUDA would
run). For the latter a machine with a GPU uses fake ``cuda`` tensors; elsewhere a Python-only device stands in
(``cuda_standin``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch._meta_registrations
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from advisor.costmodel.trace.attention import CudaAttention
from advisor.costmodel.trace.flash_package import flash_package
from advisor.costmodel.trace.peft_fakes import EveryElement, peft_patches

CPU_RNG_STATE_BYTES = torch.get_rng_state().numel()
"""What gradient checkpointing keeps per checkpoint in host memory (the Mersenne twister's state)."""


def tracing_device_type(semantics: str) -> str:
    """The device type that fake tensors carry: ``"cpu"``, ``"cuda"``, or the stand-in's name."""
    if semantics == "cpu":
        return "cpu"
    if _starts_cuda():
        return "cuda"
    from advisor.costmodel.trace import cuda_standin

    return cuda_standin.register()


@functools.cache
def _starts_cuda() -> bool:
    """Whether there is a GPU with room for this process's context, which is made now: a backward pass of fake tensors
    needs one, and not every version of torch sees to it (``torch._subclasses.fake_tensor.init_gpu_context``).
    """
    if not torch.cuda.is_available():
        return False
    try:
        torch.empty(1, device="cuda")
    except (RuntimeError, AssertionError):  # full, or of no use: what a step takes there can be told all the same
        return False
    return True


@contextlib.contextmanager
def fake_device(semantics: str, compute_capability: tuple[int, int] | None) -> Iterator[str]:
    """Enter fake mode with the right device's behaviour; yields its device type.

    No default device is set, as in a real run: build the model under ``torch.device`` yourself.

    Args:
        semantics: ``"cpu"`` or ``"cuda"``.
        compute_capability: Of the CUDA device; decides which attention kernel runs.
    """
    device_type = tracing_device_type(semantics)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        for patch in _patches(device_type):
            stack.enter_context(patch)
        if semantics == "cuda":
            attention = CudaAttention(device_type, compute_capability or (8, 0))
            stack.enter_context(patched(torch.nn.functional, "scaled_dot_product_attention", attention))
            stack.enter_context(flash_package())
            stack.enter_context(_grouped_products(compute_capability or (8, 0)))
        # The engine counted device threads at the process's first backward, perhaps before the stand-in was there.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(EveryElement())
        yield device_type


def _patches(device_type: str) -> Iterator[Any]:
    """What stands between the libraries and fake tensors; each is undone when the trace ends."""
    import transformers.masking_utils

    # PEFT deep-copies the head: its parameters' fake mode must not be cloned with it.
    yield patched(FakeTensorMode, "__deepcopy__", lambda self, memo: self)
    # Module.to() swaps tensors, which a weak reference (ours) forbids.
    yield patched(torch.utils, "swap_tensors", _swap_or_assign(torch.utils.swap_tensors))
    # Under a dispatch mode transformers believes it is being exported and keeps a mask it would really drop.
    if hasattr(transformers.masking_utils, "is_tracing"):
        yield patched(transformers.masking_utils, "is_tracing", lambda *_: False)
    # Optimizers and clipping choose their multi-tensor kernels by the exact tensor type.
    for name in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
        module: Any = importlib.import_module(name)
        yield patched(module, "_foreach_supported_types", [*module._foreach_supported_types, FakeTensor])
    # The fake of grouped products knows bfloat16 only; the kernels take any type (and loop over the groups).
    if hasattr(torch._meta_registrations, "_meta_grouped_mm_common"):
        common = torch._meta_registrations._meta_grouped_mm_common
        yield patched(torch._meta_registrations, "_meta_grouped_mm_common", _any_type_grouped(common))
    # A checkpoint keeps the generator's state; the real one is a host tensor that fake mode does not see.
    for module in (torch, torch.random):
        yield patched(module, "get_rng_state", _fake_rng_state)
        yield patched(module, "set_rng_state", lambda state: None)
    yield from (patched(*patch) for patch in peft_patches())
    if device_type not in ("cpu", "cuda"):
        # torch.tensor(...) must not be materialised on a device that has no memory.
        yield patched(FakeTensorMode, "avoid_device_init", property(lambda self: True))


def _any_type_grouped(common: Any) -> Any:
    def grouped(first: torch.Tensor, second: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The result of a grouped product; what is not bfloat16 borrows the shapes of what is."""
        if first.dtype in (torch.float32, torch.float16):
            as_half = [t.new_empty_strided(t.size(), t.stride(), dtype=torch.bfloat16) for t in (first, second)]
            half: torch.Tensor = common(*as_half, *args, **kwargs)
            return half.new_empty_strided(half.size(), half.stride(), dtype=first.dtype)
        result: torch.Tensor = common(first, second, *args, **kwargs)
        return result

    return grouped


@contextlib.contextmanager
def _grouped_products(compute_capability: tuple[int, int]) -> Iterator[None]:
    """Mixtures of experts: one grouped product over the tokens sorted by expert, or transformers' loop before Ampere.

    Neither has a shape that depends on the routing: every token goes to its top experts, and all of these rows are kept
    together. Only the speed of the groups assumes that they are of equal size.
    """
    from transformers.integrations import moe

    if not hasattr(moe, "_can_use_grouped_mm"):
        yield
        return
    with patched(moe, "_can_use_grouped_mm", lambda *_: compute_capability >= (8, 0)):
        yield


def _fake_rng_state() -> torch.Tensor:
    """Of the size of a CPU generator's state, in host memory (counted in CPU semantics only)."""
    return torch.empty(CPU_RNG_STATE_BYTES, dtype=torch.uint8, device="cpu")


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace one attribute for the length of a ``with`` block."""
    missing = object()
    previous = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if previous is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, previous)


def _swap_or_assign(swap: Any) -> Any:
    def swapped(first: torch.Tensor, second: torch.Tensor) -> None:
        if first.device.type == second.device.type and first.dtype == second.dtype:
            return
        try:
            swap(first, second)
        except RuntimeError:
            first.data = second.data
            first.fake_device = second.fake_device

    return swapped


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say about a model without weights; a trace is not a run."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
