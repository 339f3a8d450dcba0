"""Which data types, attention kernels and optimizers are open to a strategy on a device, in the order to try them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import (
    BITSANDBYTES_OPTIMIZERS,
    Amp,
    AttentionImplementation,
    Dtype,
    ExecutionPlan,
    Loss,
    Optimizer,
)
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.strategies import Strategy, get_strategy
from advisor.strategies.skeleton import attention_implementations

LARGE_DECODER_PARAMETERS = 1_000_000_000
"""From here on decoders are published, and their adapters trained, in half precision (Llama, Mistral and Qwen model
cards)."""

WORTHWHILE_HALF_SPEED = 1.3
"""bf16 mixed precision casts weights and activations on every step; below this matrix speed-up on a CPU it cannot
pay."""

FUSED_NOTE = "output projection and loss in chunks"
BYTES_PER_LOGIT = 16
"""At most held per logit by the standard loss: half-precision logits and their gradient, and three float32 copies (the
up-cast, its log-softmax, its gradient; transformers' ``ForCausalLMLoss``)."""

_DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PrecisionPolicy:
    """Data types and optimizer: one step of the precision_policies from the preferred set-up to the smallest one.

    Attributes:
        dtype, amp, optim, loss: As in ``ExecutionPlan``.
        note: What is given up against the rung before; empty for the first.
    """

    dtype: Dtype
    amp: Amp
    optim: Optimizer = "adamw_torch_fused"
    note: str = ""
    loss: Loss = "standard"

    def least_bytes(self, model: ModelSpec, method: Strategy) -> int:
        """Memory that is needed whatever the batch: weights, and for full fine-tuning gradients and AdamW's two
        moments.

        Sources: torch.optim.AdamW keeps two moments in the parameter's data type; bitsandbytes keeps them in one byte
            each (block statistics left out), paged ones may lie in host memory.
        """
        if method.stores_4bit_weights:
            return 0
        size = _DTYPE_BYTES[self.dtype]
        moments = {"adamw_bnb_8bit": 2, "paged_adamw_8bit": 0}.get(self.optim, 2 * size)
        per_parameter = size + (size + moments if method.trains_all_weights else 0)
        return model.total_parameters * per_parameter


def is_decoder(model: ModelSpec) -> bool:
    """Whether the backbone is a decoder: a language-modelling task, or an architecture that says so."""
    names = model.config.get("architectures") or []
    return model.traits.predicts_next_token or any("CausalLM" in str(name) for name in names)


def is_frozen_base(strategy: StrategyConfig) -> bool:
    """Whether only adapters (kept in float32 by PEFT) and the head train, so that half-precision weights lose no
    updates.
    """
    return not get_strategy(strategy.method).trains_base_weights


def precision_policies(
    device: DeviceProfile, model: ModelSpec, strategy: StrategyConfig
) -> tuple[PrecisionPolicy, ...]:
    """Rungs in the order to try them: for language models each data type and optimizer also with the fused-linear loss,
    which recomputes the logits in chunks and is slower.
    """
    rungs = _precisions(device, model, strategy)
    if not model.traits.predicts_next_token:
        return rungs
    return tuple(step for rung in rungs for step in (rung, replace(rung, loss="fused-linear", note=FUSED_NOTE)))


def _precisions(device: DeviceProfile, model: ModelSpec, strategy: StrategyConfig) -> tuple[PrecisionPolicy, ...]:
    """Data types and optimizers in the order to try them.

    On a card adapters and decoders above 1B get half-precision weights where the device has bfloat16; what trains the
    weights themselves keeps float32 master weights under mixed precision, then 8-bit moments, then pure bfloat16.
    float16 weights only hold adapters: the gradient scaler refuses trainable float16 parameters
    (torch.amp.GradScaler).
    """
    if not backend_of(device).setups.half_precision:
        return (PrecisionPolicy("float32", "none"),)
    frozen = is_frozen_base(strategy)
    large = is_decoder(model) and model.total_parameters > LARGE_DECODER_PARAMETERS
    if "bfloat16" in device.dtypes:
        pure = PrecisionPolicy("bfloat16", "none", note="pure bfloat16 weights instead of float32 master weights")
        if frozen:
            return (PrecisionPolicy("bfloat16", "bf16"),)
        if large and not get_strategy(strategy.method).trains_all_weights:
            return (PrecisionPolicy("bfloat16", "bf16"), _eight_bit(PrecisionPolicy("bfloat16", "bf16")))
        master = PrecisionPolicy("float32", "bf16")
        return (master, _eight_bit(master), pure, _eight_bit(pure), _paged(pure))
    if "float16" in device.dtypes:
        if frozen:
            return (PrecisionPolicy("float16", "fp16"),)
        return (
            PrecisionPolicy("float32", "fp16"),
            _eight_bit(PrecisionPolicy("float32", "fp16")),
            _paged(PrecisionPolicy("float32", "fp16")),
        )
    return (PrecisionPolicy("float32", "none"), _eight_bit(PrecisionPolicy("float32", "none")))


def cpu_precisions(device: DeviceProfile) -> tuple[PrecisionPolicy, ...]:
    """What to compare on a CPU: float32, and bf16 mixed precision where the probe found it clearly faster."""
    plain, half = device.flops_per_s.get("float32"), device.flops_per_s.get("bfloat16")
    rungs: tuple[PrecisionPolicy, ...] = (PrecisionPolicy("float32", "none"),)
    if plain and half and "bfloat16" in device.dtypes and half.value >= WORTHWHILE_HALF_SPEED * plain.value:
        rungs += (PrecisionPolicy("float32", "bf16"),)
    return rungs


def attention_kernels(
    device: DeviceProfile, model: ModelSpec, rung: PrecisionPolicy, *, separate_documents: bool = False
) -> tuple[AttentionImplementation, ...]:
    """Kernels to try, preferred first: flash attention 2 where architecture, device, data type, package and batches
    allow it, SDPA, eager.
    """
    supported = attention_implementations(model)
    half = rung.dtype != "float32" or rung.amp != "none"
    setups = backend_of(device).setups
    there = "flash_attention_2" in setups.attention and "flash" in device.attention_kernels
    flash = there and half and not separate_documents and "flash_attention_2" in supported
    usual: AttentionImplementation = "sdpa" if "sdpa" in supported else "eager"
    if flash and importlib.util.find_spec("flash_attn") is not None:
        return ("flash_attention_2", usual)
    return ("sdpa", "eager") if usual == "sdpa" and setups.compared else (usual,)


def describe(execution: ExecutionPlan) -> str:
    """``"micro-batch 4 with checkpointing"``: how a plan is named in reasons."""
    text = f"micro-batch {execution.micro_batch_size}"
    if execution.gradient_checkpointing:
        text += " with checkpointing"
    if execution.optim in BITSANDBYTES_OPTIMIZERS:
        text += ", 8-bit optimizer states" if execution.optim == "adamw_bnb_8bit" else ", paged 8-bit optimizer states"
    if execution.dtype == "bfloat16" and execution.amp == "none":
        text += ", pure bfloat16"
    if execution.loss == "fused-linear":
        text += ", fused-linear loss"
    return text


def _eight_bit(rung: PrecisionPolicy) -> PrecisionPolicy:
    return PrecisionPolicy(rung.dtype, rung.amp, "adamw_bnb_8bit", "8-bit optimizer states")


def _paged(rung: PrecisionPolicy) -> PrecisionPolicy:
    return PrecisionPolicy(rung.dtype, rung.amp, "paged_adamw_8bit", "optimizer states paged to host memory")
