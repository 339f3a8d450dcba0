"""Which depths to trace of a deep stack: its layers repeat, alone or in blocks of several kinds.

Gemma 3 repeats five sliding layers and a full one, ModernBERT a global and two local ones behind a first layer without
norm, Mixtral one kind. The kinds are read off the model itself, built without weights: a layer's modules, their
settings, its parameters' shapes, and the configuration's per-layer lists. Nothing is assumed of an architecture: the
two shallow models are built as well, and must be the deep one with repeated blocks left out, or it is traced whole.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.core.data import padded_length
from advisor.core.memo import recall_structure
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy

if TYPE_CHECKING:
    from torch import nn

CODE = ("advisor.strategies", "advisor.training", "advisor.tracing.repeated_layers")
"""What the depths and windows of a model depend on, besides the model."""

SHALLOW_LAYERS = 2
"""Layers of the shallower trace at least, beyond the uneven ones: with a first and a last layer every repeated
position occurs."""

_INDEX_NAMES = ("idx", "index", "layer_id", "layer_number", "layer_num")
"""Parts of attribute names that only number the layers."""


@dataclass(frozen=True)
class Depths:
    """Two depths that determine a third.

    Attributes:
        shallow: Layers of the shallower trace.
        block: Layers that the deeper trace has more: one block of the repeated kinds.
        repeats: Blocks that the model has more than ``shallow``.
    """

    shallow: int
    block: int
    repeats: int

    @property
    def deeper(self) -> int:
        """Layers of the deeper trace."""
        return self.shallow + self.block


def traced_depths(model: ModelSpec, strategy: StrategyConfig) -> Depths | None:
    """The depths to trace instead of the model's own, or ``None`` when it must be traced whole."""
    uneven = get_strategy(strategy.method).uneven_layers(strategy)
    if uneven is None:
        return None
    key = [model.num_hidden_layers, uneven]
    found = recall_structure("traced depths", model, key, lambda: _depths(model, uneven), code=CODE)
    return Depths(**found) if found is not None else None


