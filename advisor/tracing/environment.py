"""Makes fake tensors behave like the device a step will really run on, and undoes it afterwards.

Two semantics, each named by its back end: the host's (plain CPU fakes decompose exactly as the CPU does) and a card's
(the operators that CUDA would run). For the latter a machine with a GPU uses fake ``cuda`` tensors; elsewhere a
Python-only device stands in (``fake_device``).
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
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from advisor.hardware.backends import HOST, get_backend
from advisor.tracing import fake_device as stand_in
from advisor.tracing.fake_flash_attention import flash_package
from advisor.tracing.fake_peft import EveryElement, peft_patches

CPU_RNG_STATE_BYTES = torch.get_rng_state().numel()
"""What gradient checkpointing keeps per checkpoint in host memory (the Mersenne twister's state)."""


def tracing_device_type(semantics: str) -> str:
    """The device type that fake tensors carry: what torch calls the back end's device, or the stand-in's name."""
    backend = get_backend(semantics)
    if backend.is_host or _starts_cuda():
        return backend.torch_device
    return stand_in.register()


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
    """
    device_type = tracing_device_type(semantics)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        for patch in _patches(device_type):
            stack.enter_context(patch)
        if not get_backend(semantics).is_host:
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
    # Of a scalar buffer (Gemma's scale of embeddings) a fake tensor remembers the value, which cannot be copied there.
    yield patched(FakeTensor, "__deepcopy__", _copied_without_value)
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
    if device_type == stand_in.NAME:
        # torch.tensor(...) must not be materialised on a device that has no memory.
        yield patched(FakeTensorMode, "avoid_device_init", property(lambda self: True))
        # Some results have another layout on CUDA: of a singular value decomposition the rows of Vh lie in one piece,
        # and a method that keeps a few of them (PSOFT) keeps the storage of all.
        if hasattr(torch._meta_registrations, "device_hint"):
            yield patched(torch._meta_registrations, "device_hint", _as_on_cuda(torch._meta_registrations.device_hint))


def _copied_without_value(tensor: FakeTensor, memo: dict[int, Any]) -> torch.Tensor:
    value, tensor.constant = tensor.constant, None
    try:
        return torch.Tensor.__deepcopy__(tensor, memo)
    finally:
        tensor.constant = value


def _as_on_cuda(device_hint: Any) -> Any:
    def hint(tensor: Any) -> str:
        """What torch's shape functions take a tensor's device for; the stand-in is taken for CUDA."""
        device_type: str = device_hint(tensor)
        return "cuda" if device_type == stand_in.NAME else device_type

    return hint


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
    return torch.empty(CPU_RNG_STATE_BYTES, dtype=torch.uint8, device=HOST)


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


# --------------------
# The scaled-dot-product kernel that a CUDA device would choose, called directly so that its saved tensors are traced.
#
# Source of the rules: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (priority flash, memory-efficient, math).
# From compute capability 9.0 on torch 2.11 puts cuDNN's kernel first (half precision, heads of at most 128 values, no
# dropout or a multiple of 1/16 of it). It keeps the same tensors for the backward pass as flash attention, query, key,
# value, output and log-sum-exp, so that flash attention stands for it here; what it takes is another matter, which a
# probe finds out (``DeviceRates``).

aten = torch.ops.aten
_ORIGINAL = F.scaled_dot_product_attention

FLASH_MAX_HEAD_WIDTH = 256
"""Flash attention refuses wider heads (sdp_utils.cpp, check_head_dim_size_flash)."""


class CudaAttention:
    """Replaces ``F.scaled_dot_product_attention`` while tracing for CUDA."""

    def __init__(self, device_type: str, compute_capability: tuple[int, int]) -> None:
        self.device_type = device_type
        self.ampere = compute_capability >= (8, 0)

    def kernel(self, query: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> str:
        """``"flash"``, ``"efficient"`` or ``"math"`` for these inputs."""
        half = query.dtype in (torch.float16, torch.bfloat16)
        width, value_width = query.shape[-1], value.shape[-1]
        if self.ampere and mask is None and half and width == value_width and width <= FLASH_MAX_HEAD_WIDTH:
            return "flash"
        alignment = 8 if half else 4 if self.ampere else 1
        supported = (torch.float16, torch.float32, torch.bfloat16) if self.ampere else (torch.float16, torch.float32)
        if query.dtype in supported and width % alignment == 0 and value_width % alignment == 0:
            return "efficient"
        return "math"

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        query, key, value, attn_mask = self._autocast(query, key, value, attn_mask)
        kernel = self.kernel(query, value, attn_mask)
        with self._without_autocast():
            if kernel == "math":
                return _ORIGINAL(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
            if enable_gqa and kernel == "efficient":
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            if kernel == "flash":
                return _flash(query, key, value, dropout_p, is_causal, scale)
            return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)

    def _autocast(self, query, key, value, mask):  # type: ignore[no-untyped-def]
        if not torch.is_autocast_enabled(self.device_type):
            return query, key, value, mask
        dtype = torch.get_autocast_dtype(self.device_type)
        query, key, value = (x.to(dtype) if x.dtype == torch.float32 else x for x in (query, key, value))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(dtype)
        return query, key, value, mask

    @contextlib.contextmanager
    def _without_autocast(self) -> Iterator[None]:
        previous = torch.is_autocast_enabled(self.device_type)
        torch.set_autocast_enabled(self.device_type, False)
        try:
            yield
        finally:
            torch.set_autocast_enabled(self.device_type, previous)


def _flash(query, key, value, dropout_p, is_causal, scale):  # type: ignore[no-untyped-def]
    width = query.shape[-1]
    pad = -width % 8
    if pad:
        query, key, value = (F.pad(x, (0, pad)) for x in (query, key, value))
    out = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale or width**-0.5
    )[0]
    return out[..., :width] if pad else out


def _efficient(query, key, value, mask, dropout_p, is_causal, scale):  # type: ignore[no-untyped-def]
    if mask is not None:
        if mask.dtype == torch.bool:
            minus_infinity = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
            mask = torch.where(mask, 0.0, minus_infinity)
        length = mask.shape[-1]
        if length % 8:
            # The kernel wants rows aligned to 8 elements; torch pads a copy and slices it.
            mask = F.pad(mask, (0, 8 - length % 8))[..., :length]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs_logsumexp = any(x.requires_grad for x in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_logsumexp, dropout_p, is_causal, scale=scale
    )[0]
