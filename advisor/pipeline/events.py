"""Helpers of the jobs for reporting what they do (the events themselves: ``advisor.core.events``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from advisor.core.events import Event, OnEvent


def ignore(event: Event) -> None:
    """The listener of callers who did not bring one."""


def phase(on_event: OnEvent | None, name: str) -> None:
    """Say that a new part of the job begins."""
    (on_event or ignore)({"kind": "phase", "name": name})


def note(on_event: OnEvent | None, text: str) -> None:
    """Say something worth knowing."""
    (on_event or ignore)({"kind": "note", "text": text})


def progress(on_event: OnEvent | None) -> Callable[[str, float], None]:
    """The same listener for rooms that report ``(text, share)``."""
    listener = on_event or ignore

    def report(text: str, share: float) -> None:
        listener({"kind": "progress", "text": text, "share": share})

    return report


def counted_progress(on_event: OnEvent | None, rows: str = "") -> Callable[[Mapping[str, object]], None]:
    """The same listener for rooms that count ``done`` of ``total`` methods.

    Args:
        on_event: The listener.
        rows: Key of the number of rows that belongs to the text, if any.
    """
    report = progress(on_event)

    def count(event: Mapping[str, object]) -> None:
        total = int(str(event.get("total") or 1))
        text = str(event.get("method", ""))
        if rows and event.get(rows):
            text += f" on {event[rows]} rows"
        report(text, int(str(event.get("done") or 0)) / max(1, total))

    return count


def steps_only(on_event: OnEvent | None) -> OnEvent:
    """Passes on the steps of a run inside a larger job, but not its phases and figures."""
    listener = on_event or ignore

    def passed(event: Event) -> None:
        if event.get("kind") == "step":
            listener(event)

    return passed
