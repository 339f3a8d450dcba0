"""The part of ``advisor calibrate`` that corrects a datasheet by measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def fit_to_steps(
    device: str, steps: Sequence[Path], *, trust_remote_code: bool, allow_pickle: bool, as_json: bool
) -> None:
    """``--device NAME --steps FILE``."""
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline.datasheet_fitting import from_steps
    from advisor.reporting.datasheet_fit import print_datasheet_fit

    with progress() as on_event:
        report = from_steps(
            device, steps, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, on_event=on_event
        )
    if as_json:
        print_json(report)
    else:
        print_datasheet_fit(answer_console(), report)


def forget_fit(device: str, *, as_json: bool) -> None:
    """``--device NAME --fresh``."""
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.calibrating import reset
    from advisor.reporting.calibration import print_forgotten

    forgotten = reset(device)
    if as_json:
        print_json(forgotten)
    else:
        print_forgotten(answer_console(), forgotten)
