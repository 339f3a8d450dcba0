"""What would change the memory of a configuration: its neighbours, evaluated with the cost model and put in words."""

from advisor.search.whatif.effects import compare
from advisor.search.whatif.neighbours import neighbours
from advisor.search.whatif.records import Comparison, Effect, Neighbour

__all__ = ["Comparison", "Effect", "Neighbour", "compare", "neighbours"]
