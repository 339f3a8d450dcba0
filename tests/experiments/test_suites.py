"""Published suites: their files, the verdicts against closed forms, and pairs that stand in for SNLI."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from advisor.core.errors import InputError
from advisor.core.serialization import to_json
from advisor.core.stats import student_t_quantile
from advisor.experiments.run_comparison import RunPredictions
from advisor.experiments.suites.definition import SUITES, Claim, SuiteDefinition, read_suite
from advisor.experiments.suites.pairs import MIXED, sentence_pairs
from advisor.experiments.suites.results import SuiteRun, cell_results, error_shape, verdicts
from advisor.experiments.suites.verdicts import (
    direction,
    judge,
    mean_places,
    paired_interval,
    smallest_difference,
)
from advisor.strategies import strategy_names

LEAST_CLAIMS = {"duke-adapters": 8, "columbia-hpml": 7, "roberta-imdb": 4, "snli-partial": 7}


def accuracy(**cells: tuple[float, ...]) -> dict[str, dict[int, dict[str, float]]]:
    return {name: {seed: {"accuracy": value} for seed, value in enumerate(values)} for name, values in cells.items()}


def claim(relation: str = "more", quantity: str = "accuracy") -> Claim:
    return Claim("X1", "a claim", quantity, relation, ("a",), ("b",))  # type: ignore[arg-type]


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAST_CLAIMS)
def test_a_published_suite_is_complete(name: str) -> None:
    suite = SUITES.get(name)
    assert len(suite.claims) >= LEAST_CLAIMS[name]
    assert {cell.method for cell in suite.cells} <= set(strategy_names())
    assert len(suite.cells_at(suite.scale("smoke"))) == 2
    assert suite.scale("small").seeds == 3
    for cell in suite.cells:
        if cell.part == "published":
            assert suite.published(cell)


def test_sizes_of_claims_are_those_of_the_tables() -> None:
    """A claim's size is the difference or ratio of the published figures that it names."""
    checked = 0
    for suite in SUITES.all():
        for found in suite.claims:
            if found.size is None or len(found.first) != 1 or len(found.second) != 1:
                continue
            first, second = (suite.published(suite.cell(name[0])) for name in (found.first, found.second))
            if found.quantity not in first or found.quantity not in second:
                continue
            a, b = first[found.quantity], second[found.quantity]
            expected = 100 * (a - b) if found.quantity == "accuracy" else a / b
            assert found.size == pytest.approx(expected, rel=0.02, abs=0.005), found.id
            checked += 1
    assert checked > 20


def test_names_of_a_suite_are_looked_up(tmp_path: Path) -> None:
    text = to_json(SUITES.get("roberta-imdb"))
    path = tmp_path / "mine.json"
    path.write_text(text.replace('"first": [\n        "full"', '"first": [\n        "fool"'), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_suite(path)
    assert caught.value.problems == ("claim C1: no cell fool",)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_the_interval_is_students() -> None:
    differences = [1.0, 2.0, 4.0, 3.5]
    half = student_t_quantile(0.95, 3) * statistics.stdev(differences) / 2
    low, high = paired_interval(differences)
    assert (low, high) == pytest.approx((2.625 - half, 2.625 + half))
    assert paired_interval([0.5, 0.5]) == (0.5, 0.5)


def test_the_smallest_difference_has_the_power_that_it_promises() -> None:
    """By simulation: of paired differences that scatter alike around it, the test shows about 80 %."""
    import numpy as np
    from scipy.stats import t

    differences = [-1.0, 0.0, 1.0]  # standard deviation 1
    smallest = smallest_difference(differences)
    drawn = np.random.default_rng(0).normal(smallest, 1.0, size=(40_000, 3))
    statistic = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(3))
    assert (statistic > t.ppf(0.95, 2)).mean() == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "relation", "outcome"),
    [
        (0.5, 3.0, "more", "reproduced"),
        (0.5, 3.0, "less", "contradicted"),
        (-3.0, -0.5, "less", "reproduced"),
        (-3.0, -0.5, "more", "contradicted"),
        (-0.9, 0.9, "more", "tie"),
        (-0.9, 0.9, "same", "reproduced"),
        (-3.0, 3.0, "more", "underpowered"),
        (-3.0, 3.0, "same", "underpowered"),
        (1.5, 3.0, "same", "contradicted"),
        (0.5, 3.0, "same", "underpowered"),
    ],
)
def test_directions(low: float, high: float, relation: str, outcome: str) -> None:
    assert direction(low, high, 1.0, relation) == outcome  # type: ignore[arg-type]


