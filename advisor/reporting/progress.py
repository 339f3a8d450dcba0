"""Shows what a long job is doing: a live line on a terminal, an occasional plain line anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from advisor.core.events import Event
from advisor.core.metrics import get_metric
from advisor.core.units import format_duration
from advisor.reporting.text import say

PLAIN_INTERVAL_S = 10.0
"""Without a terminal, one line of progress at most this often: a log stays readable."""

_TRIAL_FIGURES = ("train_rows", "metric", "nll")


class ProgressView:
    """A context manager whose :meth:`on_event` takes the events of a job (``advisor.core.events``)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase = ""
        self._last_plain_s = 0.0

    def __enter__(self) -> ProgressView:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._live:
            self._bars.stop()

    def on_event(self, event: Event) -> None:
        """Show one event; kinds that are not known are ignored, so that jobs may say more than views show.

        Of the runs inside a study only the steps are shown: their phases and figures would bury the trials.
        """
        if "trial" in event and event.get("kind") in ("phase", "metrics", "evaluation"):
            return
        show = {
            "phase": self._show_phase,
            "progress": self._show_share,
            "step": self._show_step,
            "metrics": self._show_metrics,
            "note": self._show_note,
            "evaluation": self._show_evaluation,
            "resumed": self._show_resumed,
            "trial": self._show_trial,
            "study": self._show_study,
        }.get(str(event.get("kind")))
        if show is not None:
            show(event)

    def _show_phase(self, event: Mapping[str, Any]) -> None:
        self._phase = str(event.get("name", "")).replace("_", " ")
        if self._live:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(escape(self._phase), total=None, detail="")
        else:
            self._last_plain_s = 0.0
            say(self._console, f"{escape(self._phase)} ...")

    def _show_share(self, event: Mapping[str, Any]) -> None:
        self._advance(event.get("share"), str(event.get("text", "")))

    def _show_step(self, event: Mapping[str, Any]) -> None:
        step, total, loss = event.get("step", 0), event.get("total"), event.get("loss")
        detail = f"step {step}" + (f" of {total}" if total else "")
        detail += f", loss {loss:.4f}" if isinstance(loss, int | float) else ""
        self._advance(step / total if total else None, detail)

    def _show_evaluation(self, event: Mapping[str, Any]) -> None:
        batch, total = event.get("batch", 0), event.get("total")
        self._advance(batch / total if total else None, "evaluating held-out rows")

    def _show_metrics(self, event: Mapping[str, Any]) -> None:
        metrics = event.get("metrics") or {}
        text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float))
        if text:
            self._say(f"held-out: {text}")

    def _show_note(self, event: Mapping[str, Any]) -> None:
        self._say(str(event.get("text", "")))

    def _show_resumed(self, event: Mapping[str, Any]) -> None:
        self._say(f"resuming after step {event.get('step')}")

    def _show_trial(self, event: Mapping[str, Any]) -> None:
        words = [str(event.get("method", "")), str(event.get("state", ""))]
        figures = {name.replace("_", " "): event.get(name) for name in _TRIAL_FIGURES}
        words += [f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float)]
        words.append("onset not reached" if event.get("at_chance") else "")
        words.append(str(event.get("reason") or ""))
        self._say(f"trial {event.get('trial')}: {', '.join(filter(None, words))}")

    def _show_study(self, event: Mapping[str, Any]) -> None:
        """One line after every trial: the best so far, the rungs, the time that is left, and what going on may gain."""
        if event.get("state") != "status":
            return
        if event.get("best_trial") is None:
            parts = ["best so far: the recommended default (no trial has left chance level)"]
        else:
            name = f"{event.get('best_method')} at {event.get('best_lr_rel'):.3g} x its learning rate"
            parts = [f"best so far: trial {event.get('best_trial')}, {name}{_quality_of(event)}"]
        rungs = " > ".join(f"{rows:,}" for rows in event.get("ladder_rows") or ())
        parts.append(f"rungs {rungs} rows")
        left, budget = format_duration(event.get("remaining_s") or 0.0), format_duration(event.get("budget_s") or 0.0)
        reserved_s = event.get("reserved_s") or 0.0
        reserved = f" and {format_duration(reserved_s)} for the final run" if reserved_s else ""
        parts.append(f"{left} left of {budget}{reserved}")
        if event.get("expected_gain") is not None:
            parts.append(f"going on may lower the loss by {event['expected_gain']:.3f}")
        self._say("; ".join(parts))

    def _say(self, text: str) -> None:
        say(self._console, f"  {escape(text)}")

    def _advance(self, share: float | None, detail: str) -> None:
        if self._live:
            if self._task is None:
                self._task = self._bars.add_task(escape(self._phase or "working"), total=None, detail="")
            self._bars.update(
                self._task, total=1.0 if share is not None else None, completed=share or 0.0, detail=escape(detail)
            )
            return
        now_s = time.monotonic()
        if now_s - self._last_plain_s >= PLAIN_INTERVAL_S:
            self._last_plain_s = now_s
            self._say(f"{share:4.0%} {detail}" if share is not None else detail)


def _quality_of(event: Mapping[str, Any]) -> str:
    """``", accuracy 0.78 (90 %: 0.75 to 0.81) on 1,600 rows"``, as far as it is known."""
    metric, name = event.get("metric"), event.get("metric_name")
    if metric is None or name is None:
        return ""
    text = f", {get_metric(str(name)).title} {get_metric(str(name)).show(metric)}"
    if event.get("low") is not None:
        text += f" (90 %: {event['low']:.2f} to {event['high']:.2f})"
    return text + f" on {event.get('train_rows'):,} rows"
