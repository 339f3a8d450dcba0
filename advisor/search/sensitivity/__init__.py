"""What would change the memory of a configuration: its neighbours, evaluated with the cost model and put in words."""

from advisor.search.sensitivity.effects import ChangeComparison, Effect, compare
from advisor.search.sensitivity.one_change_variants import Neighbour, neighbours

__all__ = ["ChangeComparison", "Effect", "Neighbour", "compare", "neighbours"]
