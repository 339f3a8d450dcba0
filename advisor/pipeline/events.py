"""What a job tells whoever watches it: small dictionaries, so that they cross process borders.

==============  ===================================================  ==========================================
kind            further keys                                         meaning
==============  ===================================================  ==========================================
``"phase"``     ``name``                                             a new part of the job begins
``"progress"``  ``text``, ``share`` (0 to 1)                         how far the current part is
``"step"``      ``step``, ``total``, ``loss`` (may be absent)        an optimizer step is done
``"metrics"``   ``step``, ``metrics``                                held-out figures along the way
``"note"``      ``text``                                             something worth knowing
==============  ===================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OnEvent = Callable[[dict[str, Any]], None]


def ignore(event: dict[str, Any]) -> None:
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
