"""Tables say the figures, their intervals and verdicts; JSON answers keep their documented keys."""

import io
import json

import pytest
from rich.console import Console

from advisor.core.budget import Budget
from advisor.core.cost import Interval, QualityEstimate
from advisor.core.device import DeviceProfile, Rate
from advisor.core.metrics import ACCURACY
from advisor.core.plan import ExecutionPlan
from advisor.core.recommendation import RankedPlan, Recommendation, RejectedMethod
from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.core.strategy import StrategyConfig
from advisor.reporting.cost import print_cost
from advisor.reporting.device import print_device, print_device_list
from advisor.reporting.plans import format_budget, print_recommendation, recommendation_answer
from advisor.reporting.progress import ProgressView
from advisor.reporting.run import print_run, run_answer
from advisor.reporting.text import format_execution, format_quality, format_strategy
from advisor.reporting.verification import verify
from advisor.strategies.lora import LoraKnobs
from tests.core.records import cost_estimate, make_plan, measurement


class Page:
    """A wide console that remembers what was printed."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.console = Console(file=self._stream, width=200)

    @property
    def text(self) -> str:
        return self._stream.getvalue()


def record(**changes: object) -> RunRecord:
    plan, measured = make_plan(), measurement(**changes)
    return RunRecord(
        plan, measured, verify(plan, measured), "cpu-test", {"torch": "2"}, "2026-01-01T00:00:00+00:00", "runs/a"
    )


def recommendation(*, fits: bool = True) -> Recommendation:
    plan = make_plan()
    other = make_plan(strategy=StrategyConfig(method="full", learning_rate=5e-5))
    ranked = (RankedPlan(plan, 0.8, True, "expected best"), RankedPlan(other, 0.79, True, "costs more"))
    rejected = (RejectedMethod("qlora", "needs 3.1 GiB of 1.0 GiB", plan),)
    advice = ("a note",) if fits else ("the smallest plan needs 3.1 GiB",)
    return Recommendation("cpu-test", Budget(2**30, 600.0), ranked if fits else (), rejected, 12, advice)


def test_a_cost_table_has_every_figure_with_its_interval_and_basis() -> None:
    page = Page()
    print_cost(page.console, cost_estimate(), title="lora on tiny")
    for text in (
        "lora on tiny",
        "100 MiB",
        "600 MiB",
        "550 MiB – 650 MiB",
        "500 ms",
        "1 min 00 s",
        "0.800",
        "0.740 – 0.860",
    ):
        assert text in page.text
    for text in ("calibrated", "prior", "interpolated", "extrapolated", "1.0 %", "; fits", "during backward"):
        assert text in page.text


def test_a_cost_tells_speeds_and_where_the_time_goes() -> None:
    page = Page()
    print_cost(page.console, cost_estimate(), title="lora on tiny")
    assert "whole run = loading the model 2.0 s + training steps 53 s + evaluation 5.0 s" in page.text
    assert "inference, samples per second" in page.text and "15 – 30" in page.text
    assert "energy: no power is known" in page.text
    assert "decoding" not in page.text


def test_a_run_tells_where_the_time_went() -> None:
    page = Page()
    parts_s = {"loading": 3.0, "training": 50.0, "evaluation": 5.0, "other": 3.0}
    print_run(page.console, record(parts_s=parts_s, energy_j=7200.0, energy_source="a meter"))
    assert "energy 2 Wh (a meter)" in page.text
    rows = {line.split("  ")[0]: line for line in page.text.splitlines()}
    assert "2.0 s" in rows["loading the model"] and "-1.6 %" in rows["loading the model"]
    assert "+4.9 %" in rows["training steps"]
    assert "–" in rows["other"]


def test_a_cost_that_does_not_fit_says_so() -> None:
    page = Page()
    print_cost(page.console, cost_estimate(fits=False, time=None, quality=None, notes=("a note",)), title="x")
    assert "does not fit" in page.text
    assert "note: a note" in page.text


def test_a_recommendation_lists_winners_losers_and_reasons() -> None:
    page = Page()
    print_recommendation(page.console, recommendation())
    for text in (
        "within 1.00 GiB and 10 min 00 s",
        "1=",
        "2=",
        "expected best",
        "qlora",
        "needs 3.1 GiB",
        "Recommended: lora",
    ):
        assert text in page.text
    assert "- a note" in page.text


def test_nothing_fits_is_the_first_thing_said() -> None:
    page = Page()
    print_recommendation(page.console, recommendation(fits=False))
    assert page.text.startswith("No plan fits within 1.00 GiB")
    assert "the smallest plan needs 3.1 GiB" in page.text


def test_a_run_prints_predicted_against_measured() -> None:
    page = Page()
    print_run(page.console, record(device_peak_bytes=2**30))
    for text in ("Predicted vs measured", "inside", "outside", "-2.0 points", "exact", "1,000", "accuracy"):
        assert text in page.text


def test_a_device_names_its_sources() -> None:
    profile = DeviceProfile(
        id="t4",
        name="NVIDIA T4",
        type="cuda",
        memory_bytes=15 * 2**30,
        compute_capability=(7, 5),
        dtypes=("float32", "float16"),
        context_bytes=160 * 2**20,
        context_interval_bytes=(100 * 2**20, 500 * 2**20),
        flops_per_s={"float16": Rate(65e12, "datasheet")},
        bytes_per_s={"memory": Rate(320e9, "datasheet")},
        sources={"memory_bytes": "the datasheet"},
        warnings=("noisy",),
    )
    page = Page()
    print_device(page.console, profile)
    print_device_list(page.console, [profile])
    for text in ("NVIDIA T4", "15.0 GiB", "7.5", "65 TFLOP/s", "320 GB/s", "the datasheet", "warning: noisy"):
        assert text in page.text
    assert "100 MiB – 500 MiB" in page.text


def test_the_list_of_devices_has_one_line_each_and_admits_what_is_unknown() -> None:
    known = DeviceProfile(
        "t4",
        "NVIDIA T4",
        "cuda",
        15 * 2**30,
        dtypes=("float32", "float16"),
        flops_per_s={"float32": Rate(8.1e12, "d"), "float16": Rate(65e12, "d"), "tf32": Rate(99e12, "d")},
        bytes_per_s={"memory": Rate(320e9, "d")},
    )
    page = Page()
    print_device_list(page.console, [known, DeviceProfile("bare", "Bare", "cpu", 2**30)])
    rows = [line.split() for line in page.text.splitlines()]
    assert ["t4", "T4", "15.0", "GiB", "65", "320", "datasheet"] in rows
    assert ["bare", "Bare", "1.00", "GiB", "?", "?", "datasheet"] in rows


def test_knobs_in_one_line() -> None:
    config = StrategyConfig("lora", 1e-3, num_train_epochs=1, knobs=LoraKnobs(("q", "v"), 8, lora_alpha=16))
    assert format_strategy(config) == "r=8, alpha=16, q+v, lr 0.001, 1 epoch"
    execution = ExecutionPlan(4, 8, 128, gradient_checkpointing=True, amp="bf16")
    assert (
        format_execution(execution)
        == "4 x 8 rows, 128 tokens, checkpointing, sdpa, float32 + bf16 amp, adamw_torch_fused"
    )
    assert format_budget(Budget()) == "without a budget"


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [(0.8, Interval(0.7, 0.9), "0.800 (0.700 – 0.900)"), (0.8, None, "0.800"), (None, None, "unknown")],
)
def test_quality_in_one_line(value: float | None, interval: Interval | None, text: str) -> None:
    quality = QualityEstimate(ACCURACY, value, interval, None, False, "", "extrapolated", "prior")
    assert format_quality(quality) == text


def test_the_recommend_answer_has_its_documented_keys(tmp_path) -> None:
    answer = json.loads(to_json(recommendation_answer(recommendation(), tmp_path / "plan.json")))
    keys = ["device_id", "budget", "considered", "evaluated", "replays", "ranked", "rejected", "advice", "plan_path"]
    assert list(answer) == keys
    first = answer["ranked"][0]
    keys = ["rank", "method", "score", "tied", "reason", "largest_ranks", "strategy", "execution", "cost"]
    assert list(first) == keys
    assert first["cost"]["memory"]["device_bytes"] == 600 * 2**20
    assert answer["rejected"][0]["smallest_plan"]["strategy"]["method"] == "lora"
    assert recommendation_answer(recommendation(fits=False), tmp_path)["plan_path"] is None


def test_the_cost_answer_has_the_keys_of_the_design() -> None:
    cost = json.loads(to_json(cost_estimate()))
    assert {"allocated_bytes", "reserved_bytes", "device_bytes", "breakdown", "intervals", "peak_phase"} <= set(
        cost["memory"]
    )
    assert all(name.endswith("_bytes") for name in cost["memory"]["breakdown"])
    assert {"step_s", "samples_per_s", "tokens_per_s", "total_s", "intervals"} <= set(cost["time"])
    assert {"metric", "value", "interval", "p_at_least"} <= set(cost["quality"])
    assert {"fits", "trainable_parameters", "total_parameters", "evidence", "basis"} <= set(cost)


def test_the_run_answer_has_its_documented_keys() -> None:
    answer = json.loads(to_json(run_answer(record())))
    assert list(answer) == [
        "outcome",
        "method",
        "metrics",
        "verifications",
        "predicted",
        "measured",
        "benchmark",
        "device_id",
        "output_dir",
        "profile",
    ]


def test_progress_without_a_terminal_is_plain_and_sparse() -> None:
    page = Page()
    with ProgressView(page.console) as view:
        view.on_event({"kind": "phase", "name": "training"})
        for step in range(1, 101):
            view.on_event({"kind": "step", "step": step, "total": 100, "loss": 1 / step})
        view.on_event({"kind": "metrics", "metrics": {"accuracy": 0.5}})
        view.on_event({"kind": "something new", "x": 1})
        view.on_event({"kind": "note", "text": "[careful] with brackets"})
    lines = page.text.splitlines()
    assert lines[0] == "training ..."
    assert sum("step" in line for line in lines) == 1
    assert "held-out: accuracy 0.5" in page.text
    assert "[careful] with brackets" in page.text


def test_progress_on_a_terminal_survives_every_kind_of_event() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressView(console) as view:
        for event in (
            {"kind": "step", "step": 1, "total": 2, "loss": None},
            {"kind": "phase", "name": "evaluation"},
            {"kind": "evaluation", "batch": 1, "total": None},
            {"kind": "progress", "text": "tracing", "share": 0.5},
            {"kind": "resumed", "step": 7},
            {"kind": "trial", "trial": 3, "method": "lora", "state": "evaluated", "train_rows": 160, "metric": 0.5},
            {"kind": "metrics", "trial": 3, "metrics": {"accuracy": 0.123}},
        ):
            view.on_event(event)
    assert "trial 3: lora, evaluated, train rows 160, metric 0.5" in console.file.getvalue()
    assert "0.123" not in console.file.getvalue()
