"""Calibrations and measured points on disk: one SQLite file in the user data directory.

A point is a row, committed as soon as it was measured, so the rows are the journal too. It belongs to a device, to the
versions it was measured with, and to a contribution (a calibration, or an imported file). ``INSERT OR IGNORE`` is the
merge. A point itself is JSON, as in exported files; the columns beside it are what SQL compares. SQLite's defaults are
a choice: the rollback journal works on network file systems, and ``synchronous=FULL`` survives a power cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from advisor.core.coefficients import SCHEMA_VERSION, Calibration, Contribution, ReplayPoint, StepPoint
from advisor.core.errors import AdvisorError, DeviceError, OutputError
from advisor.core.serialization import from_dict, read_json, to_dict
from advisor.core.store import database_errors, file_lock, user_data_dir

DATABASE_VERSION = 1
"""In ``PRAGMA user_version``."""
BUSY_S = 60.0
"""How long to wait for another process that is writing."""
AGAIN = "run `advisor calibrate run` again"

SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS calibration (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    versions TEXT NOT NULL,     -- JSON object with sorted keys
    renewal INTEGER NOT NULL,   -- 1: begun anew, replaces the one with 0 when it is complete
    created_at TEXT,            -- of the fits, NULL before
    fits TEXT,                  -- Calibration as JSON, without its points and their provenance
    UNIQUE (device_id, versions, renewal)
);
CREATE TABLE IF NOT EXISTS contribution (
    id INTEGER PRIMARY KEY,
    calibration_id INTEGER NOT NULL REFERENCES calibration ON DELETE CASCADE,
    fitted INTEGER NOT NULL,    -- 0: its points came after the last fit; machine is a JSON object
    measured_at TEXT NOT NULL, advisor_version TEXT NOT NULL, machine TEXT NOT NULL, file TEXT NOT NULL,
    checksum TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS point (
    id INTEGER PRIMARY KEY,
    calibration_id INTEGER NOT NULL REFERENCES calibration ON DELETE CASCADE,
    contribution_id INTEGER NOT NULL REFERENCES contribution ON DELETE CASCADE,
    kind TEXT NOT NULL,         -- as in Calibration: 'replays', 'points', 'covered'
    subject TEXT NOT NULL, times TEXT NOT NULL, record TEXT NOT NULL,     -- what was measured, and as JSON
    UNIQUE (calibration_id, kind, subject, times)
);
CREATE TABLE IF NOT EXISTS taken_over (name TEXT PRIMARY KEY, checksum TEXT NOT NULL); -- files of version 1
PRAGMA user_version = {DATABASE_VERSION};
COMMIT;
"""
SUPERSEDED = """EXISTS (
    SELECT 1 FROM point AS newer JOIN contribution AS its ON its.id = newer.contribution_id
    WHERE NOT its.fitted AND newer.contribution_id > point.contribution_id
    AND newer.calibration_id = point.calibration_id AND newer.kind = point.kind
    AND substr(newer.subject, 1, length(point.subject)) = point.subject
)"""
"""Points whose subject was measured again since the last fit. Calls from old files have no digest at the end of their
subject; any call of the same work supersedes them."""

Point = ReplayPoint | StepPoint | str
"""A timed call, timed steps, or a configuration whose operators were all replayed."""


