"""What lies in a run's output folder, and who may write there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import OutputError
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, read_json, to_dict, to_json
from advisor.core.store import ensure_writable_dir, write_text_atomically
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy

if TYPE_CHECKING:
    from torch import nn


class RunFolder:
    """The files of one run.

    ``plan.json``: what was asked for. ``checkpoints/``: the Trainer's. ``model/``: the result, there only when whole.
    ``measurement.json``: raw figures, written last. ``step_profile.json``: the profiled step. ``run.log``: what
    libraries said.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.measurement = path / "measurement.json"
        self.step_profile = path / "step_profile.json"
        self.log = path / "run.log"

    def claim(self, plan: Plan, *, resume: bool) -> None:
        """Make the folder this plan's own; nothing that exists is overwritten.

        Raises:
            OutputError: it is occupied, belongs to another plan, is a file, read-only or full.
        """
        ensure_writable_dir(self.path)
        entries = sorted(entry.name for entry in self.path.iterdir())
        if not entries:
            plan.save(self.plan)
            return
        if self.plan.name not in entries:
            raise OutputError(
                f"the output folder must be empty or hold this plan's run, but {self.path} holds {_listed(entries)}",
                fix="name another --output",
            )
        if changed := self._differences(plan):
            raise OutputError(
                f"{self.path} belongs to a run with another plan: {_listed(changed)} differ",
                fix="name another --output, or resume with the plan.json in that folder",
            )
        if self._has_progress() and not resume:
            raise OutputError(
                f"the output folder must be empty, but {self.path} holds a run of this plan",
                fix="continue it with --resume, or name another --output",
            )

    def finished(self) -> Measurement | None:
        """The figures of a run that has completed here."""
        if not self.measurement.exists() or not self.model.is_dir():
            return None
        values = read_json(self.measurement, what="the measurement", error=OutputError)
        measurement = from_dict(Measurement, values, what=str(self.measurement), error=OutputError)
        return measurement if measurement.outcome == "completed" else None

    def keep(self, measurement: Measurement) -> None:
        """Write the figures."""
        write_text_atomically(self.measurement, to_json(measurement))

    def save_result(self, strategy: StrategyConfig, model: nn.Module, tokenizer: Any) -> None:
        """Write adapter or model with its tokenizer beside where they belong, then rename: whole or not at all."""
        partial = self.path / "model.partial"
        for left_over in (partial, self.model):
            shutil.rmtree(left_over, ignore_errors=True)
        get_strategy(strategy.method).save(model, partial)
        tokenizer.save_pretrained(partial)
        partial.rename(self.model)

    def _has_progress(self) -> bool:
        """Whether there is anything that a fresh start would overwrite; a log and an empty folder are not."""
        return self.model.exists() or self.measurement.exists() or any(self.checkpoints.glob("*"))

    def _differences(self, plan: Plan) -> list[str]:
        there, here = _identity(load_plan(self.plan)), _identity(plan)
        return [name for name in here if here[name] != there[name]]


def _identity(plan: Plan) -> dict[str, Any]:
    """The parts of a plan that decide what a run does; promises, budgets and versions do not."""
    parts = {name: to_dict(getattr(plan, name)) for name in ("model", "data", "strategy", "execution", "seed")}
    return parts | {"data fingerprint": plan.data_profile.fingerprint}


def _listed(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
