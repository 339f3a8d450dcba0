from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advisor.core.errors import DataError
from advisor.training.data.rows import LabelledText, PlainText, row_key
from advisor.training.data.splitting import count_copies, drop_shared, hold_out, hold_out_tail, shuffled

TEXTS = st.lists(st.text(max_size=3), min_size=2, max_size=40)
SEEDS = st.integers(-(2**31), 2**31)


def rows_of(texts: list[str]) -> list[PlainText]:
    return [PlainText(text) for text in texts]


@given(texts=TEXTS, seed=SEEDS, fraction=st.floats(0.01, 0.99))
def test_copies_never_straddle_and_nothing_is_lost(texts: list[str], seed: int, fraction: float) -> None:
    assume(len(set(texts)) > 1)
    train, held = hold_out(rows_of(texts), fraction, seed, name="data")
    assert sorted(row.text for row in [*train, *held]) == sorted(texts)
    assert train and held
    assert not {row.text for row in train} & {row.text for row in held}
    assert len({row.text for row in held}) == min(max(round(fraction * len(set(texts))), 1), len(set(texts)) - 1)


@given(texts=TEXTS, seed=SEEDS, data=st.data())
def test_split_and_order_do_not_depend_on_the_order_of_the_file(
    texts: list[str], seed: int, data: st.DataObject
) -> None:
    assume(len(set(texts)) > 1)
    other = data.draw(st.permutations(texts))
    first, second = (hold_out(rows_of(order), 0.3, seed, name="data") for order in (texts, other))
    assert [shuffled(part, seed) for part in first] == [shuffled(part, seed) for part in second]


@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), seed=SEEDS, fraction=st.floats(0.05, 0.5))
def test_every_class_gives_its_share(sizes: list[int], seed: int, fraction: float) -> None:
    rows = [LabelledText(f"{label} {i}", None, label) for label, size in enumerate(sizes) for i in range(size)]
    train, held = hold_out(rows, fraction, seed, name="data", stratum=lambda row: row.label)
    assert sorted(row.text for row in [*train, *held]) == sorted(row.text for row in rows)
    wanted = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    possible = sum(size - 1 for size in sizes)
    assert len(held) == max(min(wanted, possible), 1)
    for label, size in enumerate(sizes):
        count = sum(row.label == label for row in held)
        share = wanted * size / len(rows)
        if possible >= wanted:
            assert count <= size - 1 and (count >= int(share) or count == size - 1)
        assert count <= share + len(sizes)
    again = hold_out(rows[::-1], fraction, seed, name="data", stratum=lambda row: row.label)
    assert {row.text for row in again[1]} == {row.text for row in held}


@settings(max_examples=25)
@given(seed=SEEDS)
def test_seeds_give_other_orders_of_the_same_rows(seed: int) -> None:
    rows = rows_of([str(number) for number in range(30)])
    assert shuffled(rows, seed) == shuffled(rows, seed)
    assert shuffled(rows, seed) != shuffled(rows, seed + 1)
    assert sorted(row.text for row in shuffled(rows, seed)) == sorted(row.text for row in rows)


def test_labels_do_not_decide_where_a_text_goes() -> None:
    assert row_key(LabelledText("a", None, 0)) == row_key(LabelledText("a", None, 1))
    assert row_key(LabelledText("ab", "c", 0)) != row_key(LabelledText("a", "bc", 0))


def test_running_text_keeps_its_end() -> None:
    rows = rows_of(["x" * 10] * 10)
    train, held = hold_out_tail(rows, 0.25, name="data")
    assert (len(train), len(held)) == (7, 3)
    train, held = hold_out_tail(rows_of(["first", "x" * 1000]), 0.1, name="data")
    assert [row.text for row in train] == ["first"]


def test_too_little_to_split() -> None:
    with pytest.raises(DataError, match="two different texts, but data has 1"):
        hold_out(rows_of(["same", "same"]), 0.5, 1, name="data")
    with pytest.raises(DataError, match="two paragraphs"):
        hold_out_tail(rows_of(["one"]), 0.5, name="data")


def test_shared_rows_leave_training_and_copies_are_counted() -> None:
    kept, dropped = drop_shared(rows_of(["a", "b", "b", "c"]), rows_of(["b"]))
    assert ([row.text for row in kept], dropped) == (["a", "c"], 2)
    assert count_copies(rows_of(["a", "a", "a", "b"])) == 2
