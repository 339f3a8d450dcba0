"""Cells, their keys, and shards of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.errors import InputError
from advisor.experiments.grid import content_key, shard_of


@dataclass(frozen=True)
class Setup:
    model: str
    rank: int


def test_a_key_follows_the_content_not_the_order_of_fields() -> None:
    assert content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})
    assert content_key(Setup("bert", 8)) == content_key({"model": "bert", "rank": 8})
    assert content_key(Setup("bert", 8)) != content_key(Setup("bert", 16))
    assert len(content_key(1)) == 12


@given(cells=st.integers(0, 40), count=st.integers(1, 9))
def test_shards_are_the_grid_cut_into_pieces(cells: int, count: int) -> None:
    shards = [shard_of(range(cells), (index, count)) for index in range(1, count + 1)]
    assert sorted(cell for shard in shards for cell in shard) == list(range(cells))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", [(3, 2), (0, 2), (1, 0), (-1, 3)])
def test_shards_that_do_not_exist(shard: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 <= i <= n"):
        shard_of((), shard)
