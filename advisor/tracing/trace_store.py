"""Traced families by configuration: in memory, and on disk by content hash and library versions."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.core.code_version import TRAINING_LIBRARIES, code_version
from advisor.core.data import padded_length
from advisor.core.memo import recall_structure
from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.serialization import to_dict
from advisor.core.store import user_data_dir
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import TASKS
from advisor.hardware.backends import get_backend
from advisor.strategies import get_strategy, strategy_version
from advisor.tracing.full_depth import FullDepthTrace, ReplayCache
from advisor.tracing.kernel_temporaries import A100, Multiprocessors
from advisor.tracing.repeated_layers import Depths, normalize_attention_window, padded_chunks, traced_depths
from advisor.tracing.symbolic import SymbolicSizes, TraceShape
from advisor.tracing.symbolic_trace import SymbolicTrace

if TYPE_CHECKING:
    from advisor.tracing.ops import TracedOp
    from advisor.tracing.step import TraceRequest
    from advisor.tracing.symbolic_trace import SymbolicTrace

UNTRACED_KNOBS = frozenset(
    {
        *("micro_batch_size", "gradient_accumulation_steps", "max_seq_length", "eval_batch_size"),
        *("num_threads", "group_by_length", "tf32", "torch_compile", "expandable_segments"),
    }
)
TRACING_CODE = ("advisor.tracing", "advisor.strategies", "advisor.training")


class TraceStore:
    """Hands out the traced family of a configuration.

    Args:
        semantics: Name of the back end whose operators steps have.
        compute_capability: Of a card; only whether it is at least 8.0 changes a trace.
        cache_dir: Where traces are kept between processes; ``None`` keeps them in memory only.
        card: What families are evaluated for; their traces do not depend on it.
    """

    def __init__(
        self,
        semantics: str,
        compute_capability: tuple[int, int] | None,
        cache_dir: Path | None,
        card: Multiprocessors = A100,
    ) -> None:
        self.semantics, self.card = semantics, card
        self.compute_capability = None if get_backend(semantics).is_host else _capability_class(compute_capability)
        self.cache_dir = cache_dir
        self._families: dict[str, FullDepthTrace] = {}
        self.before_first_trace: Callable[[], None] | None = None
        """Called once, before the first family that is not on disk is traced."""

    @classmethod
    def on_disk(
        cls,
        semantics: str,
        compute_capability: tuple[int, int] | None,
        cache_dir: Path | None = None,
        *,
        multiprocessors: int | None = None,
    ) -> TraceStore:
        """One that keeps traces between processes, in the user's data directory unless a folder is named."""
        card = Multiprocessors.of(multiprocessors, compute_capability)
        return cls(semantics, compute_capability, cache_dir or user_data_dir("traces"), card)

    @property
    def shared_by(self) -> tuple[object, ...]:
        """Equal for devices whose families are the same."""
        return self.semantics, self.compute_capability, self.card

    def get(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> FullDepthTrace:
        """The family of a configuration, traced when it is new.

        Raises:
            UntraceableError: it cannot be traced.
        """
        model = normalize_attention_window(model, execution.max_seq_length)
        key = self.key(model, strategy, execution)
        if key not in self._families:
            self._families[key] = self._build(model, strategy, execution)
        return self._families[key]

    def depths(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> Depths | None:
        """The depths to trace; ``None``, for the whole model, also where its counts do not follow from theirs."""
        depths = traced_depths(model, strategy)
        if depths is None or not get_strategy(strategy.method).may_share_across_layers:
            return depths

        def grows_evenly() -> bool:
            from advisor.tracing import depth_extension

            return depth_extension.grows_evenly(self._request(model, strategy, execution, None), depths)

        key = [strategy_key(strategy), strategy_version(strategy.method), to_dict(depths)]
        even = recall_structure("even growth", model, key, grows_evenly, code=TRACING_CODE)
        return depths if even else None

    def _build(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> FullDepthTrace:
        depths = self.depths(model, strategy, execution)
        replays = ReplayCache(self._file(self.key(model, strategy, execution), "replays.json"))
        if depths is None:
            return FullDepthTrace(self._traced(model, strategy, execution, None), replays=replays, card=self.card)
        shallow = self._traced(model, strategy, execution, depths.shallow)
        deeper = self._traced(model, strategy, execution, depths.deeper, shallow)
        return FullDepthTrace(shallow, deeper, extra_layers=depths.repeats, replays=replays, card=self.card)

    def _file(self, key: str, kind: str) -> Path | None:
        return self.cache_dir / f"{key}.{kind}" if self.cache_dir is not None else None

    def _traced(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        depth: int | None,
        shallow: SymbolicTrace | None = None,
    ) -> SymbolicTrace:
        """From the disk, or traced: with ``shallow`` by one trace where that is enough."""
        path = self._file(self.key(model, strategy, execution, depth=depth), "npz")
        stored = load_trace(path) if path is not None else None
        if stored is not None:
            return stored
        if self.before_first_trace is not None:
            told, self.before_first_trace = self.before_first_trace, None
            told()
        from advisor.tracing.depth_extension import trace_deeper
        from advisor.tracing.symbolic_trace import symbolic_trace

        request = self._request(model, strategy, execution, depth)
        family = trace_deeper(request, shallow) if shallow is not None else None
        if family is None:
            family = symbolic_trace(request)
        if path is not None:
            save_trace(path, family)
        return family

    def _request(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, depth: int | None
    ) -> TraceRequest:
        from advisor.tracing.step import TraceRequest

        return TraceRequest(
            model=model,
            strategy=strategy,
            execution=execution,
            seq_length=execution.max_seq_length,
            semantics=self.semantics,
            compute_capability=self.compute_capability,
            num_hidden_layers=depth,
        )

    def key(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, depth: int | None = None
    ) -> str:
        """What a trace is stored under: configurations with equal keys share it, whatever their sizes."""
        config = {
            key: value for key, value in model.config.items() if key not in ("_name_or_path", "transformers_version")
        }
        content = {
            "config": config,
            "task": [model.task, TASKS.code_version(model.task)],
            "labels": model.num_labels,
            "strategy": strategy_key(strategy),
            "rank": strategy.rank if execution.optim in BITSANDBYTES_OPTIMIZERS else None,
            "execution": _structural_execution(execution),
            "semantics": self.semantics,
            "capability": self.compute_capability,
            "depth": depth,
            "chunks": padded_chunks(model, execution.max_seq_length),
            "code": (trace_version(), strategy_version(strategy.method)),
        }
        return hashlib.sha256(json.dumps(to_dict(content), sort_keys=True).encode()).hexdigest()


def _capability_class(capability: tuple[int, int] | None) -> tuple[int, int]:
    return (8, 0) if (capability or (8, 0)) >= (8, 0) else (7, 5)


def strategy_key(strategy: StrategyConfig) -> dict[str, Any]:
    """What of a strategy changes operators or storages. A rank is symbolic (but for 8-bit optimizers)."""
    method = get_strategy(strategy.method)
    return {
        "method": vars(type(method)).get("builds_as") or method.name,
        "ranked": strategy.rank is not None,
        "knobs": method.trace_key(strategy),
        "clips": strategy.max_grad_norm > 0,
        "decays": strategy.weight_decay > 0,
        **({"weighs": True} if strategy.class_weights != "none" else {}),
    }


def _structural_execution(execution: ExecutionPlan) -> dict[str, Any]:
    """Without sizes, which are symbolic, and what changes no operator of a step. A compiled step is traced as written:
    what fusing saves is not predicted.
    """
    knobs = {f.name: getattr(execution, f.name) for f in dataclasses.fields(execution) if f.name not in UNTRACED_KNOBS}
    return {**knobs, "accumulates": execution.gradient_accumulation_steps > 1}


def trace_version() -> str:
    """Digest of the code and libraries that make a trace: another version traces anew."""
    return code_version(TRACING_CODE, TRAINING_LIBRARIES)


# --------------------
# A traced family as one file: arrays and JSON in numpy's zip format, never pickled.


def save_trace(path: Path, family: SymbolicTrace) -> None:
    """Write a family, whole or not at all. A cache that cannot be written is no error: the trace is made again."""
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(family):
        value = getattr(family, field.name)
        if isinstance(value, SymbolicSizes):
            arrays[f"{field.name}.inverse"] = value.inverse
            arrays[f"{field.name}.coefficients"] = value.coefficients
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            plain[field.name] = value
    buffer = io.BytesIO()
    np.savez_compressed(buffer, plain=np.array(json.dumps(plain)), **arrays)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(buffer.getvalue())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)


def load_trace(path: Path) -> SymbolicTrace | None:
    """Read a family; ``None`` when there is none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            values: dict[str, Any] = _tuples(json.loads(str(stored["plain"])))
            for field in dataclasses.fields(SymbolicTrace):
                if f"{field.name}.inverse" in stored:
                    inverse, coefficients = stored[f"{field.name}.inverse"], stored[f"{field.name}.coefficients"]
                    values[field.name] = SymbolicSizes(inverse, coefficients)
                elif field.name in stored:
                    values[field.name] = stored[field.name]
            return SymbolicTrace(**values)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, EOFError):
        return None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON lists back to the tuples (of tuples) they were."""

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        nested = bool(value) and isinstance(value[0], list)
        return tuple(map(tuple, value)) if nested else tuple(value)

    return {key: convert(value) for key, value in values.items()}


# --------------------
# One configuration with its traced step: what every part of the cost model asks about.


@dataclass(frozen=True)
class TracedConfiguration:
    """What is learned, how it is run, and the operators and allocations of it.

    Attributes:
        family: The traced step at every batch, length and rank.
        model: Needs no weights.
        strategy: What is learned.
        execution: How it is run.
    """

    family: FullDepthTrace
    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan

    @property
    def rank(self) -> int:
        """The symbolic rank of the family; 1 where the method has none."""
        rank = self.strategy.rank
        return rank if rank is not None else 1

    def shape(self, rows: int, seq_length: int) -> TraceShape:
        """Of batches of ``rows`` rows whose longest has ``seq_length`` tokens."""
        return rows, padded_length(seq_length), self.rank

    def operators(self, rows: int, seq_length: int) -> list[TracedOp]:
        """Of all phases, for such batches."""
        return self.family.operators(self.shape(rows, seq_length))
