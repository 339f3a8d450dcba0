"""Traced families by configuration: in memory, and on disk by content hash and library versions."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.model import ModelSpec
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.serialization import to_dict
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.depth import StepFamily
from advisor.costmodel.layers import traced_depths
from advisor.costmodel.remembered import RememberedNumbers
from advisor.costmodel.windows import in_window_regime
from advisor.strategies import get_strategy

if TYPE_CHECKING:
    from advisor.costmodel.trace.family import TraceFamily
    from advisor.costmodel.trace.step import TraceRequest

UNTRACED_KNOBS = frozenset(
    {
        *("micro_batch_size", "gradient_accumulation_steps", "max_seq_length", "eval_batch_size"),
        *("num_threads", "group_by_length", "tf32", "torch_compile"),
    }
)
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


class FamilyStore:
    """Hands out the traced family of a configuration.

    Args:
        semantics: ``"cpu"`` or ``"cuda"``.
        compute_capability: Of the CUDA device; only whether it is at least 8.0 changes a trace.
        cache_dir: Where traces are kept between processes; ``None`` keeps them in memory only.
    """

    def __init__(self, semantics: str, compute_capability: tuple[int, int] | None, cache_dir: Path | None) -> None:
        self.semantics = semantics
        self.compute_capability = _capability_class(compute_capability) if semantics == "cuda" else None
        self._cache_dir = cache_dir
        self._families: dict[str, StepFamily] = {}
        self.before_first_trace: Callable[[], None] | None = None
        """Called once, before the first family that is not on disk is traced."""

    def get(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> StepFamily:
        """The family of a configuration, traced when it is new.

        Raises:
            UntraceableError: it cannot be traced.
        """
        model = in_window_regime(model, execution.max_seq_length)
        key = self._key(model, strategy, execution)
        if key not in self._families:
            self._families[key] = self._build(model, strategy, execution)
        return self._families[key]

    def _build(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> StepFamily:
        depths = traced_depths(model, strategy)
        replays = RememberedNumbers(self._file(self._key(model, strategy, execution), "replays.json"))
        if depths is None:
            return StepFamily(self._traced(model, strategy, execution, None), replays=replays)
        shallow = self._traced(model, strategy, execution, depths.shallow)
        deeper = self._traced(model, strategy, execution, depths.deeper, shallow)
        return StepFamily(shallow, deeper, extra_layers=depths.repeats, replays=replays)

    def _file(self, key: str, kind: str) -> Path | None:
        return self._cache_dir / f"{key}.{kind}" if self._cache_dir is not None else None

    def _traced(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        depth: int | None,
        shallow: TraceFamily | None = None,
    ) -> TraceFamily:
        """From the disk, or traced: with ``shallow`` by one trace where that is enough."""
        from advisor.costmodel.trace.family_file import load_family, save_family

        path = self._file(self._key(model, strategy, execution, depth=depth), "npz")
        stored = load_family(path) if path is not None else None
        if stored is not None:
            return stored
        if self.before_first_trace is not None:
            told, self.before_first_trace = self.before_first_trace, None
            told()
        from advisor.costmodel.trace.deeper import trace_deeper
        from advisor.costmodel.trace.family import trace_family

        request = self._request(model, strategy, execution, depth)
        family = trace_deeper(request, shallow) if shallow is not None else None
        if family is None:
            family = trace_family(request)
        if path is not None:
            save_family(path, family)
        return family

    def _request(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, depth: int | None
    ) -> TraceRequest:
        from advisor.costmodel.trace.step import TraceRequest

        return TraceRequest(
            model=model,
            strategy=strategy,
            execution=execution,
            seq_length=execution.max_seq_length,
            semantics=self.semantics,
            compute_capability=self.compute_capability,
            num_hidden_layers=depth,
        )

    def _key(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *, depth: int | None = None
    ) -> str:
        config = {
            key: value for key, value in model.config.items() if key not in ("_name_or_path", "transformers_version")
        }
        content = {
            "config": config,
            "task": model.task,
            "labels": model.num_labels,
            "strategy": _structural(strategy),
            "rank": strategy.rank if execution.optim in BITSANDBYTES_OPTIMIZERS else None,
            "execution": _structural_execution(execution),
            "semantics": self.semantics,
            "capability": self.compute_capability,
            "depth": depth,
            "code": trace_version(),
        }
        return hashlib.sha256(json.dumps(to_dict(content), sort_keys=True).encode()).hexdigest()


def _capability_class(capability: tuple[int, int] | None) -> tuple[int, int]:
    return (8, 0) if (capability or (8, 0)) >= (8, 0) else (7, 5)


def _structural(strategy: StrategyConfig) -> dict[str, Any]:
    """The knobs that change operators or storages; the rank is symbolic (but for 8-bit optimizers)."""
    return {
        "method": get_strategy(strategy.method).builds_as or strategy.method,
        "ranked": strategy.rank is not None,
        "targets": strategy.target_modules,
        "dropout": bool(strategy.lora_dropout),
        "unfrozen_layers": strategy.unfrozen_layers,
        "peft_config": strategy.peft_config,
        "clips": strategy.max_grad_norm > 0,
        "decays": strategy.weight_decay > 0,
    }


def _structural_execution(execution: ExecutionPlan) -> dict[str, Any]:
    """Without sizes, which are symbolic, and what changes no operator of a step. A compiled step is traced as written:
    what fusing saves is not predicted.
    """
    knobs = {f.name: getattr(execution, f.name) for f in dataclasses.fields(execution) if f.name not in UNTRACED_KNOBS}
    return {**knobs, "accumulates": execution.gradient_accumulation_steps > 1}


@cache
def trace_version() -> str:
    """Hash of the code and libraries that make a trace: another version traces anew."""
    digest = hashlib.sha256()
    rooms = Path(__file__).resolve().parents[1]
    for folder in (rooms / "costmodel" / "trace", rooms / "strategies", rooms / "training"):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"{name}={importlib.metadata.version(name)}".encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(f"{name} is absent".encode())
    return digest.hexdigest()
