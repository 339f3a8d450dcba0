"""A recommendation looks at the task first, and what it then recommends can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from tests.cli.conftest import Advisor


@pytest.mark.slow
def test_recommend_probes_first_and_its_plan_runs(
    advisor: Advisor, model_dir: Path, table: Path, cpu_profile: DeviceProfile, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    asked = ("recommend", model_dir, "--data", table, "--methods", "linear_probe,head", "--epochs", "1")
    answer = advisor(*asked, "--output", plan, "--json")
    assert answer.code == 0, answer.stderr
    report = answer.json["probe"]
    assert report["train_rows"] + report["eval_rows"] == 200
    ranked = {item["method"]: item for item in answer.json["ranked"]}
    probe = ranked["linear_probe"]["cost"]
    assert probe["quality"]["value"] == report["value"]
    assert probe["quality"]["basis"] == "measured"
    assert answer.json["advice"][0].startswith("linear probe")
    only = advisor(*asked, "--no-probe", "--json")
    assert "probe" not in only.json
    limited = advisor(*asked, "--memory", "4GiB", "--json")
    assert limited.json["probe"]["value"] == report["value"]
    too_small = advisor(*asked, "--memory", "100MiB", "--json")
    assert "probe" not in too_small.json and "free or allowed" in too_small.json["advice"][-1]

    chosen = advisor(*asked[:4], "--methods", "linear_probe", "--output", plan, "--force", "--json")
    assert chosen.code == 0, chosen.stderr
    ran = advisor("run", plan, "--output", tmp_path / "out", "--json")
    assert ran.code == 0, ran.stderr
    assert ran.json["outcome"] == "completed"
    verdicts = {item["quantity"]: item for item in ran.json["verifications"]}
    assert verdicts["trainable_parameters"]["verdict"] == "inside"
    assert abs(verdicts["memory.allocated_bytes"]["relative_error"]) < 0.02
    assert verdicts["time.total_s"]["measured"] > 0
    assert verdicts["quality.value"]["measured"] == pytest.approx(report["value"], abs=0.05)
