"""Predicts published step times from datasheets, and compares."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advisor.calibration.datasheet import TimedStep
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.costmodel.time.communication import Parallelism, Traffic, parallel_step_time
from advisor.costmodel.time.model import TimeModel
from advisor.costmodel.time.step import StepTime
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.tracing.ops import TracedOp
from advisor.tracing.trace_store import TracedConfiguration
from advisor.training.models import inspect_model
from tests.costmodel.published import qwen
from tests.costmodel.published.steps import ONE_CARD, QWEN_S
from tests.costmodel.published.steps_of_several import SEVERAL_CARDS

CONFIGS = Path(__file__).resolve().parents[2] / "fixtures" / "configs"


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A configuration of ``fixtures/configs`` with some values changed."""
    return {**json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")), **changes}


MODELS: dict[str, dict[str, Any]] = {
    "mistral-7b": config("mistral-7b-v0.1"),
    "llama-3.2-3b": config(
        "llama-3.2-1b", hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, head_dim=128
    ),
    "granite-8b": config("granite-3.1-2b-base", hidden_size=4096, intermediate_size=12800),
    **{name: {**values, "model_type": "qwen-1-kernels"} for name, values in qwen.MODELS.items()},
}
"""``granite-8b``: the source lists 8.0e9 parameters, 40 layers and width 4096, which are Granite-3.1-8B's."""
LORA_R4 = {"rank": 4, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ("q_proj", "v_proj")}
QWEN_METHODS = {"lora": ("early_lora", qwen._LORA), "with-head": ("early_peft", qwen._WITH_HEAD)}
METHODS = {"full": ("full", {}), "lora": ("lora", LORA_R4), "gptq-lora": ("qlora", LORA_R4)}
ACCUMULATION = 4
"""ado-sfttrainer's default."""
GPTQ_LORA = "gptq-lora"
"""4-bit weights of another format, unpacked like NF4's once per product and multiplied in float16; the stand-in is
QLoRA. The real runs also fuse rotary embeddings, norms, loss and adapters, which the stand-in does not: these rows are
reported, and count in no bar."""
DIFFERENT_BY = 1.15
"""Two methods are put in order where their times differ by more than this."""


@dataclass(frozen=True)
class Timed:
    """One published row: the configuration, and seconds of one micro-batch's share of an optimizer step."""

    source: str
    device: str
    model: str
    method: str
    batch: int
    length: int
    seconds: float
    cards: int = 1
    dtype: str = "bfloat16"
    strategy: tuple[str, dict[str, Any]] = field(default=("full", {}), compare=False)
    execution: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def accumulation(self) -> int:
        return int(self.execution["gradient_accumulation_steps"])

    @property
    def group(self) -> str:
        cards = f" x {self.cards}" if self.cards > 1 else ""
        return f"{self.source}, {self.device}{cards}, {self.method}, {self.dtype}"


@dataclass(frozen=True)
class Outcome:
    """A row with its prediction."""

    row: Timed
    step: StepTime

    @property
    def error(self) -> float:
        return self.step.seconds / self.row.accumulation / self.row.seconds - 1

    @property
    def inside(self) -> bool:
        return self.step.low <= self.row.seconds * self.row.accumulation <= self.step.high


def one_card() -> list[Timed]:
    return [
        _tuned(device, model, method, dtype, 1, length, batch, speed)
        for (device, model, method, dtype), lengths in ONE_CARD.items()
        for length, batches in lengths.items()
        for batch, speed in batches.items()
    ]


def several_cards() -> list[Timed]:
    return [
        _tuned(device, model, method, dtype, cards, length, batch, speed)
        for (device, model, method, dtype, cards), lengths in SEVERAL_CARDS.items()
        for length, batches in lengths.items()
        for batch, speed in batches.items()
    ]


def _tuned(
    device: str, model: str, method: str, dtype: str, cards: int, length: int, batch: int, speed: float
) -> Timed:
    execution = {
        "gradient_accumulation_steps": ACCUMULATION,
        "padded": False,
        "gradient_checkpointing": True,
        "dtype": dtype,
        "amp": "fp16" if method == GPTQ_LORA else "none",
        "optim": "adamw_torch",
        "attn_implementation": "flash_attention_2",
    }
    seconds = batch * length / speed
    return Timed(
        "LLMFineTuningBench", device, model, method, batch // cards, length, seconds, cards, dtype, METHODS[method],
        execution,
    )  # fmt: skip


def qwen_profile() -> list[Timed]:
    return [
        Timed("Qwen", "a100-sxm4-80gb", model, method, 1, length, seconds / 8, strategy=QWEN_METHODS[method],
              execution=qwen.EXECUTION)
        for (model, method), times in QWEN_S.items()
        for length, seconds in zip(qwen.LENGTHS, times, strict=True)
    ]  # fmt: skip


def step_seconds(
    cost_model: CostModel, spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, length: int
) -> StepTime:
    """Time of one optimizer step whose micro-batches all have ``length`` tokens per row."""
    traced = TracedConfiguration(cost_model.traces.get(spec, strategy, execution), spec, strategy, execution)
    return TimeModel(cost_model.device, cost_model.calibration).step(traced, length)


class StepPredictor:
    """Asks the cost model; traces are shared over rows in ``cache_dir``."""

    def __init__(self, cache_dir: Path, models: Mapping[str, tuple[str, dict[str, Any]]] | None = None) -> None:
        self.cache_dir = cache_dir
        self._configs = models or {name: ("causal-lm", values) for name, values in MODELS.items()}
        self._models: dict[str, CostModel] = {}
        self._specs: dict[str, ModelSpec] = {}

    def outcome(self, row: Timed) -> Outcome:
        """Predict one row from its datasheet."""
        spec, strategy, execution = self.configuration(row)
        if row.cards == 1:
            return Outcome(row, step_seconds(self._cost_model(row), spec, strategy, execution, row.length))
        family = self._cost_model(row).traces.get(spec, strategy, execution)
        whole = row.method == "full"
        rank = strategy.rank or 1
        traffic = Traffic(
            2.0 * family.total_parameters(rank), (2.0 if whole else 4.0) * family.trainable_parameters(rank)
        )
        step = parallel_step_time(
            self.operators(row), Parallelism("fsdp", row.cards), traffic, load_profile(row.device), row.accumulation
        )
        return Outcome(row, step)

    def operators(self, row: Timed) -> list[TracedOp]:
        spec, strategy, execution = self.configuration(row)
        family = self._cost_model(row).traces.get(spec, strategy, execution)
        rank = strategy.rank or 1
        return family.operators((row.batch, row.length, rank))

    def timed_step(self, row: Timed) -> TimedStep:
        return TimedStep(tuple(self.operators(row)), row.seconds * row.accumulation, row.accumulation)

    def _cost_model(self, row: Timed) -> CostModel:
        return self._models.setdefault(row.device, CostModel(load_profile(row.device), cache_dir=self.cache_dir))

    def configuration(self, row: Timed) -> tuple[ModelSpec, StrategyConfig, ExecutionPlan]:
        if row.model not in self._specs:
            folder = self.cache_dir / f"config-{row.model}"
            folder.mkdir(parents=True, exist_ok=True)
            task, values = self._configs[row.model]
            (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
            self._specs[row.model] = inspect_model(str(folder / "config.json"), task)
        spec = self._specs[row.model]
        name, knobs = row.strategy
        strategy = get_strategy(name).configured(spec, **knobs)
        execution = ExecutionPlan(row.batch, max_seq_length=row.length, **{"eval_batch_size": 1, **row.execution})
        return spec, strategy, execution


@dataclass(frozen=True)
class Errors:
    """Absolute errors: median, the smallest value that 90 % of the rows do not exceed, worst; and the bias."""

    rows: int
    median: float
    p90: float
    worst: float
    bias: float
    inside: float

    def __str__(self) -> str:
        return (
            f"{self.rows} | {self.median:.1%} | {self.p90:.1%} | {self.worst:.1%} | {self.bias:+.1%} | "
            f"{self.inside:.0%}"
        )


def errors(outcomes: Sequence[Outcome]) -> Errors:
    signed = [outcome.error for outcome in outcomes]
    absolute = sorted(abs(error) for error in signed)
    inside = sum(outcome.inside for outcome in outcomes) / len(outcomes)
    p90 = absolute[math.ceil(0.9 * len(absolute)) - 1]
    return Errors(len(absolute), statistics.median(absolute), p90, absolute[-1], statistics.median(signed), inside)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: errors by source, device, method and data type."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.row.group].append(outcome)
    lines = [
        "| rows of | number | median | p90 | worst | bias | inside the interval |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {errors(group)} |" for name, group in groups.items()]
    lines.append(f"| all | {errors(outcomes)} |")
    return "\n".join(lines)


def method_order(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Of pairs of methods on otherwise equal rows that truly differ: how many are put in the right order, and all."""
    right = total = 0
    for a, b in _pairs_of_methods(outcomes):
        if max(a.row.seconds, b.row.seconds) < DIFFERENT_BY * min(a.row.seconds, b.row.seconds):
            continue
        total += 1
        right += (a.row.seconds < b.row.seconds) == (a.step.seconds < b.step.seconds)
    return right, total


def _pairs_of_methods(outcomes: Sequence[Outcome]) -> Iterator[tuple[Outcome, Outcome]]:
    alike: dict[tuple[object, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        row = outcome.row
        alike[row.source, row.device, row.model, row.batch, row.length, row.cards].append(outcome)
    for group in alike.values():
        yield from ((a, b) for a, b in itertools.combinations(group, 2) if a.row.method != b.row.method)
