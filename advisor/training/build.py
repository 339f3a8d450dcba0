"""The one way to build what is trained: model, adapter, 4-bit weights, checkpointing.

The run and the cost model both call ``build_model``, so that what is predicted is what is executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advisor.core.errors import InputError, ModelError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import Quantization, StrategyConfig
from advisor.hardware.backends import HOST, is_host
from advisor.hardware.host_process import hand_back_freed_memory
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import (
    attention_implementations,
    auto_class,
    build_skeleton,
    model_config,
    usual_attention,
)
from advisor.strategies.targets import backbone_linears, head_linears, head_modules
from advisor.training.hub import forbid_kernel_downloads
from advisor.training.kept_prefix import skip_frozen_layers
from advisor.training.loss import fuse_output_projection
from advisor.training.preferences import settle_model
from advisor.training.switches import (
    check_execution,
    enable_checkpointing,
    freeze_first_factors,
    prepare_for_scaling,
    upcast_unquantized,
)


def build_model(
    spec: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    *,
    device: str = HOST,
    empty: bool = False,
    num_hidden_layers: int | None = None,
) -> nn.Module:
    """Build the model to train, in training mode.

    Args:
        spec: The model.
        strategy: The method and its knobs.
        execution: Data types, attention kernel and checkpointing are read from it.
        device: Where the weights go.
        empty: Build from the configuration alone, without reading or initialising weights. Works under a
            ``FakeTensorMode`` and a ``torch.device`` context that the caller has entered.
        num_hidden_layers: Overrides the depth (``empty`` or a source without weights only).

    Returns:
        A transformers model, or a PEFT model around one. A bare configuration that is not ``empty`` is initialised at
        random, from the seed that the caller has set.

    Raises:
        ModelError, InputError: the model or the method cannot be built.
    """
    method = get_strategy(strategy.method)
    check_execution(spec, strategy, execution, device_type=torch.device(device).type, traced=empty)
    base = build_base(spec, strategy, execution, device=device, empty=empty, num_hidden_layers=num_hidden_layers)
    quantized = bool(getattr(base, "is_loaded_in_4bit", False))
    if execution.kbit_upcast:
        upcast_unquantized(base)
    if quantized:
        from advisor.training.quantization import settle_biases

        settle_biases(base)
    model = method.apply(base, strategy, spec.task, quantized=quantized)
    if not spec.traits.accepts_loss_kwargs:
        # These heads take keyword arguments but average over their own micro-batch: without this the Trainer would
        # believe that they had divided by the whole batch, and accumulation would multiply the gradients.
        base.accepts_loss_kwargs = False
    if spec.traits.learns_preferences:
        settle_model(model)
    if execution.gradient_checkpointing:
        enable_checkpointing(base, method, reentrant=execution.reentrant_checkpointing)
    if execution.keep_features:
        skip_frozen_layers(spec, model, strategy)
    if execution.optim == "lorafa":
        freeze_first_factors(model)
    if execution.loss == "fused-linear":
        fuse_output_projection(base)
    if not method.fits_frozen_features:  # which takes no step that gradients could be scaled for
        prepare_for_scaling(model, execution)
    if not empty and is_host(device):
        hand_back_freed_memory()
    model.train()
    return model


def build_base(
    spec: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    *,
    device: str = HOST,
    empty: bool = False,
    num_hidden_layers: int | None = None,
) -> nn.Module:
    """The model before the method is applied, quantised if the method asks for it."""
    forbid_kernel_downloads()
    quantization = _quantization(strategy, execution, device)
    options: dict[str, Any] = {
        "dtype": getattr(torch, execution.dtype),
        "attn_implementation": execution.attn_implementation,
        "trust_remote_code": spec.trust_remote_code,
    }
    _check_attention(spec, execution)
    try:
        if empty or spec.kind == "config":
            model = _from_config(spec, options, device, empty, num_hidden_layers)
        else:
            model = _from_weights(spec, options, quantization, device)
        if quantization is not None:
            from advisor.training.quantization import keep_unpacked_on_cpu, quantize_linears

            if not getattr(model, "is_loaded_in_4bit", False):
                quantize_linears(model, quantization, quantizable_linears(model))
            keep_unpacked_on_cpu(model)
    except (ValueError, ImportError, OSError) as failure:
        raise ModelError(
            f"{spec.source} cannot be built with {execution.attn_implementation}, {execution.dtype}: {failure}"
        ) from failure
    return model


def _check_attention(spec: ModelSpec, execution: ExecutionPlan) -> None:
    supported = attention_implementations(spec)
    if execution.attn_implementation not in supported:
        raise InputError(
            f"attn_implementation must be {' or '.join(supported)} for {spec.model_type}, "
            f"but got {execution.attn_implementation}",
            fix=f"plan with {usual_attention(spec)}",
        )


def _quantization(strategy: StrategyConfig, execution: ExecutionPlan, device: str) -> Quantization | None:
    """The method's 4-bit storage; on CUDA it computes in the data type that the plan computes in."""
    wanted = get_strategy(strategy.method).quantization(strategy)
    if wanted is None or is_host(device):
        return wanted
    compute_dtype = {"bf16": "bfloat16", "fp16": "float16", "none": execution.dtype}[execution.amp]
    return replace(wanted, compute_dtype=compute_dtype)


