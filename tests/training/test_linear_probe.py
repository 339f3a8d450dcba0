"""Frozen features, kept on disk, and the linear classifier on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from advisor.core.errors import InputError, ModelError
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.plan import Plan
from advisor.core.serialization import from_dict
from advisor.training.linear_probe import FrozenFeatures, feature_store, features, fit_probe, fitting, probe_features
from tests.training.training_runs import tiny_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return tiny_plan(tmp_path_factory.mktemp("probe"))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


def probed(plan: Plan, **options: object) -> FrozenFeatures:
    return probe_features(plan.model, plan.data, max_seq_length=32, num_threads=1, **options)


@pytest.fixture(scope="module")
def looked_at(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> FrozenFeatures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        return probed(plan)


def test_features_are_the_mean_over_the_tokens_of_a_row(plan: Plan, looked_at: FrozenFeatures) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(plan.model.source),
        AutoModel.from_pretrained(plan.model.source).eval(),
    )
    for row in (0, 3, 50):
        with torch.no_grad():
            hidden = model(**tokenizer(looked_at.texts[row], return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(looked_at.train[row], hidden[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_own_pooling_is_what_the_output_layer_reads(plan: Plan) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found = probed(plan, pooling="own")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(plan.model.source).eval()
    batch = AutoTokenizer.from_pretrained(plan.model.source)(found.texts[0], return_tensors="pt")
    with torch.no_grad():
        read = model.bert(**batch).pooler_output[0]
    np.testing.assert_allclose(found.train[0], read, rtol=1e-4, atol=1e-5)


def test_the_probe_learns_what_the_words_say_and_reports_it(looked_at: FrozenFeatures) -> None:
    fitted = fit_probe(looked_at)
    report = fitted.report
    assert report.value > 0.75 and not report.near_chance
    assert report.interval.low < report.value < report.interval.high
    assert report.loss < report.chance_loss
    assert [point.train_rows for point in report.curve] == [20, 40, 80, 160]
    assert report.curve[-1].value == report.value and report.complete
    assert sum(report.class_shares.values()) == pytest.approx(1)
    assert fitted.probabilities.shape == (40, 2)
    assert from_dict(LinearProbeReport, json.loads(report.to_json()), what="report") == report


def test_without_time_for_the_whole_curve_the_report_is_about_fewer_rows(looked_at: FrozenFeatures) -> None:
    fitted = fit_probe(looked_at, limit_s=0.0)
    report = fitted.report
    assert [point.train_rows for point in report.curve] == [20] and report.train_rows == 20
    assert not report.complete and report.all_train_rows == 160
    assert fitted.probabilities.shape == (40, 2)
    whole = fit_probe(looked_at, limit_s=600.0).report
    assert dataclasses.replace(whole, fitting_s=0.0) == dataclasses.replace(fit_probe(looked_at).report, fitting_s=0.0)


def test_shuffled_labels_are_near_chance(looked_at: FrozenFeatures) -> None:
    drawn = np.random.default_rng(0)
    shuffled = dataclasses.replace(
        looked_at,
        train_labels=drawn.permutation(looked_at.train_labels),
        eval_labels=drawn.permutation(looked_at.eval_labels),
    )
    assert fit_probe(shuffled).report.near_chance


def test_flipped_labels_are_found() -> None:
    drawn = np.random.default_rng(1)
    labels = drawn.integers(0, 3, 600)
    rows = (drawn.normal(size=(600, 8)) * 0.3 + 4 * np.eye(3, 8)[labels]).astype(np.float32)
    given, flipped = labels[:500].copy(), np.array([7, 111, 402])
    given[flipped] = (given[flipped] + 1) % 3
    found = FrozenFeatures(
        rows[:500], rows[500:], given, labels[500:], ("a", "b", "c"), tuple(map(str, range(500))),
        np.full(500, 9), 500, 100, 16, "mean",
    )  # fmt: skip
    report = fit_probe(found).report
    assert {row.row for row in report.doubtful} == set(flipped)
    assert report.doubtful_rows == 3
    assert report.label_noise_share == pytest.approx(3 / 500, abs=2e-3)


def test_a_head_scores_raw_features_as_scikit_learn_scores_scaled_ones() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    drawn = np.random.default_rng(2)
    for classes in (2, 4):
        labels = drawn.integers(0, classes, 200)
        rows = (drawn.normal(size=(200, 5)) * [1, 5, 0.1, 2, 3] + labels[:, None]).astype(np.float32)
        reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(rows, labels)
        head = fitting.fit_head(rows, labels, classes, 0.1)
        np.testing.assert_allclose(head.probabilities(rows), reference.predict_proba(rows), atol=2e-3)


def test_near_duplicates_are_counted() -> None:
    drawn = np.random.default_rng(3)
    known = drawn.normal(size=(50, 16)).astype(np.float32)
    held_out = np.concatenate([known[:3] + 1e-3, drawn.normal(size=(7, 16)).astype(np.float32)])
    assert fitting.near_duplicates(known, held_out) == pytest.approx(0.3)


def test_tasks_without_classes_are_refused_with_those_that_work(plan: Plan) -> None:
    with pytest.raises(InputError, match="one class a row") as refused:
        probe_features(dataclasses.replace(plan.model, task="causal-lm"), plan.data, max_seq_length=32)
    assert "sequence-classification" in str(refused.value.fix)


def test_a_model_without_weights_is_refused(plan: Plan) -> None:
    with pytest.raises(ModelError, match="weights"):
        probe_features(dataclasses.replace(plan.model, has_weights=False), plan.data, max_seq_length=32)


# --- kept on disk -----------------------------------------------------------------------------------------------------


def test_a_second_look_reads_the_features(plan: Plan) -> None:
    first, second = probed(plan), probed(plan)
    assert (first.kept_rows, second.kept_rows) == (0, 200)
    assert isinstance(second.train, np.memmap)
    np.testing.assert_array_equal(first.train, second.train)


def test_rows_that_a_time_limit_left_out_are_added_later(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK_ROWS", 16)
    some, whole = probed(plan, limit_s=0.0), probed(plan)
    assert (len(some.evaluation), len(some.train)) == (16, 16)
    assert (some.all_train_rows, len(some.texts)) == (160, 16)
    assert whole.kept_rows == 32 and len(whole.train) == 160
    np.testing.assert_allclose(whole.train[:16], some.train)


def test_another_model_or_length_is_another_key(plan: Plan, tmp_path: Path) -> None:
    fingerprint = feature_store.content_fingerprint(plan.model)
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in Path(plan.model.source).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    copy = dataclasses.replace(plan.model, source=str(copied))
    assert feature_store.content_fingerprint(copy) == fingerprint, "the content counts, not the place"
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    assert feature_store.content_fingerprint(copy) != fingerprint
    keys = {feature_store.feature_key(plan.model, fingerprint, "data", length, "mean") for length in (32, 64)}
    assert len(keys) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "no facts", "not numbers"])
def test_a_damaged_file_is_computed_again(plan: Plan, own_home: Path, damage: str) -> None:
    before = probed(plan)
    (file,) = (own_home / "cache" / "features").glob("*.npy")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "changed":
        content[-1] ^= 255
        file.write_bytes(content)
    elif damage == "no facts":
        file.with_suffix(".json").write_text("[]")
    else:
        file.write_bytes(b"nothing")
    after = probed(plan)
    assert after.kept_rows == 0
    np.testing.assert_allclose(after.train, before.train)


def test_a_full_disk_keeps_nothing_and_breaks_nothing(
    plan: Plan, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "FREE_BYTES", 1 << 62)
    assert probed(plan).kept_rows == 0
    assert probed(plan).kept_rows == 0
    assert not list((own_home / "cache" / "features").glob("*"))


def test_a_folder_that_cannot_be_made_breaks_nothing(plan: Plan, own_home: Path) -> None:
    own_home.write_text("a file")
    assert len(probed(plan).train) == 160


def test_the_longest_unused_features_make_room(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "MOST_BYTES", 3000)
    rows = np.ones((20, 10), np.float32)
    kept = feature_store.KeptFeatures(rows[:5], rows[5:])
    for key in ("a", "b", "c", "d"):
        feature_store.keep_features(key, kept)
        if key == "c":
            assert feature_store.load_features("a") is not None  # used last
    assert [key for key in "abcd" if feature_store.load_features(key) is not None] == ["a", "c", "d"]
    large = np.ones((200, 10), np.float32)
    feature_store.keep_features("e", feature_store.KeptFeatures(large[:5], large[5:]))
    assert feature_store.load_features("e") is None
