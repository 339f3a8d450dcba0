"""What would change the memory of a configuration: its neighbours, evaluated with the cost model and put in words."""

from advisor.search.sensitivity.effects import compare
from advisor.search.sensitivity.one_change_variants import neighbours
from advisor.search.sensitivity.records import ChangeComparison, Effect, Neighbour

__all__ = ["ChangeComparison", "Effect", "Neighbour", "compare", "neighbours"]
