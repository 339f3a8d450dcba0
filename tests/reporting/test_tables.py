"""Tables say the figures, their intervals and verdicts; JSON answers keep their documented keys."""

import dataclasses
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
from advisor.core.run import Measurement, RunRecord
from advisor.core.serialization import to_json
from advisor.core.strategy import StrategyConfig
from advisor.reporting.cost import print_cost
from advisor.reporting.device import print_device, print_device_list
from advisor.reporting.plans import format_budget, print_recommendation, recommendation_answer
from advisor.reporting.progress import ProgressView
from advisor.reporting.run import print_run, run_answer
from advisor.reporting.study import print_study
from advisor.reporting.study_panel import StudyPanel
from advisor.reporting.text import format_execution, format_quality, format_strategy
from advisor.reporting.verification import verify
from advisor.search.study import Evaluation, ExceededLimit, NeverStarted, TrialSummary, TuneResult
from advisor.search.study.trial_history import leaderboard, pareto_points, race_points
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
    keys = ["device_id", "objective", "budget", "considered", "evaluated", "replays", "ranked", "rejected", "advice"]
    assert list(answer) == [*keys, "plan_path"]
    first = answer["ranked"][0]
    keys = ["rank", "method", "score", "tied", "pareto", "reason", "largest_ranks", "strategy", "execution", "cost"]
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


STATUS = {
    "kind": "study", "state": "status", "reason": "", "best_trial": 3, "best_method": "lora", "best_lr_rel": 3.0,
    "metric_name": "accuracy", "metric": 0.78, "low": 0.75, "high": 0.81, "train_rows": 1600,
    "ladder_rows": [640, 1600], "rung_trials": [4, 2], "remaining_s": 300.0, "reserved_s": 60.0, "budget_s": 600.0,
    "expected_gain": None, "objective": "quality", "energy_used_j": None, "energy_budget_j": None,
}  # fmt: skip


def drawn(panel: StudyPanel) -> str:
    page = Page()
    page.console.print(panel)
    return page.text


def test_a_study_on_a_terminal_is_a_panel_of_what_runs_and_what_is_left() -> None:
    clock = [0.0]
    panel = StudyPanel(now=lambda: clock[0])
    assert "starting" in drawn(panel)
    panel.take(STATUS)
    panel.take({"kind": "trial", "state": "started", "trial": 7, "method": "ia3", "train_rows": 640})
    panel.take({"kind": "step", "step": 12, "total": 60, "loss": 0.51234, "trial": 7})
    clock[0] = 30.0
    shown = drawn(panel)
    for text in (
        "trial 7: ia3 on 640 rows, step 12 of 60, loss 0.5123",
        "640 rows: 4 > 1,600 rows: 2",
        "trial 3, lora at 3 x its learning rate, accuracy 0.780 (90 %: 0.75 to 0.81) on 1,600 rows",
        "4 min 30 s left of 10 min 00 s and 1 min 00 s for the final run",
        "not known yet",
        "Ctrl-C ends it with the best plan so far",
    ):
        assert text in shown
    panel.take({**STATUS, "expected_gain": 0.0213, "best_trial": None, "energy_budget_j": 72e3, "energy_used_j": 36e3})
    panel.take({"kind": "phase", "name": "the verified final run"})
    shown = drawn(panel)
    assert "may lower the loss by 0.021" in shown and "the recommended default" in shown
    assert "10 Wh of 20 Wh used" in shown and "now" in shown and "the verified final run" in shown
    assert "step 12" not in shown


def test_trials_in_one_pass_are_shown_together() -> None:
    panel, page = StudyPanel(), Page()
    for number in (4, 5):
        started = {"kind": "trial", "state": "started", "trial": number, "method": "lora", "pack": [4, 5]}
        panel.take(started)
        with ProgressView(page.console) as view:
            view.on_event(started)  # type: ignore[arg-type]
    panel.take({"kind": "step", "step": 12, "total": 60, "loss": 0.5, "trial": 4})
    assert "trials 4, 5 in one pass: lora, step 12 of 60" in drawn(panel) and "loss" not in drawn(panel)
    assert "trial 4: lora, started, in one pass with 5" in page.text
    panel.take({"kind": "trial", "state": "evaluated", "trial": 5, "method": "lora"})
    panel.take({"kind": "trial", "state": "started", "trial": 6, "method": "ia3"})
    panel.take({"kind": "step", "step": 1, "total": 60, "loss": 0.5, "trial": 6})
    assert "trial 6: ia3, step 1 of 60, loss 0.5000" in drawn(panel)