def _from_config(
    spec: ModelSpec,
    options: dict[str, Any],
    device: str,
    empty: bool,
    num_hidden_layers: int | None,
) -> nn.Module:
    from transformers.initialization import no_init_weights

    config = model_config(spec, num_hidden_layers=num_hidden_layers)
    if empty:
        with no_init_weights(), _without_kernel_checks():
            model: nn.Module = auto_class(spec.task).from_config(config, **options)
            model.tie_weights()
    else:
        with torch.device(device):  # drawn where it will train: on the host an 8B model takes minutes and 32 GB
            drawn = auto_class(spec.task).from_config(config, **options)
        model = drawn.to(device)
    return model


def quantizable_linears(model: nn.Module) -> tuple[str, ...]:
    """Linear layers that 4-bit storage replaces: all but the head, the output projection, and what must stay float32.

    The last are transformers' own exceptions (T5's ``wo``, whose weight's type the model itself looks at).
    """
    kept = set(head_linears(model))
    exceptions = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return tuple(name for name in backbone_linears(model) if name not in kept and not exceptions & set(name.split(".")))


def _from_weights(
    spec: ModelSpec, options: dict[str, Any], quantization: Quantization | None, device: str
) -> nn.Module:
    import transformers

    from advisor.training.sources import DEQUANTIZED_WHILE_LOADING, stored_quantization

    if not spec.has_weights:
        raise ModelError(
            f"training needs weights, but {spec.source} has none", fix="name a folder or hub id with weights"
        )
    source = str(Path(spec.source).expanduser()) if spec.kind != "hub" else spec.source
    options |= {"config": model_config(spec), "revision": spec.revision or "main", "ignore_mismatched_sizes": True}
    if spec.kind == "gguf":
        from transformers import GgufConfig

        path = Path(source)
        source, options["gguf_file"] = str(path.parent), path.name
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["use_safetensors"] = None if spec.allow_pickle else True
        if (stored := stored_quantization(spec.config)) is not None:
            options["quantization_config"] = getattr(transformers, DEQUANTIZED_WHILE_LOADING[stored])(dequantize=True)
    if quantization is not None and spec.kind != "gguf":
        from advisor.training.quantization import bitsandbytes_config

        skeleton = build_skeleton(spec)
        skip = dict.fromkeys([*head_modules(skeleton), *head_linears(skeleton)])
        options |= {"quantization_config": bitsandbytes_config(quantization, skip), "device_map": {"": device}}
    model: nn.Module = auto_class(spec.task).from_pretrained(source, **options)
    return model if quantization is not None else model.to(device)


@contextlib.contextmanager
def _without_kernel_checks() -> Iterator[None]:
    """Let a model be built for an attention kernel whose package is not installed here; its step is never executed."""
    from transformers import PreTrainedModel

    original = PreTrainedModel._check_and_adjust_attn_implementation

    def accept(self: Any, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        if attn_implementation == "flash_attention_2" and self._supports_flash_attn:
            return attn_implementation
        return original(self, attn_implementation, *args, **kwargs)

    PreTrainedModel._check_and_adjust_attn_implementation = accept
    try:
        yield
    finally:
        PreTrainedModel._check_and_adjust_attn_implementation = original
