"""Raw points on disk as they come, beside the calibration: what was measured survives a kill.

JSON lines: a header, then one object per line with a single key, ``replay``, ``steps`` or ``covered``. A line that a
kill tore or a bad disk damaged is left out when the file is read; the rest counts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.append_log import AppendLog
from advisor.core.coefficients import SCHEMA_VERSION, ReplayPoint, StepPoint
from advisor.core.errors import AdvisorError, DeviceError, OutputError
from advisor.core.serialization import from_dict, to_dict, to_json


@dataclass(frozen=True)
class JournalHeader:
    """The first line.

    Attributes:
        versions: As in ``Calibration``; points of other versions are not taken over.
        fresh: The user began anew: an older calibration is not added to these points.
    """

    device_id: str
    versions: dict[str, str]
    started_at: str
    advisor_version: str
    fresh: bool = False
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class JournalContent:
    """What the lines after the header hold."""

    replays: tuple[ReplayPoint, ...] = ()
    points: tuple[StepPoint, ...] = ()
    covered: tuple[str, ...] = ()


class PointJournal:
    """The journal of one device; while it is open no other process can write it.

    Writing never fails a calibration: the first failure is remembered in ``trouble``, and measuring goes on without.

    Args:
        path: The file; its folder exists.
        write: Writes bytes to a descriptor and returns how many.

    Attributes:
        trouble: Why points are not kept, empty while they are.
    """

    def __init__(self, path: Path, *, write: Callable[[int, bytes], int] = os.write) -> None:
        self.path = path
        self.trouble = ""
        busy = OutputError(
            f"one calibration at a time may run on a device, but another one has {path} open",
            fix="wait until it is done: two at once would also slow each other down",
        )
        self._log = AppendLog(path, busy=busy, write=write)

    def open(self) -> tuple[JournalHeader | None, JournalContent, int]:
        """Lock the file and read it: its header (``None`` when new or unusable), points, and how many lines are
        damaged.

        Raises:
            OutputError: another process has it open, or it cannot be created.
        """
        return parse_calibration_journal(self._log.open())

    def begin(self, header: JournalHeader, *, keep_old: bool = False) -> None:
        """Start an empty file with a header; ``keep_old`` first copies what is there to ``….old``."""
        with contextlib.suppress(OSError):
            if keep_old:
                self.path.with_name(self.path.name + ".old").write_bytes(self.path.read_bytes())
        with self._remembering_trouble():
            self._log.clear()
            self._log.append(to_json(header, indent=None), durable=False)

    def append(self, kind: str, value: Any, *, durable: bool = False) -> None:
        """Write one line.

        Args:
            kind: ``"replay"``, ``"steps"`` or ``"covered"``.
            value: The record.
            durable: Wait until it is on disk. Without, it survives the death of this process but not a power cut, and
                costs no disk access between measurements.
        """
        if self._log.is_open and not self.trouble:
            with self._remembering_trouble():
                self._log.append(json.dumps({kind: to_dict(value)}, ensure_ascii=False) + "\n", durable=durable)

    def remove(self) -> None:
        """Delete the file: what it held is in the calibration now."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        self._log.close()

    @contextlib.contextmanager
    def _remembering_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            self.trouble = failure.strerror or str(failure)


def parse_calibration_journal(text: str) -> tuple[JournalHeader | None, JournalContent, int]:
    """Header, points and the number of damaged lines of a journal's text.

    A journal without a readable header, or of a newer advisor, counts as damaged as a whole.
    """
    lines = text.splitlines()
    values = [_object(line) for line in lines]
    if not values:
        return None, JournalContent(), 0
    header = _checked(JournalHeader, values[0])
    if header is None or header.schema_version > SCHEMA_VERSION:
        return None, JournalContent(), len(lines)
    replays, damaged_replays = _records(ReplayPoint, [v["replay"] for v in values[1:] if "replay" in v])
    points, damaged_points = _records(StepPoint, [v["steps"] for v in values[1:] if "steps" in v])
    covered = tuple(v["covered"] for v in values[1:] if isinstance(v.get("covered"), str))
    damaged = sum(not v for v in values[1:]) + damaged_replays + damaged_points
    return header, JournalContent(tuple(replays), tuple(points), covered), damaged


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}


def _checked(cls: type, values: Any) -> Any:
    try:
        return from_dict(cls, values, what="the journal", error=DeviceError)
    except AdvisorError:
        return None


def _records(cls: type, rows: list[Any]) -> tuple[list[Any], int]:
    """All records that are valid, and how many are not; validated together, because that is a hundred times faster."""
    together = _checked(_LISTS[cls], {"rows": rows})
    if together is not None:
        return list(together.rows), 0
    found = [record for row in rows if (record := _checked(cls, row)) is not None]
    return found, len(rows) - len(found)


@dataclass(frozen=True)
class _Replays:
    rows: tuple[ReplayPoint, ...]


@dataclass(frozen=True)
class _Steps:
    rows: tuple[StepPoint, ...]


_LISTS: dict[type, type] = {ReplayPoint: _Replays, StepPoint: _Steps}
