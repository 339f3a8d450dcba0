"""Lists of measured steps and a run's folder, as a user would bring them for a card that is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from advisor.core.plan import ExecutionPlan
from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from tests.cli.conftest import Advisor, Answer
from tests.core.records import make_plan, measurement

CARD = "l4"


def entry(model: Path | str, rows: int = 2, tokens: int = 16, step_s: object = 0.1, **keys: object) -> dict[str, Any]:
    named = {"model": str(model), "task": "sequence-classification", "method": "lora", "dtype": "bf16"}
    return {**named, "micro_batch_size": rows, "seq_length": tokens, "step_s": step_s, **keys}


def written(folder: Path, entries: object) -> Path:
    path = folder / "steps.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def fit(advisor: Advisor, *steps: Path, device: str = CARD) -> Answer:
    return advisor("calibrate", "from-steps", *steps, "--device", device)


def run_folder(folder: Path, model: Path, device_id: str = CARD, **changes: Any) -> Path:
    """What ``advisor run`` leaves of a run of rows with 4 to 40 tokens, padded to multiples of 8."""
    from advisor.pipeline.inputs import inspect
    from advisor.strategies import get_strategy

    spec = inspect(str(model), task="sequence-classification")
    execution = ExecutionPlan(2, max_seq_length=64, dtype="bfloat16", **changes)
    plan = make_plan(model=spec, strategy=get_strategy("lora").configured(spec), execution=execution, device=device_id)
    times = measurement(step_times_s=(9.0, 0.021, 0.020, 0.022, 0.019))
    folder.mkdir()
    record = RunRecord(plan, times, (), device_id, {}, "2026-01-01T00:00:00+00:00", str(folder))
    (folder / "record.json").write_text(to_json(record), encoding="utf-8")
    return folder
