"""Runs compared item by item, against counts by hand and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from advisor.core.errors import InputError
from advisor.core.metrics import ACCURACY, PERPLEXITY
from advisor.experiments.run_comparison import NO_TEXTS, RunPredictions, compare_runs, mcnemar_p

NAMES = ("no", "yes")


def run(name: str, predicted: list[int], *, seed: int = 0, setting: str = "a", items: list[str] | None = None,
        label: list[int] | None = None, sure: float = 0.9) -> RunPredictions:  # fmt: skip
    said = np.array(predicted)
    columns = {
        "item": np.array(items or [f"i{number:03}" for number in range(len(said))], dtype=object),
        "label": np.array(label or [number % 2 for number in range(len(said))]),
        "predicted": said,
        "probability": np.where(np.eye(2)[said] == 1, sure, 1 - sure),
    }
    return RunPredictions(name, "lora", seed, setting, columns, NAMES)


# Labels are 0 1 0 1 ...; the first run is wrong at 0, 1 and 2, the second at 2, 3 and 5.
FIRST, SECOND = run("x", [1, 0, 1, 1, 0, 1, 0, 1]), run("y", [0, 1, 1, 0, 0, 0, 0, 1], sure=0.6)


def test_overlap_kappa_and_shares_by_hand() -> None:
    found = compare_runs([FIRST, SECOND], ACCURACY, {})
    (pair,) = found.pairs
    assert (pair.both_wrong, pair.only_first_wrong, pair.only_second_wrong, pair.both_right) == (1, 2, 2, 3)
    assert pair.expected_both_wrong == pytest.approx(3 * 3 / 8)
    agreement, chance = 4 / 8, (3 / 8) ** 2 + (5 / 8) ** 2
    assert pair.kappa == pytest.approx((agreement - chance) / (1 - chance))
    assert pair.difference == 0 and pair.low is not None and pair.low < 0 < (pair.high or 0)
    assert [(group.items, group.errors) for group in found.classes] == [(4, (2, 1)), (4, (1, 2))]
    assert found.runs[0].true_shares == pytest.approx({"no": 2 / 3, "yes": 1 / 3})
    assert found.runs[0].predicted_shares == pytest.approx({"no": 1 / 3, "yes": 2 / 3})
    assert [one.overconfidence for one in found.runs] == [pytest.approx((0.8,) * 5), pytest.approx((0.2,) * 5)]
    assert found.hardest[0].item == "i002" and found.hardest[0].wrong == 2
    assert found.notes == (NO_TEXTS,)


def test_the_order_of_the_items_does_not_matter() -> None:
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    columns = {name: column[order] for name, column in SECOND.columns.items()}
    shuffled = RunPredictions("y", "lora", 0, "a", columns, NAMES)
    assert compare_runs([FIRST, shuffled], ACCURACY, {}) == compare_runs([FIRST, SECOND], ACCURACY, {})


@pytest.mark.parametrize(("one", "other"), [(1, 9), (10, 10), (0, 5), (40, 70)])
def test_mcnemar_is_the_exact_binomial_test(one: int, other: int) -> None:
    tail = binom.cdf(min(one, other), one + other, 0.5)
    assert mcnemar_p(one, other) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_p(0, 0) == 1.0


def test_the_paired_interval_knows_which_errors_are_shared() -> None:
    """Both are wrong on the same 60 of 200 items, the second on 10 more: the difference varies by these 10 alone."""
    label = [0] * 200
    runs = [run(name, [1] * wrong + [0] * (200 - wrong), label=label) for name, wrong in (("x", 60), ("y", 70))]
    (pair,) = compare_runs(runs, ACCURACY, {}).pairs
    half = 1.96 * math.sqrt(0.05 * 0.95 / 200)
    assert (pair.low, pair.high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.006)
    assert pair.mcnemar_p == pytest.approx(2 * 0.5**10)


def test_words_and_lengths_of_errors() -> None:
    """40 items; "odd" stands in 8 of them, 6 of which are among the 10 errors: 6 / 8 over 10 / 40."""
    texts = {f"i{n:03}": "odd film" if n < 6 or n in (20, 21) else f"a film{'!' * (n % 3)}" for n in range(40)}
    runs = [run(name, [1] * 10 + [0] * 30, label=[0] * 40) for name in ("x", "y")]
    found = compare_runs(runs, ACCURACY, texts)
    word = found.words["x"][0]
    assert (word.word, word.items, word.errors) == ("odd", 8, 6)
    assert word.ratio == pytest.approx((6 / 8) / (10 / 40))
    tail = sum(math.comb(8, k) * math.comb(32, 10 - k) for k in range(6, 9)) / math.comb(40, 10)
    assert word.p == pytest.approx(tail)
    by_length = {group.name: (group.items, group.errors) for group in found.lengths}
    expected = {length: [n for n in range(40) if len(texts[f"i{n:03}"]) == length] for length in (6, 7, 8)}
    assert by_length == {
        f"{length} to {length} characters": (len(items), (sum(n < 10 for n in items),) * 2)
        for length, items in expected.items()
    }


def test_seeds_are_summed_up_apart_from_items() -> None:
    def trained(setting: str, seed: int, wrong: int) -> RunPredictions:
        return run(f"{setting}{seed}", [1] * wrong + [0] * (100 - wrong), label=[0] * 100, seed=seed, setting=setting)

    runs = [trained("a", 1, 10), trained("a", 2, 14), trained("a", 3, 12), trained("b", 1, 20), trained("b", 2, 18)]
    found = compare_runs(runs, ACCURACY, {})
    assert [group.values for group in found.seeds] == [(0.9, 0.86, 0.88), (0.8, 0.82)]
    assert found.seeds[0].sd == pytest.approx(0.02)
    (difference,) = found.seed_differences
    assert difference.seeds == (1, 2)
    assert difference.differences == pytest.approx((0.1, 0.04))
    half = 12.7062047 * math.sqrt(0.0018) / math.sqrt(2)
    assert (difference.low, difference.high) == pytest.approx((0.07 - half, 0.07 + half))
    assert len(found.pairs) == 10


def test_language_models_are_compared_by_their_loss() -> None:
    draw = np.random.default_rng(0)
    tokens, nll = np.full(50, 10), draw.gamma(2.0, 10.0, 50)

    def model(name: str, worse: float) -> RunPredictions:
        columns = {"item": np.array([f"i{n}" for n in range(50)], dtype=object), "nll": nll + worse, "tokens": tokens}
        return RunPredictions(name, "lora", 0, name, columns, ())

    found = compare_runs([model("x", 0.0), model("y", 1.0)], PERPLEXITY, {})
    mean = nll.sum() / tokens.sum()
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(math.exp(mean) - math.exp(mean + 0.1))
    assert (pair.high or 0) < 0 and pair.kappa is None
    assert found.runs[0].errors is None and found.classes == ()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([FIRST], "at least two runs, but got 1"),
        ([FIRST, FIRST], "named once, but got x"),
        ([FIRST, run("z", [0] * 7)], "x has 8, z has 7, and 7 are the same"),
        ([FIRST, run("z", [0] * 8, items=[f"j{n}" for n in range(8)])], "and 0 are the same"),
        ([FIRST, run("z", [0] * 8, label=[0] * 8)], "must have the same labels"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs: list[RunPredictions], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        compare_runs(runs, ACCURACY, {})
    assert refused.value.fix