def test_a_clear_difference_is_reproduced_in_points() -> None:
    found = judge(claim(), accuracy(a=(0.90, 0.91, 0.92), b=(0.80, 0.812, 0.818)))
    assert (found.outcome, found.seeds) == ("reproduced", 3)
    assert found.measured == pytest.approx(10.0)
    assert found.smallest_shown is None


def test_noise_is_underpowered_and_says_what_it_would_have_shown() -> None:
    found = judge(claim(), accuracy(a=(0.90, 0.80, 0.85), b=(0.80, 0.84, 0.86)))
    assert found.outcome == "underpowered"
    assert found.smallest_shown is not None and found.smallest_shown > 10


def test_one_seed_shows_no_quality_but_it_shows_memory() -> None:
    assert judge(claim(), accuracy(a=(0.9,), b=(0.1,))).outcome == "underpowered"
    figures = {"a": {0: {"allocated_peak_bytes": 50.0}}, "b": {0: {"allocated_peak_bytes": 100.0}}}
    found = judge(claim("less", "allocated_peak_bytes"), figures)
    assert (found.outcome, found.measured) == ("reproduced", 0.5)
    assert judge(claim("same", "allocated_peak_bytes"), figures).outcome == "contradicted"
    figures["b"][0]["allocated_peak_bytes"] = 51.0
    assert judge(claim("less", "allocated_peak_bytes"), figures).outcome == "tie"


def test_losses_are_compared_as_ratios() -> None:
    figures = {
        "a": {seed: {"perplexity": 2.0 * scale} for seed, scale in enumerate((1.0, 1.1, 0.9))},
        "b": {seed: {"perplexity": 4.0 * scale} for seed, scale in enumerate((1.0, 1.1, 0.9))},
    }
    found = judge(claim("less", "perplexity"), figures)
    assert (found.outcome, found.measured) == ("reproduced", pytest.approx(0.5))


def test_only_seeds_of_both_sides_count_and_none_is_no_verdict() -> None:
    figures = accuracy(a=(0.9, 0.8), b=(0.5, 0.4, 0.9))
    assert judge(claim(), figures).seeds == 2
    assert judge(claim(), {"a": figures["a"]}).outcome == "not judged"


def test_a_claim_against_several_cells_is_as_good_as_its_worst_comparison() -> None:
    several = Claim("X2", "best", "samples_per_s", "more", ("a",), ("b", "c"))
    figures = {name: {0: {"samples_per_s": value}} for name, value in (("a", 2.0), ("b", 1.0), ("c", 3.0))}
    assert judge(several, figures).outcome == "contradicted"
    either = Claim("X3", "one of two is best", "samples_per_s", "more", ("a", "c"), ("b",))
    assert judge(either, figures).measured == pytest.approx(3.0)


def test_rankings() -> None:
    cells = {"a": {"accuracy": 0.9, "training_s": 10.0}, "b": {"accuracy": 0.8, "training_s": 5.0}}
    assert mean_places(cells, {"accuracy": "more", "training_s": "less"}) == {"a": 1.5, "b": 1.5}
    order = Claim("X4", "a before b", order=("a", "b"), ranked_by={"accuracy": "more"})
    assert judge(order, accuracy(a=(0.9, 0.8), b=(0.7, 0.6))).outcome == "reproduced"
    assert judge(order, accuracy(a=(0.1, 0.2), b=(0.7, 0.6))).outcome == "contradicted"
    assert judge(order, accuracy(a=(0.9, 0.2), b=(0.7, 0.6))).outcome == "underpowered"


# --- results ----------------------------------------------------------------------------------------------------------


def rows_of(suite: SuiteDefinition, runs: list[SuiteRun]) -> list:
    words = {"trained": "", "model": "", "data": ""}
    return [
        cell_results(suite, cell, [run for run in runs if run.cell == cell.id], 3, described=words)
        for cell in suite.cells
    ]


def some_runs(cell: str, value: float, **options: bool) -> list[SuiteRun]:
    figures = {"accuracy": value, "allocated_peak_bytes": 1e9 * value}
    return [
        SuiteRun(cell, seed, "", figures={**figures, "accuracy": value + 0.001 * seed}, **options) for seed in (1, 2, 3)
    ]


