"""The noise between training seeds, below which two trials cannot be told apart.

Its figures belong to the quality prior, which is imported on first use, because reading it is slow.
"""

from __future__ import annotations

import math

from advisor.core.stats import NORMAL_95


def metric_sd() -> float:
    """Standard deviation of a held-out accuracy between seeds (collected from published re-runs)."""
    from advisor.costmodel.quality.model import default_prior

    return default_prior().seed_sd


def relative_loss_sd() -> float:
    """Standard deviation of a held-out loss between seeds, as a share of the loss."""
    from advisor.costmodel.quality.curves import LOSS_NOISE

    return LOSS_NOISE


def overlap_reach(loss: float) -> float:
    """Up to which loss another trial's interval overlaps: a difference has sqrt(2) times the noise of one run."""
    return loss + NORMAL_95 * math.sqrt(2) * relative_loss_sd() * abs(loss)
