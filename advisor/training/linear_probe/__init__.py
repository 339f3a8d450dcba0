"""A linear classifier on frozen features: one forward pass over the rows, then a fit that takes seconds.

``probe_features`` (features, kept on disk) -> ``fit_probe`` (the head and what it shows of the task). Nothing here
imports torch, transformers or scikit-learn before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.training.linear_probe.features import FrozenFeatures, probe_features
    from advisor.training.linear_probe.fitting import FittedProbe, fit_probe

__all__ = ["FittedProbe", "FrozenFeatures", "fit_probe", "probe_features"]

_MODULES = {
    "FittedProbe": "fitting",
    "FrozenFeatures": "features",
    "fit_probe": "fitting",
    "probe_features": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
