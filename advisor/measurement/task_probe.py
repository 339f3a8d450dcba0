"""The inside of the process that probes a task."""

from __future__ import annotations

import time

from advisor.core.data import DataProfile, DataSpec
from advisor.core.events import RawListener
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.model import ModelSpec
from advisor.hardware.backends import HOST, backend_of_id
from advisor.training.linear_probe import fit_probe, probe_features

PASS_SHARE = 0.8
"""Of what is left of the time, for the pass over the rows; the fit takes the rest."""


def probe_here(
    model: ModelSpec,
    data: DataSpec,
    profile: DataProfile,
    *,
    device_id: str | None,
    end_at_s: float | None,
    num_threads: int | None = None,
    on_event: RawListener,
) -> LinearProbeReport:
    """Features and fit in this process; ``on_event`` is told the share of the rows that is done.

    ``end_at_s`` is when it should be over, as ``time.time()`` counts: libraries are imported before anything is done.
    """
    features = probe_features(
        model,
        data,
        max_seq_length=profile.max_seq_length,
        limit_s=None if end_at_s is None else PASS_SHARE * max(0.0, end_at_s - time.time()),
        device_type=backend_of_id(device_id).name if device_id is not None else HOST,
        num_threads=num_threads,
        on_share=lambda share: on_event({"share": share}),
    )
    return fit_probe(features, None if end_at_s is None else max(0.0, end_at_s - time.time())).report
