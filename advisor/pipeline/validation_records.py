"""Job: the comparison of recorded cases, without running anything, and with this version's predictions if wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.errors import DeviceError, InputError
from advisor.pipeline.events import OnEvent, note, phase, progress
from advisor.pipeline.validating import Validation, compared

if TYPE_CHECKING:
    from advisor.core.coefficients import Calibration
    from advisor.experiments.validation.record import Header, Kind, Record

NOT_RECORDS = "name a .jsonl file that `advisor validate` wrote"


def recorded_validation(
    paths: Path | Sequence[Path],
    *,
    what: Kind = "all",
    predict_again: bool = False,
    calibration: Path | None = None,
    on_event: OnEvent | None = None,
) -> Validation:
    """The comparison of files of records, without running anything; it needs none of the devices.

    Args:
        paths: Of the records; several of one kind and device count as one, a case that is in two of them once, with
            the last that completed.
        what: ``"memory"`` or ``"time"``: what to show; ``"all"`` that the records are of. Records of step times hold
            what the processes took of the device, too.
        predict_again: Compare what was measured with what this version predicts instead of what was predicted then.
        calibration: With ``predict_again``: the calibration to predict with; this machine's own, if the records are of
            its device, when ``None``.
        on_event: Receives the job's events.

    Raises:
        InputError: there is no such file, it is damaged, holds no step times although they are asked for, does not say
            what device it is of, or does not belong to the others; or the calibration is of another device.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise InputError("--records must name a file of records, but got none")
    header, records = _joined(files)
    if (what, header.kind) == ("time", "memory"):
        raise InputError(
            f"--records must hold step times, but those in {files[0]} are of memory",
            fix=f"advisor validate memory --records {files[0]}",
        )
    if predict_again:
        records = _predicted_again(header, records, calibration, on_event)
    return compared(header, files[0], tuple(records), shown=None if what == "all" else what)


def _joined(paths: Sequence[Path]) -> tuple[Header, list[Record]]:
    first: Header | None = None
    found: dict[str, Record] = {}
    for path in paths:
        header, records = _read(path)
        first = first or header
        if (header.kind, header.device_id) != (first.kind, first.device_id):
            raise InputError(
                f"files of records must be of one kind and device to be shown together, but {path} is "
                f"{header.kind} on {header.device_id} and {paths[0]} is {first.kind} on {first.device_id}",
                fix="show them one by one",
            )
        for key, record in records.items():
            if key not in found or record.outcome == "completed":
                found[key] = record
    if first is None:
        raise InputError("--records must name a file of records, but got none")
    return first, list(found.values())


def _read(path: Path) -> tuple[Header, dict[str, Record]]:
    from advisor.experiments.validation.journal import parse_journal

    if not path.is_file():
        raise InputError(f"--records must be a file of records, but there is none at {path}", fix="check the path")
    text = path.read_text(encoding="utf-8", errors="replace")
    header, found = parse_journal(_without_torn_line(text), str(path), fix=NOT_RECORDS)
    if header is None:
        raise InputError(f"--records must be a file of records, but {path} is empty", fix="check the path")
    return header, found


def _without_torn_line(text: str) -> str:
    """The text without a last line that a kill tore; a file of one line is left as it is, to be judged."""
    whole = text.rfind("\n") + 1
    try:
        json.loads(text[whole:])
    except json.JSONDecodeError:
        return text[:whole] if whole else text
    return text


def _predicted_again(
    header: Header, records: list[Record], calibration: Path | None, on_event: OnEvent | None
) -> list[Record]:
    from advisor.experiments.validation.repredict import predicted_again
    from advisor.hardware.host import inspect_host

    chosen = _calibration(header, calibration, on_event)
    if header.device is not None and chosen is not None and chosen.device_id != header.device.id:
        raise InputError(
            f"--calibration must be of the records' device {header.device.id}, but it is of {chosen.device_id}",
            fix="name the calibration of that device",
        )
    phase(on_event, f"predicting {len(records)} cases again")
    report = progress(on_event)
    return predicted_again(
        header,
        records,
        workers=inspect_host().cores,
        calibration=chosen,
        on_case=lambda label, share: report(label, share),
    )


def _calibration(header: Header, path: Path | None, on_event: OnEvent | None) -> Calibration | None:
    """The named calibration, else this machine's own of the records' device if its versions are those in use."""
    from advisor.calibration import load_calibration

    if path is not None:
        return _read_calibration(path, header.device_id)
    if header.device is None:
        return None
    try:
        found = load_calibration(header.device.id, device=header.device)
    except DeviceError as failure:
        note(on_event, f"the calibration of {header.device.id} is not used: {failure.message}")
        return None
    if found is None:
        note(on_event, f"predicted from the device's rates alone: {header.device.id} has no calibration here")
    return found


def _read_calibration(path: Path, device_id: str) -> Calibration:
    """A calibration as the user data directory holds it, or that of a device in an exported file."""
    from advisor.core.coefficients import Calibration
    from advisor.core.serialization import from_dict, read_json

    values = read_json(path, what="the calibration")
    if not isinstance(values, dict) or "calibrations" not in values:
        return from_dict(Calibration, values, what=str(path))
    from advisor.calibration.exchange import read_exchange

    entries = {entry.device.id: entry.calibration for entry in read_exchange(path).calibrations}
    if device_id not in entries:
        raise InputError(
            f"--calibration must hold one of {device_id}, but {path} has {', '.join(entries)}",
            fix="name the calibration of that device",
        )
    return entries[device_id]
