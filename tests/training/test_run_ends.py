"""A run that diverges has no result and says so; a folder belongs to one process at a time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.errors import OutputError, RunFailed
from advisor.core.plan import Plan
from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.measurement.run import measure_run
from advisor.pipeline import run
from advisor.training.run_folder import RunFolder
from advisor.training.trainer import train
from tests.training.training_runs import lora_strategy, tiny_plan


def diverging_plan(folder: Path, learning_rate: float) -> Plan:
    strategy = dataclasses.replace(lora_strategy(), learning_rate=learning_rate, max_grad_norm=0.0)
    return tiny_plan(folder, strategy=strategy, rows=60)


def test_a_diverged_run_has_no_result(tmp_path: Path) -> None:
    plan, folder = diverging_plan(tmp_path, 1e30), RunFolder(tmp_path / "out")
    measured = train(plan, folder.path)
    assert measured.outcome == "diverged"
    assert measured.metrics == {}
    assert not folder.model.exists()
    folder.keep(measured)
    again = folder.finished()  # it would diverge again
    assert again is not None and again.outcome == "diverged"


@pytest.mark.slow
@pytest.mark.parametrize("learning_rate", [1e30, 1e4])
def test_a_diverged_run_is_a_failure_whose_records_read_back(tmp_path: Path, learning_rate: float) -> None:
    plan, output = diverging_plan(tmp_path, learning_rate), tmp_path / "out"
    for resume in (False, True):
        with pytest.raises(RunFailed, match="diverged") as failure:
            run(plan, output, resume=resume, any_device=True)
        assert failure.value.exit_code == 1
        assert "learning_rate" in str(failure.value.fix) and f"{learning_rate:g}" in str(failure.value.fix)
    record = from_dict(RunRecord, read_json(output / "record.json", what="it"), what="it")
    assert record.measurement.outcome == "diverged"
    judged = [verification for verification in record.verifications if verification.quantity.startswith("quality")]
    assert all(verification.verdict == "not measured" for verification in judged)


def test_two_processes_never_share_an_output_folder(tmp_path: Path) -> None:
    plan, output = tiny_plan(tmp_path, rows=60), tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from advisor.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        for resume in (False, True):
            with pytest.raises(OutputError, match="one process at a time") as refused:
                measure_run(plan, output, resume=resume)
            assert "another --output" in str(refused.value.fix)
        other.kill()
        other.wait()
    with RunFolder(output).locked():  # what a killed process leaves does not stand in the way
        RunFolder(output).claim(plan, resume=False)


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    from advisor.training.metrics import finite, held_out_metrics

    assert held_out_metrics({"eval_loss": float("nan"), "eval_accuracy": 0.5}) == {"accuracy": 0.5}
    assert finite({"a": float("inf"), "b": 1.0}) == {"b": 1.0}
    assert "null" not in to_json(finite({"a": float("nan")}))
