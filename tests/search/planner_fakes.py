"""An analytic cost model: the planner's logic is tested against arithmetic that a reader can follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate, Interval, MemoryBreakdown, MemoryEstimate, TimeEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import UntraceableError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.recommendation import Recommendation
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.memory.traced_run import MemoryBounds
from advisor.costmodel.model import CostBounds, CostModel
from advisor.costmodel.quality.model import QualityModel
from advisor.search.planner import PlanRequest, candidates, recommend_plans
from advisor.strategies import get_strategy

GIB = 2**30

TRAINABLE_SHARE = {"full": 1.0, "partial": 0.22, "head": 0.009, "high_rank_lora": 0.018, "hira": 0.018, "ia3": 0.010}
ADAPTER_SHARE = 0.011
"""Of every other method."""
STORED_ACTIVATIONS = {"partial": 0.4, "head": 0.1, "hira": 1.5}
SLOWNESS = {
    "full": 1.25,
    "partial": 0.6,
    "head": 0.45,
    "qlora": 1.5,
    "hira": 1.6,
    "sparse_lora": 1.02,
    "sparse_qlora": 1.53,
}
SIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


def distilbert(task: str = "sequence-classification") -> ModelSpec:
    config = {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "n_layers": 6,
        "dim": 768,
        "n_heads": 12,
    }
    return ModelSpec("distilbert", "config", task, config, "distilbert", 66_955_010, 768, 6, 30522, 512)


def mistral(task: str = "sequence-classification") -> ModelSpec:
    config = {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": 32,
    }
    return ModelSpec("mistral-7b", "config", task, config, "mistral", 7_241_732_096, 4096, 32, 32000, 32768)


def data_profile(*, length: int = 128, train_rows: int = 9000, classes: int = 2) -> DataProfile:
    counts = {f"class {index}": train_rows // classes for index in range(classes)}
    return DataProfile(train_rows, 1000, (8, length // 3, length), length, length, 1000, counts, fingerprint="rows")


DATA = DataSpec("movie-sentences", "demo")


def plans_of(
    model: ModelSpec,
    cost_model: CostModel,
    budget: Budget | None = None,
    *,
    data: DataProfile | None = None,
    methods: Sequence[str | StrategyConfig] | None = None,
    knobs: dict[str, Any] | None = None,
    **request: Any,
) -> Recommendation:
    """What is recommended; ``request`` are further fields of ``PlanRequest``."""
    asked = PlanRequest(model, DATA, data or data_profile(), budget or Budget(), **request)
    return recommend_plans(asked, cost_model, candidates(model, methods, knobs))


def cuda(memory_gib: float, *, bf16: bool = True, name: str = "card") -> DeviceProfile:
    dtypes = ("float32", "bfloat16", "float16") if bf16 else ("float32", "float16")
    return DeviceProfile(
        name,
        name,
        "cuda",
        int(memory_gib * GIB),
        None,
        (8, 0) if bf16 else (7, 5),
        dtypes,
        ("math", "efficient", "flash"),
    )


def cpu(memory_gib: float = 16, *, half_speed: float | None = None) -> DeviceProfile:
    rates = {"float32": Rate(1e11, "probed")}
    dtypes: tuple[str, ...] = ("float32",)
    if half_speed is not None:
        rates["bfloat16"], dtypes = Rate(half_speed * 1e11, "probed"), ("float32", "bfloat16")
    return DeviceProfile(
        "cpu-test", "test host", "cpu", int(memory_gib * GIB), dtypes=dtypes, flops_per_s=rates, basis="measured"
    )


def with_device_bytes(memory: MemoryEstimate, device_bytes: int) -> MemoryEstimate:
    """The estimate with another peak, 5 % to either side."""
    interval = Interval(device_bytes * 0.95, device_bytes * 1.05)
    return replace(memory, device_bytes=device_bytes, intervals={"device_bytes": interval})


@dataclass
class FakeCostModel:
    """Memory and time in closed form; counts the families it would have had to trace, and exact evaluations.

    Attributes:
        looseness: How far its bounds are from the memory on either side.
        exact: Every exact evaluation, as ``(strategy, execution)``.
    """

    device: DeviceProfile
    untraceable: frozenset[str] = frozenset()
    timed: bool = True
    eager_pace: float = 1.2
    looseness: float = 0.1
    families: set[tuple[object, ...]] = field(default_factory=set)
    exact: list[tuple[StrategyConfig, ExecutionPlan]] = field(default_factory=list)
    quality: QualityModel = field(default_factory=QualityModel)

    def bounds(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile | None,
        budget: Budget | None = None,
    ) -> CostBounds:  # fmt: skip
        typical = self._cost(model, strategy, execution, data)
        device_bytes = typical.memory.device_bytes
        low, high = device_bytes * (1 - self.looseness), device_bytes * (1 + self.looseness)
        return CostBounds(typical, MemoryBounds(typical.memory, low, high))

    def estimate(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile | None,
        budget: Budget | None = None, *, with_quality: bool = True,
    ) -> CostEstimate:  # fmt: skip
        self.exact.append((strategy, execution))
        cost = self._cost(model, strategy, execution, data)
        return replace(cost, fits=budget.check(cost, self.device).ok if budget is not None else None)

    def least_total_s(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile,
        *, traced_as: ExecutionPlan,
    ) -> float:  # fmt: skip
        assert traced_as.gradient_accumulation_steps == 1
        return self._time(model, strategy, execution, data).total_s

    def _cost(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile | None
    ) -> CostEstimate:
        if strategy.method in self.untraceable:
            raise UntraceableError(f"aten::nonzero in {strategy.method} depends on values")
        self.families.add(
            (strategy.method, execution.gradient_checkpointing, execution.attn_implementation, execution.dtype,
             execution.amp, execution.optim, execution.micro_batch_size == 1)
        )  # fmt: skip
        memory = self._memory(model, strategy, execution)
        time = self._time(model, strategy, execution, data) if self.timed else None
        trainable = int(model.total_parameters * TRAINABLE_SHARE.get(strategy.method, ADAPTER_SHARE))
        saved_bytes = 4 * (model.total_parameters if get_strategy(strategy.method).saves_whole_model else trainable)
        return CostEstimate(
            *(memory, time, None, None, trainable, model.total_parameters, "extrapolated", "datasheet"),
            saved_bytes=saved_bytes,
        )

    def _memory(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> MemoryEstimate:
        per_weight = 0.6 if get_strategy(strategy.method).stores_4bit_weights else SIZE[execution.dtype]
        weights = int(model.total_parameters * per_weight)
        trainable = int(model.total_parameters * TRAINABLE_SHARE.get(strategy.method, ADAPTER_SHARE))
        adapter_size = SIZE[execution.dtype] if get_strategy(strategy.method).trains_base_weights else 4
        moments = {"adamw_bnb_8bit": 2, "paged_adamw_8bit": 0}.get(execution.optim, 2 * adapter_size)
        layer = (
            execution.micro_batch_size * execution.max_seq_length * model.hidden_size * 34
        )  # Korthikanti et al. 2022
        layers = 1 + model.num_hidden_layers / 17 if execution.gradient_checkpointing else model.num_hidden_layers
        activations = int(layer * layers * STORED_ACTIVATIONS.get(strategy.method, 1.0))
        parts = MemoryBreakdown(weights, trainable * adapter_size, trainable * moments, activations, 0, 0, GIB // 4)
        total = parts.total_bytes
        live = total - GIB // 4
        return with_device_bytes(
            MemoryEstimate(live, live, total, parts, {}, "backward", "extrapolated", "datasheet"), total
        )

    def _time(
        self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, data: DataProfile | None
    ) -> TimeEstimate:
        rate = self.device.flops_per_s.get(
            "bfloat16" if execution.amp == "bf16" else "float32", Rate(1e13, "assumed")
        ).value
        row = 6 * model.total_parameters * execution.max_seq_length / rate * SLOWNESS.get(strategy.method, 1.0)
        row *= (4 / 3 if execution.gradient_checkpointing else 1) * (
            self.eager_pace if execution.attn_implementation == "eager" else 1
        )
        step = execution.effective_batch_size * row + execution.gradient_accumulation_steps * 0.004
        rows = data.train_rows if data else 1000
        total = step * rows * strategy.num_train_epochs / execution.effective_batch_size + 5
        interval = {"step_s": Interval(step * 0.9, step * 1.1), "total_s": Interval(total * 0.9, total * 1.1)}
        latency = 2 * model.total_parameters * execution.max_seq_length / rate
        return TimeEstimate(
            step, execution.effective_batch_size / step, 0.0, total, interval, {}, "extrapolated", "datasheet",
            latency_s=latency,
        )  # fmt: skip
