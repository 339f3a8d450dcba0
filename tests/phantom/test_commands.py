"""The project's own commands, end to end, on three cards that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.phantom.stage import Theatre
from tools.phantom_gpu.world import GIB, World, make_card

pytestmark = pytest.mark.phantom
CARDS = ("t4", "rtx-4090", "h100")


@pytest.mark.parametrize("name", CARDS)
def test_every_job_runs_to_its_end(theatre: Theatre, minilm_dir: Path, name: str) -> None:
    """From first contact to the finished run, in one home, as a user would."""
    card = make_card(name)
    world, plan, run = World((card,)), theatre.folder / "plan.json", theatre.folder / "run"
    rows = ("--max-train-rows", "96", "--max-eval-rows", "32")

    probed = theatre.advisor(world, "probe", "--quick", "--json")
    assert probed.returncode == 0, probed.stderr
    profile = json.loads(probed.stdout)
    profile = profile.get("device", profile)
    assert (profile["name"], profile["memory_bytes"]) == (card.name, card.memory)
    assert profile["context_bytes"] == pytest.approx(card.context, rel=0.05)

    calibrated = theatre.advisor(world, "calibrate", "run", minilm_dir, "--quick")
    assert calibrated.returncode == 0, calibrated.stderr

    predicted = theatre.advisor(
        world, "predict", minilm_dir, "--data", "movie-sentences", "--method", "lora", *rows, "--json"
    )
    assert predicted.returncode == 0, predicted.stderr

    recommended = theatre.advisor(
        *(world, "recommend", minilm_dir, "--data", "movie-sentences", *rows, "--methods", "lora"),
        *("--epochs", "1", "--effective-batch-size", "16", "--output", plan),
    )
    assert recommended.returncode == 0, recommended.stderr

    ran = theatre.advisor(world, "run", plan, "--output", run)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((run / "record.json").read_text())
    measured = record["measurement"]
    assert measured["outcome"] == "completed"
    assert measured["device_peak_bytes"] >= measured["reserved_peak_bytes"] + card.context * 0.9

    validated = theatre.advisor(
        *(world, "validate", "memory", "--grid", "cuda", "--shard", "1/40", "--output", theatre.folder / "validation")
    )
    assert validated.returncode == 0, validated.stderr


def test_a_study_runs_to_its_end(theatre: Theatre, minilm_dir: Path) -> None:
    world, study = World((make_card("rtx-4090"),)), theatre.folder / "study"
    tuned = theatre.advisor(
        *(world, "tune", minilm_dir, "--data", "movie-sentences", "--max-train-rows", "96", "--max-eval-rows", "32"),
        *("--methods", "lora,head", "--trials", "2", "--budget", "15min", "--effective-batch-size", "16"),
        *("--study-dir", study),
    )
    assert tuned.returncode == 0, tuned.stderr
    assert (study / "plan.json").exists()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, minilm_dir: Path) -> Path:
    """A plan for a T4, made without one."""
    theatre = Theatre(tmp_path_factory.mktemp("plan"))
    path = theatre.folder / "plan.json"
    made = theatre.advisor(
        *(World((make_card("t4"),)), "recommend", minilm_dir, "--data", "movie-sentences", "--methods", "full"),
        *("--max-train-rows", "96", "--max-eval-rows", "32", "--epochs", "1", "--effective-batch-size", "32"),
        *("--device", "t4", "--output", path),
    )
    assert made.returncode == 0, made.stderr
    return path


@pytest.mark.parametrize(
    ("world", "outcome", "said"),
    [
        (World((make_card("t4"),), fault="ecc", fault_launch=500), "failed", "uncorrectable ECC error"),
        (World((make_card("t4"),), fault="lost", fault_launch=500), "failed", "unspecified launch failure"),
        (World((make_card("t4"),), fault_bytes=GIB // 2), "out_of_memory", "out of memory"),
        (World((make_card("t4:memory=300MiB"),)), "out_of_memory", "out of memory"),
        (World((make_card("t4:memory=8GiB,filled=7.9GiB"),)), "out_of_memory", "out of memory"),
    ],
    ids=["ecc", "lost", "refused", "small", "full"],
)
def test_a_run_that_cannot_go_on_says_why(theatre: Theatre, plan: Path, world: World, outcome: str, said: str) -> None:
    ran = theatre.advisor(world, "run", plan, "--output", theatre.folder / "run")
    record = json.loads((theatre.folder / "run" / "record.json").read_text())
    assert record["measurement"]["outcome"] == outcome
    assert said in record["measurement"]["reason"]
    assert ran.returncode != 0
