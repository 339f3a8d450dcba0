"""A pack in a process of its own: its members' figures, and what is left of them when the process dies."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from advisor.core.errors import InputError
from advisor.core.pack import PackMembership
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.measurement.packed_run import measure_pack
from advisor.training.run_folder import RunFolder
from tests.training.training_runs import lora_strategy, tiny_plan


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[Plan]:
    plan = tiny_plan(tmp_path_factory.mktemp("tiny"), rows=40)
    return [
        dataclasses.replace(plan, strategy=lora_strategy(rank=rank, num_train_epochs=epochs))
        for rank, epochs in ((2, 1.0), (4, 60.0))
    ]


def kill_the_process_of_the_pack() -> None:
    """Every process whose parent is the server that isolated processes are forked from."""
    for process in psutil.Process().children(recursive=True):
        if any("forkserver" in word for word in process.parent().cmdline()):
            process.send_signal(signal.SIGKILL)


def test_a_process_that_dies_ends_the_members_that_were_not_done(plans: list[Plan], tmp_path: Path) -> None:
    folders = [tmp_path / "short", tmp_path / "long"]

    def listen(position: int, event: Any) -> None:
        if position == 1 and event["kind"] == "metrics" and event["step"] > 2 * 8:
            kill_the_process_of_the_pack()

    short, long = measure_pack(plans, folders, on_event=listen)
    assert (short.outcome, long.outcome) == ("completed", "out_of_memory")
    assert short.pack == PackMembership(2, 0) and RunFolder(folders[0]).finished() == short
    assert "killed by the system" in long.reason

    brief = [plans[0], dataclasses.replace(plans[1], strategy=lora_strategy(num_train_epochs=1.0))]
    again: list[Measurement] = measure_pack(brief, [folders[0], tmp_path / "new"], resume=True)
    assert again[0] == short, "what is finished is not run again"
    assert again[1].outcome == "completed" and again[1].pack == PackMembership(2, 1)
    assert again[1].device_peak_bytes and again[1].wall_s and again[1].members == 2


def test_plans_that_cannot_be_packed_are_refused(plans: list[Plan], tmp_path: Path) -> None:
    other = dataclasses.replace(plans[0], strategy=StrategyConfig("full", 1e-3))
    with pytest.raises(InputError, match="LoRA on frozen weights"):
        measure_pack([plans[0], other], [tmp_path / "a", tmp_path / "b"])
    assert not list(tmp_path.iterdir())