def test_a_study_in_a_log_is_plain_lines_and_on_a_terminal_lines_above_the_panel() -> None:
    events = (
        {"kind": "phase", "name": "tuning"},
        STATUS,
        {"kind": "trial", "trial": 7, "method": "ia3", "state": "started", "train_rows": 640},
        {"kind": "step", "trial": 7, "step": 12, "total": 60, "loss": 0.5},
        {"kind": "trial", "trial": 7, "method": "ia3", "state": "pruned", "reason": "others were better on 640 rows"},
        {"kind": "study", "state": "stopped", "reason": "the time budget is used"},
    )
    page = Page()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    for console in (page.console, terminal):
        with ProgressView(console) as view:
            for event in events:
                view.on_event(event)  # type: ignore[arg-type]
    assert "\x1b" not in page.text
    assert "best so far: trial 3, lora at 3 x its learning rate" in page.text
    assert "trial 7: ia3, started" in page.text
    drawn_text = terminal.file.getvalue()
    assert "Ctrl-C ends it" in drawn_text and "trial 7: ia3, pruned, others were better" in drawn_text


def study_result(**changes: object) -> TuneResult:
    lora, head = StrategyConfig("lora", 1e-3, knobs=LoraKnobs()), StrategyConfig("head", 1e-3)

    def run(rows: int, nll: float, peak_mib: int, total_s: float) -> Evaluation:
        return Evaluation(
            rows, "completed", "", nll, 1 - nll / 2, peak_mib * 2**20, 9.0, total_s, {}, Measurement("completed")
        )

    trials = (
        TrialSummary(0, {}, lora, "completed", "", "recommended", (run(640, 0.5, 400, 90.0),)),
        TrialSummary(1, {}, dataclasses.replace(lora, lr_rel=3.0, learning_rate=3e-3), "completed", "", "race",
                     (run(640, 0.4, 400, 90.0),)),
        TrialSummary(2, {}, head, "completed", "", "default", (run(640, 0.9, 200, 30.0),)),
    )  # fmt: skip
    never = (
        NeverStarted(None, "full", "needs 3.1 GiB", exceeded=(ExceededLimit("memory_bytes", 3.1 * 2**30, 2**30),)),
        NeverStarted(None, "ia3", "there was no time to try it"),
        *(NeverStarted(n, "lora", "never started: needs 1.2 GiB",
                       exceeded=(ExceededLimit("memory_bytes", 1.2 * 2**30, 2**30),)) for n in (3, 4)),
    )  # fmt: skip
    result = TuneResult(
        make_plan(), 1, "trial 1, the best of 3 trials on 640 rows", "accuracy", trials,
        pareto_points(trials, ACCURACY), never, (640,), 900, "max_trials = 3 trials were started", 61.0, "s", "n",
        final_skipped="it would take longer", leaderboard=leaderboard(trials), race=race_points(trials),
    )  # fmt: skip
    return dataclasses.replace(result, **changes)  # type: ignore[arg-type]


def test_a_study_ends_with_a_leaderboard_the_race_and_what_was_never_started() -> None:
    page = Page()
    print_study(page.console, study_result())
    lines = page.text.splitlines()
    board = next(line for line in lines if "Leaderboard" in line)
    assert "Learning-rate race of lora on 640 rows" in board, "side by side where there is room"
    rows = [line for line in lines if "completed" in line]
    assert [row.split()[0] for row in rows] == ["1", "0", "2"]
    assert ["yes" in row for row in rows] == [True, False, True]
    assert any("full" in line and "3.10 GiB" in line and "memory 1.00 GiB" in line for line in lines)
    assert any("ia3" in line and "no time" in line for line in lines)
    assert any("lora" in line and " 2 " in line and "1.20 GiB" in line for line in lines)
    narrow = io.StringIO()
    print_study(Console(file=narrow, width=100), study_result())
    assert max(map(len, narrow.getvalue().splitlines())) <= 100
    assert "Learning-rate race" in narrow.getvalue()
    values = json.loads(to_json(study_result()))
    assert values["leaderboard"] == [1, 0, 2] and [point["lr_rel"] for point in values["race"]] == [1.0, 3.0]
    assert values["never_started"][0]["exceeded"][0]["name"] == "memory_bytes"
