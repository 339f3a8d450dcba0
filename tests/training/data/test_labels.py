from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data.labels import class_findings, label_order, label_texts, require_classes, spelling_findings
from advisor.training.data.tables import Table


def texts_of(values: list[Any], **options: Any) -> list[str]:
    return label_texts(Table("data", {"label": values}, len(values), **options), "label")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["pos", " neg "], ["pos", "neg"]),
        ([0, 1, True], ["0", "1", "true"]),
        ([1.0, 0.0], ["1", "0"]),
        (["1", "x.5"], ["1", "x.5"]),
    ],
)
def test_labels_become_names(values: list[Any], expected: list[str]) -> None:
    assert texts_of(values) == expected


def test_declared_class_names_are_used_in_their_order() -> None:
    assert texts_of([1, 0], class_names={"label": ("world", "sport")}) == ["sport", "world"]
    assert label_order(["sport", "world"], [], ("world", "sport", "tech")) == ("world", "sport", "tech")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], ["true", "false"]),
        (["True", "FALSE"], ["true", "false"]),
        (["1.0", "0"], ["1", "0"]),
        ([2.0, 1], ["2", "1"]),
        (["01", "1"], ["01", "1"]),
        (["1e3", "-0.0"], ["1000", "0"]),
        (["True", "maybe"], ["True", "maybe"]),
    ],
)
def test_the_same_label_has_one_name_in_every_file(values: list[Any], expected: list[str]) -> None:
    assert texts_of(values) == expected


def spec(**options: Any) -> DataSpec:
    return DataSpec("data", "csv", "text", label_column="label", **options)


def test_labels_are_renamed_and_rows_left_out() -> None:
    table = Table("data", {"label": ["NEG", "neg", "pos", None, "spam"]}, 5)
    chosen = spec(label_map=(("NEG", "neg"),), drop_labels=("spam",), drop_unlabelled=True)
    assert label_texts(table, "label", spec=chosen) == ["neg", "neg", "pos", None, None]
    stars = Table("data", {"label": ["0.5", "1.0"]}, 2)
    renamed = spec(label_map=(("0.5", "half"), ("1.0", "whole")))
    assert label_texts(stars, "label", spec=renamed) == ["half", "whole"]
    wrong: list[dict[str, Any]] = [{"label_map": (("bad", "neg"),)}, {"drop_labels": ("bad",)}]
    for options in wrong:
        with pytest.raises(DataError, match="has no 'bad'"):
            label_texts(table, "label", spec=spec(drop_unlabelled=True, **options))


def test_labels_that_look_alike_are_named_once() -> None:
    table = Table("data", {"label": ["Not good", "not_good", "good", "good ", "1.5", "15"]}, 6)
    blanks, alike = spelling_findings(table, "label", ["Not good", "not_good", "good", "good", "1.5", "15"])
    assert "'good '" in blanks
    assert "'Not good' and 'not_good'" in alike and "1.5" not in alike


def test_classes_that_cannot_be_judged_are_named() -> None:
    names = ("a", "b", "c", "d")
    found = class_findings(names, {"a": 9, "b": 3, "c": 1}, {"a": 1, "d": 2})
    told = ("'c' has one row", "none of the class 'b'", "none of the class 'd'")
    assert [part in text for part, text in zip(told, found, strict=True)] == [True] * 3
    assert class_findings(names, dict.fromkeys(names, 9), dict.fromkeys(names, 1)) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, "one"], "one type"),
        (["[0, 1]", "[2]"], "several|text or a whole number"),
        ([0.5, 1.0], "numbers like 0.5"),
        (["0.5", "1"], "numbers like 0.5"),
        (["a", None, "b", ""], "2 of 4 rows of data have none in 'label' \\(rows 2, 4\\)"),
        ([1.0, float("nan")], "1 of 2 rows"),
        ([[1], [0]], "text or a whole number"),
    ],
)
def test_unusable_labels_are_explained(values: list[Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        texts_of(values)


def test_hidden_labels_of_a_declared_column_count_as_missing() -> None:
    with pytest.raises(DataError, match="1 of 2 rows"):
        texts_of([0, -1], class_names={"label": ("a", "b")})


def test_whole_numbers_are_ordered_by_size() -> None:
    assert label_order(["10", "9"], ["2"]) == ("2", "9", "10")


@given(st.lists(st.text(min_size=1), min_size=1))
def test_order_does_not_depend_on_the_rows(labels: list[str]) -> None:
    assert label_order(labels, []) == label_order(sorted(labels, reverse=True), labels)


def test_one_class_and_identifiers_are_refused() -> None:
    with pytest.raises(DataError, match="all 3 rows of data have the label 'a'"):
        require_classes("data", "label", ["a", "a", "a"])
    with pytest.raises(DataError, match="30 in 30 rows"):
        require_classes("data", "id", [str(number) for number in range(30)])
    require_classes("data", "label", ["a", "b"])
