"""A device without memory that autograd and autocast treat as an accelerator: traces CUDA steps on a CPU-only torch.

Built on torch's Python back end for PrivateUse1 (no compiler). Autocast rules are CUDA's: the operator lists are read
from the installed torch headers (include/ATen/autocast_mode.h), so they follow the installed version.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

NAME = "fakegpu"
_KEY = "AutocastPrivateUse1"
_libraries: list[torch.library.Library] = []
_casts: dict[int, tuple[Any, torch.Tensor]] = {}


@functools.cache
def register() -> str:
    """Register the stand-in once per process; returns its device type."""
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def is_bf16_supported(self, *args: Any, **kwargs: Any) -> bool:
            return True

        def device_count(self) -> int:
            return 1

        def current_device(self) -> int:
            return 0

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    _register_autocast()
    _register_kernels()
    return NAME


def _register_kernels() -> None:
    """Keep torch from splitting operators that CUDA runs as one kernel.

    These have a kernel of their own on CUDA and a composite one for all other devices (native_functions.yaml); a kernel
    for the stand-in, which fake tensors never reach, makes autograd take them whole.
    """
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    for name in ("silu_backward", "mish_backward"):
        library.impl(name, lambda grad, values: torch.empty_like(values), "PrivateUse1")


def _register_autocast() -> None:
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, _KEY)
    library = torch.library.Library("aten", "IMPL")
    _libraries.extend((fallback, library))
    header = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text(encoding="utf-8")
    wrappers = {
        "AT_FORALL_LOWER_PRECISION_FP": _to_lower,
        "AT_FORALL_FP32": _to_fp32,
        "AT_FORALL_FP32_SET_OPT_DTYPE": _to_optional_fp32,
        "AT_FORALL_PROMOTE": _to_widest,
    }
    for macro, wrapper in wrappers.items():
        for name, overload in _listed_operators(header, macro):
            packet = getattr(torch.ops.aten, name, None)
            operator = getattr(packet, overload or "default", None)
            if operator is not None:
                library.impl(f"{name}.{overload}" if overload else name, wrapper(operator), _KEY)
    clear = torch.clear_autocast_cache

    def clear_both() -> None:
        _casts.clear()
        clear()

    torch.clear_autocast_cache = clear_both


def _listed_operators(header: str, macro: str) -> list[tuple[str, str]]:
    match = re.search(rf"#define {macro}\(_\)(.*?)(?:\n\n|\n#)", header, re.S)
    if match is None:
        raise RuntimeError(f"torch {torch.__version__}: autocast_mode.h has no {macro}; tracing for CUDA needs it")
    return re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", match[1])


def _eligible(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.device.type == NAME
        and value.dtype != torch.float64
    )


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """As at::autocast::cached_cast: leaf fp32 parameters are cast once per forward pass."""
    if isinstance(value, list | tuple):
        return type(value)(_cast(item, dtype) for item in value)
    if not _eligible(value) or value.dtype == dtype:
        return value
    lower = torch.get_autocast_dtype(NAME)
    cacheable = dtype == lower and value.dtype == torch.float32 and value.requires_grad and value.is_leaf
    if not (cacheable and not value._is_view() and torch.is_autocast_cache_enabled()):
        return value.to(dtype)
    entry = _casts.get(id(value))
    if entry is None or entry[0]() is not value:
        entry = _casts[id(value)] = (weakref.ref(value), value.to(dtype))
    return entry[1]


def _call(operator: Any, dtype: torch.dtype, args: Any, kwargs: Any) -> Any:
    """Cast from the last argument to the first, as torch's compiled wrappers do: it decides which block is free."""
    cast = {name: _cast(value, dtype) for name, value in reversed(kwargs.items())}
    return operator(*reversed([_cast(value, dtype) for value in reversed(args)]), **cast)


def _excluded() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1))


def _to_lower(operator: Any) -> Callable[..., Any]:
    def autocast(*args: Any, **kwargs: Any) -> Any:
        with _excluded():
            return _call(operator, torch.get_autocast_dtype(NAME), args, kwargs)

    return autocast


def _to_fp32(operator: Any) -> Callable[..., Any]:
    def autocast(*args: Any, **kwargs: Any) -> Any:
        with _excluded():
            return _call(operator, torch.float32, args, kwargs)

    return autocast


def _to_optional_fp32(operator: Any) -> Callable[..., Any]:
    position = [argument.name for argument in operator._schema.arguments].index("dtype")

    def autocast(*args: Any, **kwargs: Any) -> Any:
        with _excluded():
            given = args[position] if len(args) > position else kwargs.get("dtype")
            if _eligible(args[0]) and given is None:
                if len(args) > position:
                    args = (*args[:position], torch.float32, *args[position + 1 :])
                else:
                    kwargs = {**kwargs, "dtype": torch.float32}
            return operator(*args, **kwargs)

    return autocast


def _to_widest(operator: Any) -> Callable[..., Any]:
    def autocast(*args: Any, **kwargs: Any) -> Any:
        with _excluded():
            eligible = [t for t in tree_leaves((args, kwargs)) if _eligible(t)]
            widest = (
                torch.float32 if any(t.dtype == torch.float32 for t in eligible) else torch.get_autocast_dtype(NAME)
            )
            return _call(operator, widest, args, kwargs)

    return autocast