def test_states_of_cells() -> None:
    suite = SUITES.get("roberta-imdb")
    runs = some_runs("full", 0.9) + some_runs("lora", 0.5, at_chance=True) + some_runs("qlora", 0.8)[:1]
    runs += [SuiteRun("ia3", seed, "", diverged=True) for seed in (1, 2)] + some_runs("ia3", 0.8)[2:]
    rows = {row.cell: row for row in rows_of(suite, runs)}
    assert {name: row.state for name, row in rows.items()} == {
        "full": "complete",
        "lora": "onset not reached",
        "qlora": "incomplete",
        "ia3": "invalid",
    }
    assert rows["ia3"].diverged == (1, 2)
    assert rows["full"].measured["accuracy"].deviation == pytest.approx(0.001)
    found = {
        (v.claim, v.basis): v for v in verdicts(suite, rows.values(), runs, constructed=frozenset(), stand_in=True)
    }
    assert found["C1", "measured on stand-ins"].reason == "onset not reached: lora"
    assert found["C5", "measured on stand-ins"].outcome == "reproduced"  # memory does not need to leave chance
    assert found["C6", "measured on stand-ins"].outcome == "contradicted"
    assert found["C7", "measured on stand-ins"].outcome == "not judged"  # its cell is invalid


def test_constructed_pairs_settle_no_accuracy() -> None:
    suite = SUITES.get("snli-partial")
    runs = [run for cell in suite.cells for run in some_runs(cell.id, 0.8)]
    rows = rows_of(suite, runs)
    found = {v.claim: v for v in verdicts(suite, rows, runs, constructed=frozenset({"snli"}), stand_in=True)}
    assert found["D1"].outcome == "not judged"
    assert found["D4"].outcome == "tie"
    assert found["D6"].reason == "there is no prediction of its cells"


def test_pairs_use_every_sentence_once_in_classes_of_one_size() -> None:
    rows = [(f"good {number}", 1) for number in range(40)] + [(f"bad {number}", 0) for number in range(32)]
    pairs = sentence_pairs(rows, ("negative", "positive"))
    assert pairs == sentence_pairs(rows[::-1], ("negative", "positive"))
    sentences = [pair[name] for pair in pairs for name in ("text", "text_pair")]
    assert len(sentences) == len(set(sentences)) == 60
    for pair in pairs:
        kinds = {pair["text"].split()[0], pair["text_pair"].split()[0]}
        assert pair["label"] == (
            MIXED if len(kinds) == 2 else {"good": "both positive", "bad": "both negative"}[kinds.pop()]
        )
    assert [sum(pair["label"] == label for pair in pairs) for label in {pair["label"] for pair in pairs}] == [10] * 3


# --- the shape of errors ----------------------------------------------------------------------------------------------


def predictions(label: list[int], predicted: list[int], probability: list[list[float]]) -> RunPredictions:
    columns = {"label": np.array(label), "predicted": np.array(predicted), "probability": np.array(probability)}
    return RunPredictions("run", "lora", 42, "setting", columns, ("yes", "neutral", "no"))


def test_where_errors_lie() -> None:
    """Four errors of eight rows: three are neutral, one is taken for neutral."""
    sure, torn = [0.8, 0.1, 0.1], [0.5, 0.4, 0.1]
    wrong = [sure, sure, torn, [0.3, 0.6, 0.1]]
    right = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    run = predictions([1, 1, 1, 0, 0, 1, 2, 2], [0, 0, 0, 1, 0, 1, 2, 2], [*wrong, *right])
    assert error_shape(run, ["one of each", "neutral"]) == {
        "true_middle_share": 0.5,
        "errors_true_middle_share": 0.75,
        "errors_predicted_middle_share": 0.25,
        "errors_overconfidence": pytest.approx(0.5),  # of 0.7, 0.7, 0.1 and 0.3
    }
    assert error_shape(run, ["one of each"]) == {}
    assert error_shape(predictions([0, 1], [0, 1], right[:2]), ["neutral"]) == {}


def test_a_claim_may_compare_two_figures_of_one_cell() -> None:
    found = Claim(
        "X1", "a claim", "errors_true_middle_share", "more", ("a",), ("a",), second_quantity="true_middle_share"
    )
    runs = {"a": {seed: {"errors_true_middle_share": 0.5 + seed / 100, "true_middle_share": 0.33} for seed in range(3)}}
    verdict = judge(found, runs)
    assert (verdict.outcome, verdict.seeds) == ("reproduced", 3)
    assert verdict.measured == pytest.approx(18.0)
    assert judge(found, {"a": {0: {"errors_true_middle_share": 0.5}}}).outcome == "not judged"