def _depths(model: ModelSpec, uneven_layers: int) -> Depths | None:
    from advisor.strategies.skeleton import build_skeleton

    layers = model.num_hidden_layers
    if layers <= SHALLOW_LAYERS:
        return None
    skeleton = build_skeleton(model)
    lists = per_layer_lists(skeleton, layers)
    kinds = layer_kinds(skeleton, layers, lists)
    found = repetition(kinds) if kinds is not None else None
    if kinds is None or found is None:
        return None
    first, block = found
    least = max(SHALLOW_LAYERS, first + block) + uneven_layers
    shallow = least + (layers - least) % block
    depths = Depths(shallow, block, (layers - shallow) // block)
    if depths.deeper >= layers:
        return None
    fewer, more = (layer_kinds(build_skeleton(model, depth), depth, lists) for depth in (shallow, depths.deeper))
    return depths if fewer and more and _is_inserted(fewer, more, kinds, depths) else None


def repetition(kinds: tuple[Hashable, ...]) -> tuple[int, int] | None:
    """``(first layer, block)`` from which on blocks of that many layers repeat to the end; the shortest such start.

    Returns:
        ``None`` when no two blocks are equal.
    """
    best: tuple[int, int] | None = None
    for block in range(1, len(kinds) // 2 + 1):
        first = len(kinds) - block
        while first > 0 and kinds[first - 1] == kinds[first - 1 + block]:
            first -= 1
        if first + 2 * block <= len(kinds) and (best is None or first + block < sum(best)):
            best = (first, block)
    return best


def _is_inserted(
    fewer: tuple[Hashable, ...], more: tuple[Hashable, ...], kinds: tuple[Hashable, ...], depths: Depths
) -> bool:
    """Whether both deeper stacks are the shallow one with copies of one block inserted at one place."""
    for place in range(depths.shallow, -1, -1):
        block = more[place : place + depths.block]
        front, back = fewer[:place], fewer[place:]
        if front + block + back == more and front + block * depths.repeats + back == kinds:
            return True
    return False


def layer_kinds(skeleton: nn.Module, layers: int, lists: tuple[str, ...]) -> tuple[Hashable, ...] | None:
    """What each of ``layers`` layers is; equal kinds run the same operators on the same shapes.

    Of an encoder and a decoder of the same depth, layer i of both makes one kind. Layers that share their weights
    (ALBERT) are no modules of their own: there the configuration alone tells them apart.
    """
    stacks = layer_stacks(skeleton)
    deep = [stack for _, stack in stacks if len(stack) == layers]
    if not deep and any(len(stack) > 1 for _, stack in stacks):
        return None
    # Stacks of another depth must stay as they are (a decoder of fewer layers, a vision tower).
    others = tuple((name, len(stack)) for name, stack in stacks if len(stack) != layers)
    config: Any = skeleton.config
    values = {name: getattr(config.get_text_config(), name) for name in lists}
    if any(len(entries) != layers for entries in values.values()):
        return None
    return tuple(
        (others, tuple(str(entries[index]) for entries in values.values()), *(_kind(stack[index]) for stack in deep))
        for index in range(layers)
    )


def layer_stacks(skeleton: nn.Module) -> list[tuple[str, Any]]:
    """Name and ``ModuleList`` of every stack with parameters that is in no other stack."""
    from torch import nn

    found: list[tuple[str, Any]] = []
    for name, module in skeleton.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer, _ in found):
            continue
        if len(module) and next(module.parameters(), None) is not None:
            found.append((name, module))
    return found


def per_layer_lists(skeleton: nn.Module, layers: int) -> tuple[str, ...]:
    """Names of the configuration's lists that have as many entries as the model has layers (``layer_types``)."""
    config: Any = skeleton.config
    attributes = sorted(vars(config.get_text_config()).items())
    return tuple(name for name, values in attributes if isinstance(values, list | tuple) and len(values) == layers)


def _kind(layer: nn.Module) -> Hashable:
    modules = tuple((name, type(module).__name__, _settings(module)) for name, module in layer.named_modules())
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
    return modules, shapes


def _settings(module: nn.Module) -> Hashable:
    """Plain attributes; of a fraction only whether it is zero (a dropout that does nothing is left out)."""
    values = []
    for name, value in vars(module).items():
        if any(part in name for part in _INDEX_NAMES):
            continue
        if isinstance(value, float):
            values.append((name, str(bool(value))))
        elif value is None or isinstance(value, bool | int | str | tuple):
            values.append((name, str(value)))
    return tuple(sorted(values))


# --------------------
# Sliding windows and chunks: a step runs other operators once its rows are longer than a layer can see.
#
# transformers leaves a mask out while nothing falls out of the window (masking_utils.py: ``kv_length < local_size``).
# Both sides are regimes of their own, and a few short traces must stand for all lengths of one side. A window's
# width is the size of no storage, so the traced model gets one that puts every traced length on the wanted side.

NARROW, WIDE = 4, 1 << 20
"""Windows that every traced length exceeds, and that none reaches."""


def normalize_attention_window(model: ModelSpec, seq_length: int) -> ModelSpec:
    """The model with windows that no traced length reaches, or all exceed, as ``seq_length`` does the real ones."""
    nested, widths = recall_structure("attention windows", model, None, lambda: _windows(model), code=CODE)
    padded = padded_length(seq_length)
    changes = {name: share * (NARROW if padded >= width // share else WIDE) for name, width, share in widths}
    if not changes:
        return model
    if nested:
        return replace(model, config={**model.config, "text_config": {**model.config["text_config"], **changes}})
    return replace(model, config={**model.config, **changes})


def _windows(model: ModelSpec) -> tuple[bool, list[tuple[str, int, int]]]:
    """Whether windows are settings of a nested text configuration, and each window's name, width and share of it."""
    from advisor.strategies.skeleton import build_skeleton

    config: Any = build_skeleton(model).config
    text = config.get_text_config()
    written = model.config.get("text_config") if text is not config else model.config
    windows = []
    for name, share in (("sliding_window", 1), ("attention_chunk_size", 1), ("local_attention", 2)):
        width = getattr(text, name, None)
        # ModernBERT's sliding window is half of its local_attention; its decoder's configurations hold both.
        derived = share == 1 and hasattr(text, "local_attention") and name not in (written or ())
        if isinstance(width, int) and width > 0 and not derived:
            windows.append((name, width, share))
    return isinstance(model.config.get("text_config"), dict) and text is not config, windows


# --------------------
# Chunked recurrences: Mamba 2 and gated delta layers cut rows into chunks and pad the last one.
#
# Within one number of chunks nothing else depends on the padded length, and a loop over chunks runs equally often; at
# another number it does not. So shapes are traced at the number of chunks that the longest row has.

_CHUNKS = ("chunk_size", "block_size")
"""What layers call the length of a chunk (Mamba 2, MiniMax): an attribute, or a parameter's default (gated delta)."""


def padded_chunks(model: ModelSpec, seq_length: int) -> tuple[int, int] | None:
    """``(length of a chunk, chunks of the longest row)``; ``None`` where no layer works in chunks."""
    size = recall_structure("chunks", model, None, lambda: _chunk_size(model), code=CODE)
    return (size, -(-padded_length(seq_length) // size)) if size else None


def _chunk_size(model: ModelSpec) -> int:
    """The least common multiple of all layers' chunks; 0 where there are none."""
    from advisor.strategies.skeleton import build_skeleton

    classes: dict[type, set[int]] = {}
    sizes: set[int] = set()
    for module in build_skeleton(model).modules():
        sizes |= {value for name in _CHUNKS if isinstance(value := vars(module).get(name), int) and value > 0}
        if type(module) not in classes:
            classes[type(module)] = _default_chunks(type(module))
        sizes |= classes[type(module)]
    return math.lcm(*sizes) if sizes else 0


def _default_chunks(module_class: type) -> set[int]:
    """Chunks that the functions called by a layer's forward pass have by default."""
    forward = inspect.unwrap(module_class.forward)  # type: ignore[attr-defined]
    sizes = set()
    for name in getattr(getattr(forward, "__code__", None), "co_names", ()):
        function = forward.__globals__.get(name)
        if not inspect.isfunction(function):
            continue
        default = inspect.signature(function).parameters.get(_CHUNKS[0])
        if default is not None and isinstance(default.default, int):
            sizes.add(default.default)
    return sizes