class CalibrationDatabase:
    """The calibrations of all devices. Use as a context manager; methods that write need a ``transaction``.

    Files of version 1 (JSON) are taken over, each once, and left as they are; ``unreadable`` says by device why one
    could not be.

    Raises:
        DeviceError: the file is damaged, or of a newer advisor.
        OutputError: it cannot be written, and ``writing`` is set.
    """

    def __init__(self, *, writing: bool = False) -> None:
        self.path = database_path()
        self.unreadable: dict[str, DeviceError] = {}
        earlier = [path for path in sorted(self.path.parent.iterdir()) if path.suffix in (".json", ".jsonl")]
        try:
            self._connection = self._open(str(self.path) if writing or earlier or self.path.is_file() else ":memory:")
        except OutputError:
            if writing or self.path.is_file():
                raise
            self._connection = self._open(":memory:")
        with contextlib.nullcontext() if writing else contextlib.suppress(OutputError):
            for path in earlier:
                self._take_over(path)

    def __enter__(self) -> CalibrationDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside, or nothing; raises as ``run`` does."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self.run("ROLLBACK")
            raise

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one SQL statement: ``DeviceError`` when the file is damaged, ``OutputError`` when it is read-only."""
        with database_errors(self.path, damaged):
            return self._connection.execute(statement, values)

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """All rows that a query finds; raises as ``run`` does."""
        with database_errors(self.path, damaged):
            return self._connection.execute(query, values).fetchall()

    def devices(self) -> tuple[str, ...]:
        """Ids of the devices that have a calibration, usable or not."""
        found = self.rows("SELECT device_id FROM calibration WHERE fits IS NOT NULL AND NOT renewal")
        return tuple(sorted({*(row["device_id"] for row in found), *self.unreadable}))

    def load(self, device_id: str, versions: dict[str, str] | None = None) -> Calibration | None:
        """The calibration of a device with these versions, else its latest one; ``DeviceError`` when it is damaged."""
        found = self.rows(
            "SELECT id FROM calibration WHERE device_id = ? AND fits IS NOT NULL AND NOT renewal"
            " ORDER BY versions = ? DESC, created_at DESC, id DESC LIMIT 1",
            device_id,
            _sorted_json(versions),
        )
        if not found and device_id in self.unreadable:
            raise self.unreadable[device_id]
        return self.read(found[0]["id"], "contribution.fitted") if found else None

    def read(self, number: int, condition: str = "1") -> Calibration:
        """A calibration with its points and its latest fits; ``condition`` is SQL over ``point`` and ``contribution``.

        Raises:
            DeviceError: it is damaged.
        """
        [stored] = self.rows("SELECT * FROM calibration WHERE id = ?", number)
        contributions = self.rows("SELECT * FROM contribution WHERE calibration_id = ? ORDER BY id", number)
        points = self.rows(
            "SELECT contribution_id, kind, record FROM point JOIN contribution ON contribution.id = contribution_id"
            f" WHERE point.calibration_id = ? AND {condition} ORDER BY point.id",
            number,
        )
        counts = Counter((row["contribution_id"], row["kind"]) for row in points)
        try:
            values = {"device_id": stored["device_id"], "created_at": "", "classes": {}}
            values |= {"versions": json.loads(stored["versions"]), **json.loads(stored["fits"] or "{}")}
            values |= {"replays": [], "points": [], "covered": [], "provenance": []}
            places: dict[int, int] = {}
            for row in contributions:
                replays, steps = (counts[row["id"], kind] for kind in ("replays", "points"))
                if replays or steps:
                    places[row["id"]] = len(places)
                    entry = {name: row[name] for name in ("measured_at", "advisor_version", "file", "checksum")}
                    entry |= {"machine": json.loads(row["machine"]), "replays": replays, "points": steps}
                    values["provenance"].append(entry)
            for row in points:
                record = json.loads(row["record"])
                if row["kind"] != "covered":
                    record["origin"] = places[row["contribution_id"]]
                values[row["kind"]].append(record)
        except (ValueError, LookupError, TypeError) as failure:
            raise damaged(self.path, failure) from None
        return from_dict(Calibration, values, what=str(self.path), error=DeviceError)

    def begin(
        self, device_id: str, versions: dict[str, str], entry: Contribution, *, fresh: bool
    ) -> tuple[int, int, bool]:
        """Begin to measure, or go on with what was interrupted; ``fresh`` begins a renewal, which replaces what is
        stored when it is complete. Returns the numbers of calibration and contribution, and whether it is a renewal.
        """
        if fresh:
            self.run("DELETE FROM calibration WHERE device_id = ? AND renewal", device_id)
        renewals = "SELECT id FROM calibration WHERE device_id = ? AND versions = ? AND renewal"
        renewal = fresh or bool(self.rows(renewals, device_id, _sorted_json(versions)))
        number = self.number_of(device_id, versions, renewal=renewal)
        return number, self.contribute(number, entry, fitted=False), renewal

    def number_of(self, device_id: str, versions: dict[str, str], *, renewal: bool = False) -> int:
        """Number of the calibration with these versions, which is made if it is missing."""
        key = (device_id, _sorted_json(versions), int(renewal))
        self.run("INSERT OR IGNORE INTO calibration (device_id, versions, renewal) VALUES (?, ?, ?)", *key)
        where = "device_id = ? AND versions = ? AND renewal = ?"
        return int(self.rows(f"SELECT id FROM calibration WHERE {where}", *key)[0]["id"])

    def contribute(self, number: int, entry: Contribution, *, fitted: bool = True) -> int:
        """Add who measured to a calibration; returns the contribution's number."""
        columns = "calibration_id, fitted, measured_at, advisor_version, machine, file, checksum"
        texts = (entry.measured_at, entry.advisor_version, _sorted_json(entry.machine), entry.file, entry.checksum)
        insert = f"INSERT INTO contribution ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return int(self.run(insert, number, int(fitted), *texts).lastrowid or 0)

    def add(self, number: int, contribution: int, points: Iterable[Point]) -> int:
        """Add the points that are not there yet and whose times are plausible; returns how many."""
        insert = "INSERT OR IGNORE INTO point (calibration_id, contribution_id, kind, subject, times, record)"
        return sum(
            self.run(f"{insert} VALUES (?, ?, ?, ?, ?, ?)", number, contribution, *_columns(point)).rowcount
            for point in points
            if isinstance(point, str) or point.is_plausible
        )

    def merge(self, number: int, calibration: Calibration, *, file: str = "", checksum: str = "") -> tuple[int, int]:
        """Add a calibration's points with their provenance; returns the numbers of new operator calls and steps.

        What has no file in its provenance was measured by whoever wrote ``file``.
        """
        entries = calibration.provenance or (Contribution(calibration.created_at, "unknown", {}),)
        calls, steps, last = 0, 0, len(entries) - 1
        for place, entry in enumerate(entries):
            named = entry if entry.file or not file else dataclasses.replace(entry, file=file, checksum=checksum)
            owner = self.contribute(number, named)
            calls += self.add(number, owner, (p for p in calibration.replays if min(p.origin, last) == place))
            steps += self.add(number, owner, (p for p in calibration.points if min(p.origin, last) == place))
        self.add(number, owner, calibration.covered)
        return calls, steps

    def keep_fits(self, number: int, calibration: Calibration) -> None:
        """Store what was fitted to a calibration's points."""
        bare = dataclasses.replace(calibration, replays=(), points=(), covered=(), provenance=(), transferred=())
        fits = json.dumps(to_dict(bare), ensure_ascii=False, allow_nan=False)
        self.run("UPDATE calibration SET created_at = ?, fits = ? WHERE id = ?", bare.created_at, fits, number)

    def conclude(self, number: int, calibration: Calibration) -> None:
        """Store what was fitted to all points that are not superseded; a renewal replaces what was stored."""
        self.run(f"DELETE FROM point WHERE calibration_id = ? AND {SUPERSEDED}", number)
        self.run("UPDATE contribution SET fitted = 1 WHERE calibration_id = ?", number)
        self.keep_fits(number, calibration)
        key = (calibration.device_id, _sorted_json(calibration.versions))
        self.run("DELETE FROM calibration WHERE device_id = ? AND versions = ? AND id != ?", *key, number)
        self.run("UPDATE calibration SET renewal = 0 WHERE id = ?", number)

    def save(self, calibration: Calibration) -> None:
        """Store a whole calibration in place of the one with the same versions."""
        key = (calibration.device_id, _sorted_json(calibration.versions))
        self.run("DELETE FROM calibration WHERE device_id = ? AND versions = ? AND NOT renewal", *key)
        number = self.number_of(calibration.device_id, calibration.versions)
        self.merge(number, calibration)
        self.keep_fits(number, calibration)

    def forget(self, device_id: str) -> int:
        """Delete everything about a device; returns how many calibrations that were."""
        self.unreadable.pop(device_id, None)
        return self.run("DELETE FROM calibration WHERE device_id = ?", device_id).rowcount

    def _open(self, place: str) -> sqlite3.Connection:
        """Connect, make the tables where there are none, and check the version."""
        with database_errors(self.path, damaged):
            connection = sqlite3.connect(place, timeout=BUSY_S, isolation_level=None)
            try:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA foreign_keys = ON")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if not version:
                    connection.executescript(SCHEMA)
                if version > DATABASE_VERSION:
                    raise _newer("version of the database", DATABASE_VERSION, self.path, version)
            except BaseException:
                connection.close()
                raise
        return connection

    def _take_over(self, path: Path) -> None:
        """Take a file of version 1 over, unless that was done or something later is stored."""
        try:
            content = path.read_bytes()
            checksum = hashlib.sha256(content).hexdigest()
            if self.rows("SELECT name FROM taken_over WHERE name = ? AND checksum = ?", path.name, checksum):
                return
            found = read_calibration(path) if path.suffix == ".json" else None
            if found is not None and found.device_id != path.stem:
                raise damaged(path, f"it must be of {path.stem}, but it is of {found.device_id}")
        except (OSError, DeviceError) as failure:
            self.unreadable[path.stem] = failure if isinstance(failure, DeviceError) else damaged(path, failure)
            return
        with self.transaction():
            if found is None:
                self._add_journal(content.decode(errors="replace").splitlines())
            else:
                mine = self.load(found.device_id, found.versions)
                if mine is None or mine.versions != found.versions or mine.created_at < found.created_at:
                    self.save(found)
            self.run("INSERT OR REPLACE INTO taken_over VALUES (?, ?)", path.name, checksum)

    def _add_journal(self, lines: Sequence[str]) -> None:
        """Add what a journal of version 1 holds: a header, then one point per line; damaged lines are left out."""
        header, *values = [_parsed(line) for line in lines] or [{}]
        if not {"device_id", "versions", "started_at"} <= header.keys():
            return
        number = self.number_of(header["device_id"], header["versions"], renewal=header.get("fresh", False))
        began = Contribution(header["started_at"], header.get("advisor_version", "unknown"), {})
        owner = self.contribute(number, began, fitted=False)
        kinds: dict[str, type[Any]] = {"replay": ReplayPoint, "steps": StepPoint, "covered": str}
        for value in values:
            with contextlib.suppress(AdvisorError):
                for kind in kinds.keys() & value.keys():
                    self.add(number, owner, [from_dict(kinds[kind], value[kind], what="the journal")])


