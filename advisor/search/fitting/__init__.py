"""What fits: per method the largest batch, length and rank within a memory, and the smallest card that it needs."""

from advisor.search.fitting.fitting import fit_methods
from advisor.search.fitting.records import CardFit, FitAnswer, FitRequest, Largest, MethodFit, SetupFit, Switches

__all__ = ["CardFit", "FitAnswer", "FitRequest", "Largest", "MethodFit", "SetupFit", "Switches", "fit_methods"]
