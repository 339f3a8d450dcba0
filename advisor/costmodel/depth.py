"""A deep stack from two shallow ones: which depths to trace, and how to carry memory and operators to full depth."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.allocator import ROUND_BYTES
from advisor.costmodel.memory_curve import Peak, deep_phase_peaks, peak_reserved_bytes, phase_peaks
from advisor.costmodel.trace.family import PHASES, TraceFamily
from advisor.costmodel.trace.ops import TracedOp
from advisor.costmodel.trace.symbolic import Shape

SHALLOW_LAYERS = 2
"""Layers of the shallower trace beyond the unfrozen ones: with a first and a last layer every repeated position
occurs."""

PERIODIC_KEYS = frozenset(
    [
        "layer_types",
        "sliding_window_pattern",
        "global_attn_every_n_layers",
        "full_attention_interval",
        "attn_layer_period",
        "first_k_dense_replace",
        "moe_layer_freq",
        "decoder_sparse_step",
        "mlp_only_layers",
        "attention_layers",
        "num_layers_per_block",
        "hybrid_override_pattern",
        "layers_block_type",
        "no_rope_layers",
    ]
)
"""Configuration keys by which architectures mix kinds of layers; unless trivial, such a model is traced at full
depth."""

TRAINING_PHASES = tuple(phase for phase in PHASES if phase != "evaluation")


def shallow_depth(model: ModelSpec, strategy: StrategyConfig) -> int | None:
    """Depth of the shallower of two traces, or ``None`` when the model must be traced whole."""
    if not _uniform(model.config, model.num_hidden_layers) or _names_layers(strategy.peft_config):
        return None
    depth = SHALLOW_LAYERS + (strategy.unfrozen_layers or 0)
    return depth if depth + 2 < model.num_hidden_layers else None


def _uniform(config: dict[str, Any], layers: int) -> bool:
    if config.get("is_encoder_decoder"):
        return False
    for key, value in config.items():
        if isinstance(value, list) and len(value) == layers and len({str(item) for item in value}) > 1:
            return False
        if key in PERIODIC_KEYS and not isinstance(value, list) and value not in (None, 0, 1, False):
            return False
    return True


def _names_layers(peft_config: dict[str, Any] | None) -> bool:
    """Whether a PEFT configuration treats layers differently."""
    keys = (
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "exclude_modules",
        "layer_replication",
    )
    return any((peft_config or {}).get(key) for key in keys)


@dataclass(frozen=True)
class StepFamily:
    """One configuration at every batch, length and rank, at the model's full depth.

    Attributes:
        shallow: Traced whole when ``deeper`` is ``None``, else at a shallow depth.
        deeper: Traced with one layer more than ``shallow``.
        extra_layers: Layers of the model beyond ``shallow``.
    """

    shallow: TraceFamily
    deeper: TraceFamily | None = None
    extra_layers: int = 0

    def peaks(self, shape: Shape, *, round_bytes: int) -> dict[str, Peak]:
        """Peak of every phase of the step, and of an evaluation pass of the same shape."""
        log = self.shallow.events(shape)
        if self.deeper is None:
            return phase_peaks(log, round_bytes=round_bytes)
        return deep_phase_peaks(log, self.deeper.events(shape), self.extra_layers, round_bytes=round_bytes)

    def cached_share(self, shape: Shape) -> float:
        """Reserved over allocated bytes of a training step in the allocator replay, at the greatest traced depth."""
        log = (self.deeper or self.shallow).events(shape)
        peaks = phase_peaks(log, round_bytes=ROUND_BYTES)
        live_bytes = max(peak.live_bytes for name, peak in peaks.items() if name != "evaluation")
        return peak_reserved_bytes(log, phases=TRAINING_PHASES) / live_bytes

    def operators(self, shape: Shape) -> list[TracedOp]:
        """Operators of the step and of an evaluation pass; repeated layers are one operator with a count."""
        operators = self.shallow.operators(shape)
        if self.deeper is None:
            return operators
        return deep_operators(operators, self.deeper.operators(shape), self.extra_layers)

    def trainable_parameters(self, rank: int) -> int:
        shallow = self.shallow.trainable_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.trainable_parameters(rank))

    def total_parameters(self, rank: int) -> int:
        shallow = self.shallow.total_parameters(rank)
        return shallow if self.deeper is None else self._deep(shallow, self.deeper.total_parameters(rank))

    def _deep(self, shallow: int, deeper: int) -> int:
        return shallow + self.extra_layers * (deeper - shallow)


def deep_operators(shallow: list[TracedOp], deeper: list[TracedOp], extra_layers: int) -> list[TracedOp]:
    """Operators of the full depth.

    What occurs equally often at both depths (head, embeddings, one fused update of all parameters) keeps its number and
    its sizes grow linearly; what a layer adds is repeated for every further layer.
    """
    first, second = _grouped(shallow), _grouped(deeper)
    result: list[TracedOp] = []
    for key in second:
        before, after = first.get(key, []), second[key]
        if len(before) == len(after):
            result.extend(_grown(a, b, extra_layers) for a, b in zip(before, after, strict=True))
        else:
            result.extend(_repeated(before, after, extra_layers))
    return result


def _grouped(operators: list[TracedOp]) -> dict[tuple[str, str, str], list[TracedOp]]:
    groups: dict[tuple[str, str, str], list[TracedOp]] = defaultdict(list)
    for op in operators:
        groups[op.phase, op.name, op.dtype].append(op)
    return groups


def _grown(before: TracedOp, after: TracedOp, extra_layers: int) -> TracedOp:
    return replace(
        before,
        flops=before.flops + extra_layers * (after.flops - before.flops),
        read_bytes=before.read_bytes + extra_layers * (after.read_bytes - before.read_bytes),
        written_bytes=before.written_bytes + extra_layers * (after.written_bytes - before.written_bytes),
    )


def _repeated(before: list[TracedOp], after: list[TracedOp], extra_layers: int) -> list[TracedOp]:
    counted_before, counted_after = Counter(before), Counter(after)
    counts = {op: counted_before[op] + extra_layers * (counted_after[op] - counted_before[op]) for op in counted_after}
    if min(counts.values()) < 0 or set(counted_before) - set(counted_after):
        # Sizes differ between the depths: scale the deeper trace's mix to the number that the full depth runs.
        number = len(before) + extra_layers * (len(after) - len(before))
        return [replace(op, count=max(1, round(count * number / len(after)))) for op, count in counted_after.items()]
    return [replace(op, count=count) for op, count in counts.items() if count]
