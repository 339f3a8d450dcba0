"""Shows what a long job is doing: a live line on a terminal, an occasional plain line anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from advisor.core.events import Event
from advisor.reporting.study_panel import StudyPanel, best_so_far, expected_of_going_on, time_left
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
        self._panel: StudyPanel | None = None
        self._panel_live: Live | None = None
        self._phase = ""
        self._last_plain_s = 0.0

    def __enter__(self) -> ProgressView:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._panel_live is not None:
            self._panel_live.stop()
        if self._live:
            self._bars.stop()

    def on_event(self, event: Event) -> None:
        """Show one event; kinds that are not known are ignored, so that jobs may say more than views show.

        Of the runs inside a study only the steps are shown: their phases and figures would bury the trials. On a
        terminal a study is one panel, with a line above it for every trial that ends.
        """
        if self._live and event.get("kind") == "study" and self._panel is None:
            self._bars.stop()
            self._panel = StudyPanel()
            self._panel_live = Live(self._panel, console=self._console, refresh_per_second=4, transient=True)
            self._panel_live.start()
        if self._panel is not None:
            self._panel.take(event)
            if event.get("kind") in ("phase", "progress", "step", "study", "evaluation"):
                return
            if event.get("kind") == "trial" and event.get("state") == "started":
                return
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
        others = [str(number) for number in event.get("pack") or () if number != event.get("trial")]
        words.append(f"in one pass with {', '.join(others)}" if others else "")
        words.append(str(event.get("reason") or ""))
        self._say(f"trial {event.get('trial')}: {', '.join(filter(None, words))}")

    def _show_study(self, event: Mapping[str, Any]) -> None:
        """One line after every trial: the best so far, the rungs, what is left, and what going on may gain."""
        if event.get("state") != "status" or self._live:
            return
        rungs = " > ".join(f"{rows:,}" for rows in event.get("ladder_rows") or ())
        parts = [f"best so far: {best_so_far(event)}", f"rungs {rungs} rows", time_left(event)]
        if event.get("expected_gain") is not None:
            parts.append(f"going on {expected_of_going_on(event)}")
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
