"""Cells, their keys, and shards of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.errors import InputError
from advisor.experiments.grid import Cell, Grid, content_key


@dataclass(frozen=True)
class Setup:
    model: str
    rank: int


def test_a_key_follows_the_content_not_the_order_of_fields() -> None:
    assert content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})
    assert content_key(Setup("bert", 8)) == content_key({"model": "bert", "rank": 8})
    assert content_key(Setup("bert", 8)) != content_key(Setup("bert", 16))
    assert len(content_key(1)) == 12


def test_two_cells_do_not_share_a_key() -> None:
    with pytest.raises(ValueError, match="'first' and 'second' share k"):
        Grid("grid", (Cell("k", "first", 1), Cell("k", "second", 2)))


@given(cells=st.integers(0, 40), count=st.integers(1, 9))
def test_shards_are_the_grid_cut_into_pieces(cells: int, count: int) -> None:
    grid = Grid("grid", tuple(Cell(str(i), str(i), i) for i in range(cells)))
    shards = [grid.shard((index, count)).cells for index in range(1, count + 1)]
    assert sorted(cell.payload for shard in shards for cell in shard) == list(range(cells))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", [(3, 2), (0, 2), (1, 0), (-1, 3)])
def test_shards_that_do_not_exist(shard: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 <= i <= n"):
        Grid[int]("grid", ()).shard(shard)
