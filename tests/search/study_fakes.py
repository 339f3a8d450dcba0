"""Hand-written fakes for the study: strategies, a cost model, a planner and a runner with synthetic learning curves.

Run as a script, it works on a study until it is killed or done:
``python -m tests.search.study_fakes FOLDER SECONDS TRIALS [--resume] [--die-in-pack N]``. The latter packs two trials
and kills the process in the middle of the N-th pack, when one of its members is done.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from advisor.core.budget import Budget
from advisor.core.cost import (
    CostEstimate,
    Interval,
    MemoryBreakdown,
    MemoryEstimate,
    PackEstimate,
    QualityEstimate,
    TimeEstimate,
)
from advisor.core.data import DataProfile, DataSpec
from advisor.core.device import DeviceProfile
from advisor.core.metrics import ACCURACY
from advisor.core.model import ModelSpec
from advisor.core.pack import PackChoice, PackMembership
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.recommendation import RejectedMethod
from advisor.core.run import Measurement
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.costmodel.model import CostBounds, CostModel
from advisor.costmodel.quality.model import QualityModel
from advisor.search.planner import PlanRequest
from advisor.search.study import TuneResult, tune_study
from advisor.search.study.space import Space, method_space, shared_axes
from advisor.strategies.base import LR_REL, CategoricalDimension, Dimension, IntDimension
from advisor.strategies.lora import HiraKnobs, LoraKnobs
from advisor.strategies.own_weights import PartialKnobs

MIB = 2**20
TRAIN_ROWS, EVAL_ROWS = 9000, 1000

MODEL = ModelSpec("model", "folder", "sequence-classification", {}, "bert", 22_000_000, 384, 6, 30522, 512)
DATA = DataSpec("rows.csv", "csv", text_column="text", label_column="label")
PROFILE = DataProfile(TRAIN_ROWS, EVAL_ROWS, (8, 24, 64), 80, 128, 500, {"no": 4500, "yes": 4500}, fingerprint="abc")


@dataclass(frozen=True)
class FakeStrategy:
    """A method with a rank, layers, or nothing but its learning rate."""

    name: str
    config: StrategyConfig
    dimensions: dict[str, Dimension]
    user_knob: str | None = None
    user_knob_title: str = ""
    fits_frozen_features: bool = False

    @property
    def knobs(self) -> type[Knobs]:
        return type(self.config.knobs)

    def configured(self, model: ModelSpec, **values: Any) -> StrategyConfig:
        return self.config.replaced(**values)

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        return self.config

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {**self.dimensions, "lr_rel": LR_REL}

    def applies_to(self, model: ModelSpec) -> str | None:
        return None

    def problems(self, config: StrategyConfig, model: ModelSpec) -> list[str]:
        return []


def strategies() -> dict[str, FakeStrategy]:
    rank: dict[str, Dimension] = {
        "rank": IntDimension(1, 64, log=True),
        "target_modules": CategoricalDimension(("attention", "all-linear")),
    }
    lora = StrategyConfig("lora", 1e-3, knobs=LoraKnobs(lora_alpha=16))
    made = [
        FakeStrategy("full", StrategyConfig("full", 5e-5), {}),
        FakeStrategy("lora", lora, rank),
        FakeStrategy("hira", StrategyConfig("hira", 1e-3, knobs=HiraKnobs(rank=8)), rank),
        FakeStrategy(
            "partial", StrategyConfig("partial", 1e-4, knobs=PartialKnobs()), {"unfrozen_layers": IntDimension(1, 6)}
        ),
        FakeStrategy("head", StrategyConfig("head", 1e-3), {}),
        FakeStrategy("ia3", StrategyConfig("ia3", 1e-3), {}),
    ]
    return {strategy.name: strategy for strategy in made}


def declared(*names: str) -> Space:
    """The declared space of these methods, of all when none is named."""
    chosen = strategies()
    methods = tuple(method_space(chosen[name], MODEL) for name in names or chosen)  # type: ignore[arg-type]
    return Space(methods, shared_axes(()))


def memory_bytes(config: StrategyConfig) -> int:
    """Monotone in rank and layers."""
    base = {"full": 900, "lora": 400, "hira": 420, "partial": 350, "head": 200, "ia3": 380}[config.method]
    targets = 6 if config.knob("target_modules") == "all-linear" else 2
    return (base + (config.rank or 0) * targets + (config.knob("unfrozen_layers") or 0) * 40) * MIB


def run_s(config: StrategyConfig, train_rows: int) -> float:
    """Three seconds to start, then steps of 32 rows."""
    step_s = {"full": 0.2, "lora": 0.15, "hira": 0.16, "partial": 0.12, "head": 0.05, "ia3": 0.14}[config.method]
    return 3.0 + step_s * train_rows / 32 * config.num_train_epochs


@dataclass(frozen=True)
class Surface:
    """Synthetic response surface: per-method level, optimal learning rate, rank and depth, and a power law in the rows.

    Attributes:
        levels: Loss of each method at its best.
        best_rates: Octaves from the default learning rate to the best one.
        best_log2_rank, best_layers: Where adapters and partial fine-tuning are best.
    """

    levels: dict[str, float]
    best_rates: dict[str, float]
    best_log2_rank: float = 4.5
    best_layers: float = 4.0

    def nll(self, config: StrategyConfig, train_rows: int) -> float:
        """True held-out loss."""
        off_rate = 0.03 * (math.log2(config.lr_rel) - self.best_rates[config.method]) ** 2
        off_rank = 0.006 * (math.log2(config.rank) - self.best_log2_rank) ** 2 if config.rank else 0.0
        off_target = 0.02 if config.knob("target_modules") == "attention" else 0.0
        layers = config.knob("unfrozen_layers")
        off_layers = 0.006 * (layers - self.best_layers) ** 2 if layers else 0.0
        rows = 0.02 * (train_rows / TRAIN_ROWS) ** -0.5
        return self.levels[config.method] + off_rate + off_rank + off_target + off_layers + rows


SURFACE = Surface(
    {"full": 0.40, "lora": 0.39, "hira": 0.41, "partial": 0.43, "head": 0.55, "ia3": 0.48},
    {"full": 0.8, "lora": -1.2, "hira": 0.6, "partial": 0.4, "head": 0.9, "ia3": 1.1},
)


def random_surface(seed: int) -> Surface:
    """Another task: levels and optima differ, defaults are right on average only."""
    draw = random.Random(seed)
    return Surface(
        {name: level + draw.gauss(0, 0.03) for name, level in SURFACE.levels.items()},
        {name: draw.gauss(0, 1) for name in SURFACE.levels},
        draw.gauss(3.5, 1.5),
        draw.uniform(1, 6),
    )


class PublishedQuality(QualityModel):
    """Orders methods as published comparisons do, so that studies have a recommended one whatever it costs."""

    def estimate(self, model, strategy, data, *, min_quality=None, batch_size=16):
        return self.published(model, strategy, data, min_quality=min_quality)


class FakeCostModel:
    """Knows the fakes' memory and time exactly, unless told to be wrong about time."""

    device = DeviceProfile("fake", "a device without end", "cpu", 1 << 60)
    quality = PublishedQuality()

    def bounds(self, *_: Any) -> CostBounds:
        raise NotImplementedError("the study's own solver asks for estimates")

    def __init__(self, time_factor: float = 1.0, *, knows_time: bool = True, speed_up: float = 1.0) -> None:
        self.time_factor = time_factor
        self.knows_time = knows_time
        self.speed_up = speed_up

    def pack_speed_up(self, model: ModelSpec, strategies: Sequence[StrategyConfig], execution: ExecutionPlan) -> float:
        return self.speed_up

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        data: DataProfile | None,
        budget: Budget | None = None,
        *,
        with_quality: bool = True,
    ) -> CostEstimate:
        rows = data.train_rows if data is not None else TRAIN_ROWS
        needed = memory_bytes(strategy)
        memory = MemoryEstimate(
            needed, needed, needed, MemoryBreakdown(0, 0, 0, needed, 0, 0, 0), {}, "backward", "measured", "measured"
        )
        total_s = run_s(strategy, rows) * self.time_factor
        time_ = TimeEstimate(
            0.1, 320, 1e4, total_s, {"total_s": Interval(total_s, total_s)}, {}, "measured", "measured"
        )
        quality = QualityEstimate(ACCURACY, 0.8, Interval(0.7, 0.9), None, False, "", "extrapolated", "prior")
        return CostEstimate(
            memory,
            time_ if self.knows_time else None,
            quality if with_quality else None,
            True,
            1,
            2,
            "measured",
            "measured",
        )


