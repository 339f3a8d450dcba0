"""The tables that ship, the fit to them, and the rules for learning rates on the public sweep."""

from __future__ import annotations

import math

import numpy as np

from advisor.experiments.corpus.fitting import earlier_runs, fit, pooled_quantile, recorded_runs
from advisor.experiments.corpus.judge import RULES, judge
from advisor.experiments.corpus.rates import judge_rates, swept_models
from advisor.experiments.corpus.tables import load_corpus, unpacked


def test_the_shipped_tables_agree_with_themselves_and_hold_no_text() -> None:
    corpus = load_corpus()
    assert corpus.provenance["runs"] == len(corpus.runs) and corpus.provenance["versions"]
    assert all(len(item["sha256"]) == 64 for item in corpus.provenance["data"].values())
    labels = dict(zip(corpus.tasks.task, corpus.tasks.labels, strict=True))
    for row in corpus.runs.itertuples():
        if row.task in labels:
            hits = unpacked(row.predicted, "predicted") == unpacked(labels[row.task], "labels")
            assert math.isclose(hits.mean(), row.accuracy, abs_tol=1e-4)
            assert len(unpacked(row.true_probability, "true_probability")) == len(hits)
    assert all(corpus.report(task).doubtful == () for task in corpus.tasks.task)


def test_judging_leaves_whole_sources_out_and_scores_what_runs_say() -> None:
    runs = recorded_runs(load_corpus())
    found = judge([*runs, *earlier_runs()], [rule for rule in RULES if "itself" in rule[0] or "last" in rule[0]])
    assert found.runs == len(runs) and found.sources == len({run.source for run in runs})
    probe, last = found.by_source
    assert probe.spearman is None and last.spearman is not None
    sources = sorted({run.source for run in runs})
    by_source = [np.mean([abs(r.accuracy - r.set_up.probe) for r in runs if r.source == s]) for s in sources]
    assert math.isclose(probe.mae, float(np.mean(by_source)))


def test_a_fit_without_a_source_knows_nothing_of_it() -> None:
    runs = [*recorded_runs(load_corpus()), *earlier_runs()]
    source = runs[0].source
    changed = [run for run in runs if run.source != source]
    model = fit(changed, conformal=False)
    assert model.runs == len(changed) and model.sources == len({run.source for run in runs}) - 1


def test_sources_weigh_the_same_in_interval_factors() -> None:
    scores = {"many": [1.0] * 1000} | {str(number): [float(number)] for number in range(2, 20)}
    assert pooled_quantile(scores, 0.5) == 10.0
    assert pooled_quantile(scores, 0.99) == 19.0


def test_learning_rates_are_never_worse_than_the_constant_and_better_after_a_pair() -> None:
    models = swept_models()
    assert len(models) == 35 and len({model.family for model in models}) >= 6
    constant, nested, pair, *_ = judge_rates(models)
    assert nested.mean <= constant.mean and nested.largest <= constant.largest
    assert pair.mean <= 0.0015
