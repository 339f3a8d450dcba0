"""What a tensor is for, in the words of the field: told from its kind, its module, its operator and its shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from advisor.core.model import ModelSpec
from advisor.costmodel.explain.records import Timeline
from advisor.tracing.attribution import AttributedRecording, Origin
from advisor.tracing.recorder import Storage
from advisor.tracing.symbolic_trace import KINDS

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


# --------------------
# Live bytes over a step, thinned to what a picture can show without losing a peak.

MOMENTS = 600
"""Moments of a thinned timeline: about one for two pixels of its picture."""
_BEFORE_STEP = ("weights", "states")


def thinned_timeline(recording: AttributedRecording, rounded: list[int], peak: int, extra_batch_bytes: int) -> Timeline:
    """Of each stretch of events the moment with most live bytes, and the peak itself.

    Stretches end at phase borders. What was there before the step (weights, optimizer states) is one moment.
    """
    live = _live_by_kind(recording, rounded)
    live[:, KINDS.index("activation")] += extra_batch_bytes
    totals = live.sum(axis=1)
    bounds = _stretches([phase for *_, phase in recording.events])
    moments: list[int] = []
    phases: list[tuple[str, int]] = []
    for name, start, stop in bounds:
        best = start + int(np.argmax(totals[start:stop]))
        best = peak if start <= peak < stop else best
        if not phases or phases[-1][0] != name:
            phases.append((name, len(moments)))
        moments.append(best)
    return Timeline(
        kinds=tuple(KIND_NAMES[kind] for kind in KINDS),
        live_bytes=tuple(tuple(int(n) for n in live[moment]) for moment in moments),
        events=tuple(moments),
        phases=tuple(phases),
        places=tuple(_place(recording, moment) for moment in moments),
        peak_index=moments.index(peak),
    )


def _live_by_kind(recording: AttributedRecording, rounded: list[int]) -> np.ndarray:
    signs = np.array([sign for sign, _, _ in recording.events], dtype=np.int64)
    numbers = np.array([number for _, number, _ in recording.events], dtype=np.int64)
    kinds = np.array([KINDS.index(storage.kind) for storage in recording.storages], dtype=np.int64)
    steps = np.zeros((len(signs), len(KINDS)), dtype=np.int64)
    steps[np.arange(len(signs)), kinds[numbers]] = signs * np.array(rounded, dtype=np.int64)[numbers]
    return steps.cumsum(axis=0)


def _stretches(phases: list[str]) -> list[tuple[str, int, int]]:
    """``(phase, first event, end)`` of every stretch."""
    borders = [0, *(i for i in range(1, len(phases)) if phases[i] != phases[i - 1]), len(phases)]
    width = max(1, len(phases) // MOMENTS)
    found = []
    for start, stop in itertools.pairwise(borders):
        if phases[start] in _BEFORE_STEP:
            found.append((phases[start], stop - 1, stop))
            continue
        found.extend((phases[start], first, min(first + width, stop)) for first in range(start, stop, width))
    return found


def _place(recording: AttributedRecording, index: int) -> str:
    """What the event was: ``"+ model.layers.3.mlp mm"``."""
    sign, number, _ = recording.events[index]
    origin = recording.origins[number]
    where = (
        " ".join(part for part in (origin.module, origin.operator) if part)
        or KIND_NAMES[recording.storages[number].kind]
    )
    return f"{'allocates' if sign > 0 else 'frees'} {where}"
