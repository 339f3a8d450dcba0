"""A study while it runs, as one panel: what runs now, the rungs, the best so far, what is left, what may be gained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from advisor.core.metrics import get_metric
from advisor.core.units import format_duration, format_energy

_BAR_WIDTH = 24


class StudyPanel:
    """Takes the events of a study; shows the newest of each.

    Args:
        now: Seconds that only go forward; the time that is left counts down between events.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._status: dict[str, Any] = {}
        self._told_s = now()
        self._doing = "starting"
        self._step: dict[str, Any] = {}
        self._packed = False

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event; kinds that a panel has no place for are ignored."""
        kind, state = event.get("kind"), event.get("state")
        if kind == "study" and state == "status":
            self._status, self._told_s = dict(event), self._now()
        elif kind == "study":
            self._doing, self._step = f"stopped: {event.get('reason')}", {}
        elif kind == "trial" and state == "started":
            rows = event.get("train_rows")
            on = f" on {rows:,} rows" if isinstance(rows, int) else ""
            pack = event.get("pack") or [event.get("trial")]
            names = f"trial {pack[0]}" if len(pack) == 1 else f"trials {', '.join(map(str, pack))} in one pass"
            self._doing, self._step = f"{names}: {event.get('method')}{on}", {}
            self._packed = len(pack) > 1
        elif kind == "trial":
            self._doing, self._step, self._packed = "choosing the next trial", {}, False
        elif kind == "phase" and "trial" not in event:
            self._doing, self._step = str(event.get("name", "")).replace("_", " "), {}
        elif kind == "progress":
            self._doing, self._step = str(event.get("text", "")), {"share": event.get("share")}
        elif kind == "step":  # the members of a pack take turns: their losses would flicker
            self._step = {**event, "loss": None} if self._packed else dict(event)

    def __rich__(self) -> RenderableType:
        """As rich draws it."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        table.add_row("now", self._now_row())
        if self._status:
            table.add_row("rungs", escape(self._rungs()))
            table.add_row("best so far", escape(best_so_far(self._status)))
            table.add_row("left", escape(self._left()))
            table.add_row("going on", escape(expected_of_going_on(self._status)))
        return Panel(table, title="tuning", subtitle="Ctrl-C ends it with the best plan so far", title_align="left")

    def _now_row(self) -> RenderableType:
        step, total, loss = self._step.get("step"), self._step.get("total"), self._step.get("loss")
        share = step / total if step and total else self._step.get("share")
        text = self._doing
        if step:
            text += f", step {step:,}" + (f" of {total:,}" if total else "")
        if isinstance(loss, int | float):
            text += f", loss {loss:.4f}"
        row = Table.grid(padding=(0, 2, 0, 0))
        cells: list[RenderableType] = [escape(text)]
        if isinstance(share, int | float):
            cells.append(ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH))
        row.add_row(*cells)
        return row

    def _rungs(self) -> str:
        rows = self._status.get("ladder_rows") or []
        counts = self._status.get("rung_trials") or [0] * len(rows)
        rungs = [f"{number:,} rows: {count}" for number, count in zip(rows, counts, strict=False)]
        return f"{' > '.join(rungs)} (trials that ran there)"

    def _left(self) -> str:
        remaining_s = max(0.0, (self._status.get("remaining_s") or 0.0) - (self._now() - self._told_s))
        return time_left({**self._status, "remaining_s": remaining_s})


def best_so_far(status: Mapping[str, Any]) -> str:
    """``"trial 3, lora at 3 x its learning rate, accuracy 0.78 (90 %: 0.75 to 0.81) on 1,600 rows"``."""
    if status.get("best_trial") is None:
        return "the recommended default (no trial has left chance level)"
    name = f"{status.get('best_method')} at {status.get('best_lr_rel'):.3g} x its learning rate"
    return f"trial {status.get('best_trial')}, {name}{_quality_of(status)}"


def time_left(status: Mapping[str, Any]) -> str:
    """``"12 min 05 s of 30 min 00 s and 2 min 10 s for the final run"``, and the energy where it is limited."""
    left, budget = format_duration(status.get("remaining_s") or 0.0), format_duration(status.get("budget_s") or 0.0)
    reserved_s = status.get("reserved_s") or 0.0
    text = f"{left} left of {budget}" + (f" and {format_duration(reserved_s)} for the final run" if reserved_s else "")
    limit_j = status.get("energy_budget_j")
    if limit_j is not None:
        text += f"; {format_energy(status.get('energy_used_j') or 0.0)} of {format_energy(limit_j)} used"
    return text


def expected_of_going_on(status: Mapping[str, Any]) -> str:
    """What the sampled trials so far let expect of the rest of the budget, or that they do not yet say."""
    gain = status.get("expected_gain")
    if gain is None:
        return "what it may gain is not known yet (fewer than two sampled trials on the lowest rung)"
    return f"may lower the loss by {gain:.3f}"


def _quality_of(status: Mapping[str, Any]) -> str:
    """``", accuracy 0.78 (90 %: 0.75 to 0.81) on 1,600 rows"``, as far as it is known."""
    metric, name = status.get("metric"), status.get("metric_name")
    if metric is None or name is None:
        return ""
    text = f", {get_metric(str(name)).title} {get_metric(str(name)).show(metric)}"
    if status.get("low") is not None:
        text += f" (90 %: {status['low']:.2f} to {status['high']:.2f})"
    return text + f" on {status.get('train_rows'):,} rows"
