"""The part of ``advisor calibrate`` that corrects a datasheet by measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def fit_to_steps(
    device: str, steps: Sequence[Path], *, trust_remote_code: bool, allow_pickle: bool, as_json: bool
) -> None:
    """``--device NAME --steps FILE``."""
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import fit_device
    from advisor.reporting.datasheet_fit import print_datasheet_fit

    with progress() as on_event:
        report = fit_device(
            device, steps, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, on_event=on_event
        )
    if as_json:
        print_json(report)
    else:
        print_datasheet_fit(answer_console(), report)


def forget_fit(device: str, *, as_json: bool) -> None:
    """``--device NAME --fresh``."""
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.datasheet_fitting import forget_device
    from advisor.reporting.datasheet_fit import print_forgotten

    path = forget_device(device)
    if as_json:
        answer: dict[str, Any] = {"forgotten": path}
        print_json(answer)
    else:
        print_forgotten(answer_console(), path.stem, path)


def show_fit(device: str, *, as_json: bool) -> bool:
    """``--show --device NAME`` of a fitted datasheet; says whether there was one to show."""
    from advisor.cli.output import answer_console, print_json
    from advisor.pipeline.datasheet_fitting import fitted_device

    profile = fitted_device(device)
    if profile is None:
        return False
    if as_json:
        print_json(profile)
    else:
        from advisor.reporting.device import print_device

        print_device(answer_console(), profile)
    return True
