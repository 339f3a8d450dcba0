"""What a tensor is for, in the words of the field: told from its kind, its module, its operator and its shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from advisor.core.model import ModelSpec
from advisor.costmodel.trace.attribution import Origin
from advisor.costmodel.trace.recorder import Storage

KIND_NAMES = {
    "weight": "weights",
    "gradient": "gradients",
    "optimizer_state": "optimizer states",
    "activation": "activations",
    "temporary": "temporaries",
}
OUTSIDE = "outside the layers"

_WIDTHS = ("intermediate_size", "ffn_dim", "hidden_dim", "n_inner", "d_ff", "moe_intermediate_size")
"""Names under which configurations keep the inner width of the feed-forward block."""
_ATTENTION_OPERATORS = ("scaled_dot_product", "flash_attention", "efficient_attention")


@dataclass(frozen=True)
class Dimensions:
    """Sizes by which shapes are recognised."""

    seq_length: int
    vocab_size: int
    intermediate_sizes: frozenset[int]
    hidden_size: int
    parameter_shapes: frozenset[tuple[int, ...]]

    @classmethod
    def of(cls, model: ModelSpec, seq_length: int, parameter_shapes: Iterable[tuple[int, ...]]) -> Dimensions:
        """From the model's configuration; GPT-2 leaves its inner width at four times the outer one."""
        widths = {int(model.config[key]) for key in _WIDTHS if isinstance(model.config.get(key), int)}
        inner = frozenset(widths or {4 * model.hidden_size})
        inner |= {2 * width for width in inner}  # gate and up projection in one
        return cls(seq_length, model.vocab_size, inner, model.hidden_size, frozenset(parameter_shapes))


def role_of(storage: Storage, origin: Origin, sizes: Dimensions) -> str:
    """What the storage is for; gradients of activations are named after the activation's role."""
    if storage.kind in ("weight", "gradient", "optimizer_state"):
        return KIND_NAMES[storage.kind]
    if storage.kind == "temporary":
        return "kernel workspace"
    if origin.backward and origin.shape in sizes.parameter_shapes:
        return "weight gradient before it is added"
    role = _activation_role(origin, sizes)
    return f"gradient of {role}" if origin.backward else role


def stack_of(name: str) -> tuple[str, int] | None:
    """The dotted name of the stack of layers that a module belongs to, and its number in it."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:index]), int(part)
    return None


def without_numbers(name: str) -> str:
    """The same place in every layer: ``"model.layers.*.mlp.up_proj"``."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _activation_role(origin: Origin, sizes: Dimensions) -> str:
    shape, operator = origin.shape, origin.operator
    path, leaf = origin.module.lower(), origin.module_class.lower()
    last = shape[-1] if shape else 0
    if _is_mask(origin):
        return "dropout mask"
    if last == sizes.vocab_size and last > sizes.hidden_size // 2:
        return "logits"
    if any(name in operator for name in _ATTENTION_OPERATORS):
        return "attention output" if len(shape) == 4 and origin.dtype != "int64" else "attention statistics"
    if len(shape) >= 3 and shape[-2:] == (sizes.seq_length, sizes.seq_length):
        return _square_role(path, shape)
    if any(mark in path for mark in ("lora_", "hada_", "ia3_", "hira_", "adapter")):
        return "adapter activations"
    return _by_module(path, leaf, last, sizes)


def _square_role(path: str, shape: tuple[int, ...]) -> str:
    inside = "attn" in path or "attention" in path
    return "attention scores" if inside and (len(shape) == 3 or shape[1] > 1) else "attention mask"


def _is_mask(origin: Origin) -> bool:
    drawn = origin.operator in ("native_dropout", "bernoulli", "bernoulli_") and origin.dtype == "bool"
    # On CPU the mask is drawn into an empty tensor of the activation's own type.
    return drawn or ("dropout" in origin.module_class.lower() and origin.operator in ("empty_like", "bernoulli"))


def _by_module(path: str, leaf: str, last: int, sizes: Dimensions) -> str:
    if not path:
        return "batch and loss"
    if "norm" in leaf or "norm" in path.rpartition(".")[2]:
        return "normalisation"
    if last in sizes.intermediate_sizes:
        return "MLP intermediate"
    if "embed" in path or "embedding" in leaf:
        return "embeddings"
    if any(mark in path for mark in ("attn", "attention", "crossattention")):
        return "attention projections"
    return "hidden states" if last == sizes.hidden_size else "other activations"