def solve(
    request: PlanRequest, strategy: StrategyConfig, cost_model: CostModel, *, time_limit_s: float | None = None
) -> Plan | RejectedMethod:
    execution, budget = ExecutionPlan(request.effective_batch_size), request.budget
    predicted = cost_model.estimate(request.model, strategy, execution, request.data)
    plan = Plan(
        request.model, request.data_spec, request.data, strategy, execution, "cpu", request.seed, budget, predicted
    )
    if budget.memory_bytes is not None and predicted.memory.device_bytes > budget.memory_bytes:
        return RejectedMethod(strategy.method, "it needs too much memory", plan)
    if budget.time_s is not None and predicted.time is not None and predicted.time.total_s > budget.time_s:
        return RejectedMethod(strategy.method, "it takes too long", plan)
    return plan


@dataclass
class FakeRunner:
    """Trains nothing: looks the result up on the synthetic surface and lets a clock pass.

    Attributes:
        seconds: The clock that ``now`` reads.
        calls: Every run that was begun, as ``(method, rank, train_rows)``.
        plans: The plans of these runs.
        respond: Called first; an answer of its own replaces the run.
        sleep_s: Real time that a run takes.
        noise_sd: Of the reported loss.
        surface: The task.
    """

    respond: Callable[[Plan], Measurement | None] = lambda plan: None
    sleep_s: float = 0.0
    noise_sd: float = 0.0
    seed: int = 0
    surface: Surface = SURFACE
    seconds: float = 0.0
    calls: list[tuple[str, int | None, int]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)

    @property
    def runs(self) -> list[tuple[StrategyConfig, int]]:
        """What was trained on how many rows."""
        return [(plan.strategy, plan.data_profile.train_rows) for plan in self.plans]

    def now(self) -> float:
        return self.seconds

    def __call__(
        self, plan: Plan, output_dir: Path, *, resume: bool, time_limit_s: float | None, on_event: Any
    ) -> Measurement:
        config, rows = plan.strategy, plan.data_profile.train_rows
        self.calls.append((config.method, config.rank, rows))
        self.plans.append(plan)
        self.resumed.append(resume)
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "weights").write_text("x")
        answer = self.respond(plan)
        if answer is not None:
            self.seconds += answer.total_s
            return answer
        duration_s = run_s(config, rows)
        if time_limit_s is not None and duration_s > time_limit_s:
            self.seconds += time_limit_s
            return Measurement("over_time", "the limit was reached", total_s=time_limit_s)
        self.seconds += duration_s
        time.sleep(self.sleep_s)
        noise = random.Random(f"{self.seed} {config} {rows}").gauss(0, self.noise_sd) if self.noise_sd else 0.0
        nll = self.surface.nll(config, rows) + noise
        return Measurement(
            "completed",
            device_peak_bytes=memory_bytes(config),
            step_times_s=((duration_s - 3.0) / max(1, rows * 3 // 32),) * 4,
            loading_s=1.0,
            evaluation_s=1.0,
            saving_s=1.0,
            total_s=duration_s,
            metrics={"eval_loss": nll, "accuracy": 1 - nll / 2},
        )


def predict_pack(
    cost_model: Any,
    model: ModelSpec,
    strategies: Sequence[StrategyConfig],
    execution: ExecutionPlan,
    *,
    time_limit_s: float,
) -> PackEstimate:
    """Every further member adds half of what it needs alone."""
    needed = [memory_bytes(strategy) for strategy in strategies]
    members = len(strategies)
    return PackEstimate(members, needed[0] + sum(needed[1:]) // 2, members / cost_model.speed_up, float(members))


@dataclass
class FakePackRunner:
    """Packs that take ``speed_up`` times less than their members one after the other.

    Attributes:
        runner: What its members would do alone.
        packs: The plans of every pack.
        respond: Called first; answers of its own replace the pack.
        on_member: Called when a member is done.
    """

    runner: FakeRunner
    speed_up: float = 1.0
    respond: Callable[[Sequence[Plan]], list[Measurement] | None] = lambda plans: None
    on_member: Callable[[int, int], None] = lambda pack, position: None
    packs: list[list[Plan]] = field(default_factory=list)

    def __call__(
        self,
        plans: Sequence[Plan],
        output_dirs: Sequence[Path],
        *,
        resume: bool,
        time_limit_s: float | None,
        on_event: Any,
    ) -> list[Measurement]:
        self.packs.append(list(plans))
        answer, began_s = self.respond(plans), self.runner.seconds
        if answer is not None:
            return answer
        limit_s = None if time_limit_s is None else time_limit_s / len(plans) * self.speed_up
        found = []
        for position, (plan, output_dir) in enumerate(zip(plans, output_dirs, strict=True)):
            found.append(self.runner(plan, output_dir, resume=resume, time_limit_s=limit_s, on_event=None))
            self.on_member(len(self.packs), position)
        took_s = (self.runner.seconds - began_s) / self.speed_up
        self.runner.seconds = began_s + took_s
        return [
            dataclasses.replace(
                measurement,
                total_s=took_s,
                step_times_s=tuple(len(plans) / self.speed_up * step_s for step_s in measurement.step_times_s),
                device_peak_bytes=len(plans) * (measurement.device_peak_bytes or 0),
                pack=PackMembership(len(plans), position),
            )
            for position, measurement in enumerate(found)
        ]


def tune(
    folder: Path, runner: FakeRunner, *, time_budget_s: float = 3000.0, on_disk: bool = False, **changes: Any
) -> TuneResult:
    """A study on the fakes, in memory unless it is to be resumed."""
    options: dict[str, Any] = {
        "budget": Budget(memory_bytes=600 * MIB),
        "cost_model": FakeCostModel(),
        "strategies": strategies(),
        "solve": solve,
        "now": runner.now,
        "predict_pack": predict_pack,
        **changes,
    }
    if not on_disk:
        options["storage"] = optuna.storages.InMemoryStorage()
        options["resume"] = True
    budget, cost_model = options.pop("budget"), options.pop("cost_model")
    model, data, profile = options.pop("model", MODEL), options.pop("data", DATA), options.pop("profile", PROFILE)
    return tune_study(
        model,
        data,
        profile,
        cost_model,
        budget,
        time_budget_s=time_budget_s,
        study_dir=folder,
        runner=runner,
        **options,
    )


def die_in_pack(wanted: int) -> Callable[[int, int], None]:
    """Kills this process when the first member of the ``wanted``-th pack is done."""

    def on_member(pack: int, position: int) -> None:
        if (pack, position) == (wanted, 0):
            os.kill(os.getpid(), signal.SIGKILL)

    return on_member


if __name__ == "__main__":
    fake = FakeRunner(sleep_s=float(sys.argv[2]))
    packed: dict[str, Any] = {}
    if "--die-in-pack" in sys.argv:
        number = int(sys.argv[sys.argv.index("--die-in-pack") + 1])
        packer = FakePackRunner(fake, on_member=die_in_pack(number))
        packed = {"pack": PackChoice(2), "pack_runner": packer, "budget": Budget(memory_bytes=4096 * MIB)}
    tune(
        Path(sys.argv[1]),
        fake,
        time_budget_s=1e6,
        max_trials=int(sys.argv[3]),
        resume="--resume" in sys.argv,
        on_disk=True,
        **packed,
    )
