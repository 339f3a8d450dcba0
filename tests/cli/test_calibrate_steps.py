"""``advisor calibrate from-steps``: a datasheet corrected by measured steps, used by predictions, shown, and undone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from advisor.hardware.profiles import fitted_path
from tests.cli.conftest import Advisor, Answer
from tests.cli.measured_steps import CARD, entry, fit, run_folder, written
from tests.cli.test_bad_input import refused

SHAPES = ((2, 16), (64, 64), (1024, 64), (4096, 64))
SLOWER = 1.3


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of this file's own, so that what it traces is traced once."""
    home = tmp_path_factory.mktemp("fitted-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVISOR_HOME", str(home))
        yield home


@pytest.fixture(autouse=True)
def not_fitted() -> Iterator[None]:
    yield
    fitted_path(CARD).unlink(missing_ok=True)


def predicted(advisor: Advisor, model: Path, rows: int, tokens: int) -> Answer:
    answer = advisor(
        "predict", model, "--task", "sequence-classification", "--method", "lora", "--dtype", "bf16", "--device", CARD,
        "--micro-batch-size", str(rows), "--seq-length", str(tokens), "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    return answer


@pytest.fixture
def steps(advisor: Advisor, model_dir: Path, tmp_path: Path) -> Path:
    """Four shapes on a card that is 1.3 times as slow as its datasheet says."""
    times = [predicted(advisor, model_dir, *shape).json["time"]["step_s"] for shape in SHAPES]
    return written(tmp_path, [entry(model_dir, *shape, SLOWER * s) for shape, s in zip(SHAPES, times, strict=True)])


def test_the_card_is_fitted_used_shown_and_forgotten(advisor: Advisor, model_dir: Path, steps: Path) -> None:
    before = predicted(advisor, model_dir, 512, 64)
    answer = fit(advisor, steps)
    assert answer.code == 0, answer.stderr
    for text in (
        "NVIDIA L4 (l4), datasheet fitted to 4 measured steps",
        "model lora r=8, 4096 x 1 rows, 64 tokens",
        "matrix products, of the matrix rate",
        "cross-validation, each step left out of the fit: median",
        "from the datasheet alone: median 23.1 %",
        "90 % intervals from now on: device time ±",
        "`advisor calibrate reset --device l4` undoes it",
    ):
        assert text in answer.stdout, text

    after = predicted(advisor, model_dir, 512, 64)
    assert "times on l4 come from its datasheet, fitted to 4 measured steps, cross-validation error" in after.stderr
    assert after.json["time"]["step_s"] == pytest.approx(SLOWER * before.json["time"]["step_s"], rel=0.05)
    assert (before.json["time"]["basis"], after.json["time"]["basis"]) == ("datasheet", "transferred")
    assert after.json["memory"] == before.json["memory"]

    profile = next(found for found in advisor("devices", "--json").json if found["id"] == CARD)
    assert profile["basis"] == "fitted"
    assert "fitted to 4 measured steps" in profile["flops_per_s"]["bfloat16"]["source"]
    assert "fitted" in next(line for line in advisor("devices").stdout.splitlines() if line.startswith("l4 "))
    shown = advisor("calibrate", "show", "--device", CARD)
    assert "fitted: to 4 measured steps, cross-validation error" in shown.stdout

    forgotten = advisor("calibrate", "reset", "--device", CARD)
    assert forgotten.code == 0
    assert "l4 is predicted from its datasheet again" in forgotten.stdout
    assert predicted(advisor, model_dir, 512, 64).json == before.json
    refused(advisor("calibrate", "reset", "--device", CARD), "there must be a calibration of l4")


def test_fitting_again_begins_at_the_datasheet(advisor: Advisor, steps: Path) -> None:
    first, second = (advisor("calibrate", "from-steps", steps, "--device", "L4", "--json").json for _ in range(2))
    assert first["fit"] == second["fit"]
    assert first["device"]["flops_per_s"] == second["device"]["flops_per_s"]
    assert first["fit"]["assumed"]["bandwidth"] > first["fit"]["fitted"]["bandwidth"]
    assert [step["measured_s"] for step in first["fit"]["steps"]] == [
        e["step_s"] for e in json.loads(steps.read_text())
    ]
    assert first["path"] == str(fitted_path(CARD))
    assert len(first["labels"]) == 4


def test_two_files_and_paths_beside_them(advisor: Advisor, model_dir: Path, steps: Path) -> None:
    own = written(model_dir.parent, [entry(f"{model_dir.name}/config.json", 2, 16, 0.02)])
    answer = fit(advisor, steps, own)
    assert answer.code == 0, answer.stderr
    assert "fitted to 5 measured steps" in answer.stdout


def test_a_single_step_promises_little_and_says_so(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    time = predicted(advisor, model_dir, 4096, 64).json["time"]
    answer = fit(advisor, written(tmp_path, [entry(model_dir, 4096, 64, 1.2 * time["step_s"])]))
    assert answer.code == 0, answer.stderr
    assert "fitted to 1 measured step\n" in answer.stdout
    assert "unknown, with a single step" in answer.stdout
    assert "fewer than 3 steps do not show" in answer.stdout
    after = predicted(advisor, model_dir, 4096, 64).json["time"]
    assert after["step_s"] == pytest.approx(1.2 * time["step_s"], rel=0.05)
    assert after["intervals"]["step_s"]["high"] >= 1.3 * after["step_s"]


def test_a_run_counts_with_its_median_step_and_length(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", model_dir)
    answer = advisor("calibrate", "from-steps", folder, "--device", CARD, "--json")
    assert answer.code == 0, answer.stderr
    [step] = answer.json["fit"]["steps"]
    assert step["measured_s"] == 0.0205, "the first step warms up"
    assert answer.json["labels"] == ["model lora r=8, 2 x 1 rows, 8 to 40 (median 24) tokens"]


def test_a_stored_calibration_goes_before_the_fit(
    advisor: Advisor, model_dir: Path, steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.calibration.database import save_calibration
    from advisor.hardware import load_profile
    from tests.calibration.calibrations import calibration

    home = tmp_path / "home"
    monkeypatch.setenv("ADVISOR_HOME", str(home))
    card: DeviceProfile = dataclasses.replace(load_profile(CARD), facts={})
    save_calibration(calibration(device=card))
    answer = fit(advisor, steps)
    assert answer.code == 0, answer.stderr
    assert "a calibration of l4 is stored: predictions use it" in answer.stdout
    assert "Calibration of NVIDIA L4" in advisor("calibrate", "show", "--device", CARD).stdout


def test_repeats_of_one_configuration_count_as_their_median(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    answer = fit(advisor, written(tmp_path, [entry(model_dir, 64, 64, step_s) for step_s in (0.2, 0.3, 0.9)]))
    assert answer.code == 0, answer.stderr
    assert "datasheet fitted to 1 measured step\n" in answer.stdout
    assert "64 tokens, median of 3" in answer.stdout
    assert "fewer than 3 steps do not show" in answer.stdout


def test_steps_faster_than_the_card_can_be_are_pointed_out(advisor: Advisor, steps: Path, model_dir: Path) -> None:
    assert "faster than" not in fit(advisor, steps).stdout
    too_fast = written(steps.parent, [entry(model_dir, *shape, 1e-6) for shape in SHAPES])
    assert "faster than NVIDIA L4 can be by its datasheet" in fit(advisor, too_fast).stdout.replace("\n", " ")
