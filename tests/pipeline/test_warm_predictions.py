"""A model that was looked at before, with a cached trace, is predicted without torch and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from advisor.pipeline import predict

CONFIG = Path(__file__).resolve().parents[1] / "fixtures" / "configs" / "distilbert-base-uncased.json"

PROGRAM = """
import json, sys
from pathlib import Path
from advisor.pipeline import {job}
answer = {call}
heavy = ("torch", "transformers", "peft", "pydantic", "scipy", "sklearn", "datasets")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
PREDICT = "predict({config!r}, method={method!r}, device='t4')"
RECOMMEND = "recommend({model!r}, {data!r}, device='t4', methods=['lora', 'head'])"
FIT = "fit({config!r}, device='t4', methods=['head'], cards=False)"


def _loaded(job: str, call: str, home: Path) -> list[str]:
    """Libraries that a fresh interpreter has loaded after a job."""
    program = PROGRAM.format(job=job, call=call)
    environment = {**os.environ, "ADVISOR_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def test_a_second_prediction_needs_no_deep_learning_library(tmp_path: Path) -> None:
    call = PREDICT.format(config=str(CONFIG), method="lora")
    assert "torch" in _loaded("predict", call, tmp_path), "the first look traces the model"
    assert _loaded("predict", call, tmp_path) == []


def test_a_second_fit_needs_no_deep_learning_library(tmp_path: Path) -> None:
    call = FIT.format(config=str(CONFIG))
    _loaded("fit", call, tmp_path)
    assert _loaded("fit", call, tmp_path) == []


def test_a_second_recommendation_needs_no_deep_learning_library(model_dir: Path, table: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(table.read_text())
    call = RECOMMEND.format(model=str(model_dir), data=str(data))
    assert "torch" in _loaded("recommend", call, tmp_path), "the first look measures token lengths and traces"
    assert _loaded("recommend", call, tmp_path) == []
    data.write_text("\n".join(table.read_text().splitlines()[:-10]))
    assert "transformers" in _loaded("recommend", call, tmp_path), "new data is tokenised"


def test_a_changed_configuration_is_looked_at_again(tmp_path: Path) -> None:
    values, config, counts = json.loads(CONFIG.read_text()), tmp_path / "config.json", []
    for layers in (2, 3):
        config.write_text(json.dumps({**values, "n_layers": layers}))
        counts.append(predict(str(config), method="head", device="t4").total_parameters)
    assert counts[0] < counts[1]