def database_path() -> Path:
    """Where calibrations and points are stored."""
    return user_data_dir("calibration") / "calibrations.db"


def load_calibration(device_id: str, versions: dict[str, str] | None = None) -> Calibration | None:
    """The stored calibration of a device with these versions, else its latest one; ``DeviceError`` if damaged."""
    with CalibrationDatabase() as database:
        return database.load(device_id, versions)


def save_calibration(calibration: Calibration) -> None:
    """Store a calibration in place of the one of its device with the same versions; ``OutputError`` if impossible."""
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.save(calibration)


def read_calibration(path: Path) -> Calibration:
    """A calibration of version 1, one JSON object; ``DeviceError`` when it is missing, damaged or newer."""
    values = read_json(path, what="the calibration", error=DeviceError)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise _newer("schema_version of the calibration", SCHEMA_VERSION, path, version)
    return from_dict(Calibration, values, what=str(path), error=DeviceError)


def device_lock(device_id: str) -> AbstractContextManager[None]:
    """No other process calibrates the device meanwhile; ``OutputError`` when one does."""
    busy = OutputError(
        f"one calibration at a time may run on a device, but another one of {device_id} is under way",
        fix="wait until it is done: two at once would also slow each other down",
    )
    return file_lock(database_path().with_name(f"{device_id}.lock"), busy=busy)


def damaged(path: Path, why: object) -> DeviceError:
    """The error about a file that cannot be used."""
    return DeviceError(f"{path} must hold calibrations, but it is damaged: {why}", fix=f"move it away, and {AGAIN}")


def _newer(what: str, most: int, path: Path, found: int) -> DeviceError:
    return DeviceError(
        f"the {what} must be at most {most}, but {path} has {found}",
        fix="it was written by a newer finetune-advisor: upgrade, or move the file away",
    )


def _columns(point: Point) -> tuple[str, str, str, str]:
    """Kind, subject, times and record. The end of a subject keeps it from being the beginning of another one."""
    record = json.dumps(to_dict(point), ensure_ascii=False)
    if isinstance(point, str):
        return "covered", f"{point};", "[]", record
    if isinstance(point, ReplayPoint):
        work = f"{point.name} {point.key} {point.flops} {point.moved_bytes}"
        return "replays", f"{work} {point.call}", json.dumps([point.median_s, point.spread]), record
    return "points", f"{' '.join(map(str, point.same_steps))};", json.dumps(point.step_times_s), record


def _sorted_json(values: dict[str, str] | None) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _parsed(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
