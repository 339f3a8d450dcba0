"""Trials of a study in one pass: every member as if it had run alone, and alone where a pack is no use."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.core.pack import AUTO_PACK, NEVER_PACK, PackChoice, pack_choice
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement
from advisor.search.study import StudyInterrupted, TuneResult
from advisor.search.study.records import TrialSummary
from tests.search import study_fakes as fakes
from tests.search.study_fakes import MIB, FakeCostModel, FakePackRunner, FakeRunner, tune
from tests.search.test_study_resume import environment_of_fakes, states

ROOMY = Budget(memory_bytes=4096 * MIB)


def study(
    folder: Path,
    pack: PackChoice,
    *,
    speed_up: float = 1.0,
    packs: dict[str, Any] | None = None,
    respond: Any = lambda plan: None,
    **options: Any,
) -> tuple[TuneResult, FakePackRunner, list[str]]:
    """A study, its packs, and what it said about them."""
    said: list[str] = []

    def listen(event: Any) -> None:
        if event["kind"] == "note":
            said.append(event["text"])

    packer = FakePackRunner(FakeRunner(respond=respond), **{"speed_up": speed_up, **(packs or {})})
    given = {"cost_model": FakeCostModel(speed_up=speed_up), "budget": ROOMY, "max_trials": 12, **options}
    result = tune(folder, packer.runner, pack=pack, pack_runner=packer, on_event=listen, **given)
    return result, packer, said


def values(trials: tuple[TrialSummary, ...]) -> list[Any]:
    """What is told about trials, but for their times."""
    return [
        (t.params, t.verdict, t.origin, [(e.train_rows, e.nll, e.metric, e.constraints) for e in t.evaluations])
        for t in trials
    ]


def memberships(result: TuneResult) -> dict[int, list[tuple[int, int, int]]]:
    """Per trial: rows, members and position of its packed runs."""
    return {
        t.number: [(e.train_rows, e.pack.members, e.pack.position) for e in t.evaluations if e.pack]
        for t in result.trials
    }


def test_a_packed_race_is_the_race_of_single_trials(tmp_path: Path) -> None:
    packed, packer, _ = study(tmp_path / "a", PackChoice(3), max_trials=4)
    single, _, _ = study(tmp_path / "b", NEVER_PACK, max_trials=4)
    assert values(packed.trials) == values(single.trials)
    first, *others = packed.ladder_rows
    members = memberships(packed)
    assert [members[number][0] for number in (1, 2, 3)] == [(first, 3, position) for position in range(3)]
    assert not any(rows == first for rows, _, _ in members[0]), "the first run shows how long runs take"
    assert any(rows in others for found in members.values() for rows, _, _ in found), "the next rung is packed, too"
    assert packed.best == single.best and len(packer.packs) >= 2


def test_a_member_has_its_share_of_the_time_and_the_figures_of_a_run_alone(tmp_path: Path) -> None:
    packed, _, _ = study(tmp_path / "a", AUTO_PACK, speed_up=2.5, max_trials=4)
    single, _, _ = study(tmp_path / "b", NEVER_PACK, max_trials=4)
    for trial, alone in zip(packed.trials, single.trials, strict=True):
        for run, other in zip(trial.evaluations, alone.evaluations, strict=True):
            members = run.pack.members if run.pack else 1
            assert run.total_s == pytest.approx(run.measurement.total_s / members)
            assert run.alone_s == pytest.approx(other.total_s)
            assert run.projected_total_s == pytest.approx(other.projected_total_s, rel=0.1)
            assert run.device_peak_bytes == other.device_peak_bytes
    assert packed.elapsed_s < single.elapsed_s


def test_auto_packs_nothing_that_does_not_pay_and_says_so_once(tmp_path: Path) -> None:
    packed, packer, said = study(tmp_path / "a", AUTO_PACK, speed_up=1.03)
    single, _, _ = study(tmp_path / "b", NEVER_PACK)
    assert packer.packs == [] and values(packed.trials) == values(single.trials)
    assert [text for text in said if text.startswith("packing: ")] == [
        "packing: trials run one by one: 4 in one pass are predicted to be 1.03 times as fast, "
        "which is within the error"
    ]


def test_samples_are_drawn_for_a_pack_within_what_members_share(tmp_path: Path) -> None:
    only = {name: fakes.strategies()[name] for name in ("lora", "head")}
    packed, packer, _ = study(tmp_path / "a", PackChoice(3), strategies=only, max_trials=14)
    sampled = {trial.number for trial in packed.trials if trial.origin == "sampled"}
    assert len([trial for trial in packed.trials if trial.started]) == 14
    assert sum(memberships(packed)[number] != [] for number in sampled) >= 2
    for plans in packer.packs:
        first = plans[0]
        assert 2 <= len(plans) <= 3
        for plan in plans:
            shared = dataclasses.replace(plan, strategy=first.strategy, predicted=first.predicted)
            assert shared == first and plan.strategy.num_train_epochs == first.strategy.num_train_epochs


def test_a_member_that_diverges_is_pruned_and_the_others_go_on(tmp_path: Path) -> None:
    def diverges(plan: Plan) -> Measurement | None:
        return Measurement("diverged", "no finite weights", total_s=5.0) if plan.strategy.lr_rel == 10 else None

    packed, _, _ = study(tmp_path / "a", PackChoice(3), max_trials=4, respond=diverges)
    assert [trial.verdict for trial in packed.trials if trial.strategy.lr_rel == 10] == ["pruned"]
    assert memberships(packed)[3] == [(packed.ladder_rows[0], 3, 2)]
    assert packed.trials[2].verdict == "completed"


@pytest.mark.parametrize("end", ["out_of_memory", "failed"])
def test_members_of_a_pack_that_dies_run_alone(tmp_path: Path, end: Any) -> None:
    def dies(plans: Any) -> list[Measurement]:
        return [Measurement(end, "the process was killed") for _ in plans]

    packed, packer, said = study(tmp_path / "a", PackChoice(3), max_trials=4, packs={"respond": dies})
    single, _, _ = study(tmp_path / "b", NEVER_PACK, max_trials=4)
    assert values(packed.trials) == values(single.trials)
    assert [len(plans) for plans in packer.packs] == [3, 2], "no pack is as large as one that failed"
    assert "packing: of a pack of 3, 3 failed and run alone: the process was killed" in said


def test_a_member_that_fails_by_itself_shows_alone_whether_it_is_to_blame(tmp_path: Path) -> None:
    runner = FakeRunner()

    def one_fails(plans: Any) -> list[Measurement]:
        good = [runner(plan, tmp_path / "x", resume=False, time_limit_s=None, on_event=None) for plan in plans[1:]]
        return [Measurement("failed", "RuntimeError: a defect"), *good]

    packed, _, said = study(tmp_path / "a", PackChoice(3), max_trials=4, packs={"respond": one_fails})
    assert packed.trials[1].verdict in ("completed", "pruned") and packed.trials[1].evaluations[0].pack is None
    assert "packing: of a pack of 3, 1 failed and run alone: RuntimeError: a defect" in said


def test_packs_shrink_to_what_the_memory_holds(tmp_path: Path) -> None:
    alone = fakes.memory_bytes(fakes.strategies()["lora"].config)
    two, packer, said = study(tmp_path / "a", PackChoice(3), max_trials=4, budget=Budget(memory_bytes=int(1.7 * alone)))
    assert {len(plans) for plans in packer.packs} == {2} and two.trials[3].started
    assert [text for text in said if "does not fit" in text] == [
        "packing: a pack of 3 does not fit: it needs 832 MiB of 707 MiB"
    ]
    none, packer, said = study(tmp_path / "b", PackChoice(3), max_trials=4, budget=Budget(memory_bytes=alone + MIB))
    single, _, _ = study(tmp_path / "c", NEVER_PACK, max_trials=4, budget=Budget(memory_bytes=alone + MIB))
    assert packer.packs == [] and values(none.trials) == values(single.trials)


def test_a_user_who_asks_for_packs_learns_why_trials_run_alone(tmp_path: Path) -> None:
    _, _, said = study(tmp_path / "a", PackChoice(2))
    assert said[0] == "packing: a run alone: the first one shows how long runs take"
    assert any("LoRA on frozen weights, but one is" in text for text in said)
    assert len(said) == len(set(said))


def test_a_pack_ends_with_the_budget_and_goes_on_when_the_study_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    cut, slow, _ = study(folder, PackChoice(3), max_trials=4, time_budget_s=60.0, on_disk=True, packs={"speed_up": 0.3})
    assert cut.elapsed_s <= 60.0 and "was stopped and stays open" in cut.stopped_because
    assert [trial.verdict for trial in cut.trials[1:]] == ["open"] * 3
    resumed, packer, _ = study(folder, PackChoice(3), max_trials=4, on_disk=True, resume=True)
    assert [plan.strategy for plan in packer.packs[0]] == [plan.strategy for plan in slow.packs[0]]
    assert all(packer.runner.resumed[:3]), "members go on from their checkpoints"
    assert all(trial.verdict != "open" for trial in resumed.trials) and len(resumed.trials) == 4
    assert not set(states(folder).values()) & {"RUNNING", "WAITING"}


def test_ctrl_c_in_a_pack_keeps_what_is_finished(tmp_path: Path) -> None:
    folder, runner = tmp_path / "s", FakeRunner()

    def interrupted(plans: Any) -> list[Measurement]:
        done = runner(plans[0], tmp_path / "x", resume=False, time_limit_s=None, on_event=None)
        return [done, *(Measurement("interrupted", "stopped by Ctrl-C") for _ in plans[1:])]

    with pytest.raises(StudyInterrupted) as stop:
        study(folder, PackChoice(3), max_trials=4, on_disk=True, packs={"respond": interrupted})
    assert [trial.started for trial in stop.value.result.trials] == [True, True, False, False]
    resumed, packer, _ = study(folder, PackChoice(3), max_trials=4, on_disk=True, resume=True)
    assert [plan.strategy.lr_rel for plan in packer.packs[0]] == pytest.approx([1 / 3, 10])
    assert all(trial.started for trial in resumed.trials)


@pytest.mark.parametrize("pack", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_kill_9_in_a_pack_changes_no_result(tmp_path: Path, pack: int) -> None:
    folder = tmp_path / "s"
    command = [sys.executable, "-m", fakes.__name__, str(folder), "0", "9", "--die-in-pack", str(pack)]
    killed = subprocess.run(command, env=environment_of_fakes(), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    options: dict[str, Any] = {"max_trials": 9, "time_budget_s": 1e6}
    resumed, _, _ = study(folder, PackChoice(2), on_disk=True, resume=True, **options)
    undisturbed, _, _ = study(tmp_path / "u", PackChoice(2), **options)
    assert values(resumed.trials) == values(undisturbed.trials)
    assert resumed.best == undisturbed.best and memberships(resumed) == memberships(undisturbed)


@pytest.mark.parametrize("value", ["auto", "off", "1", 4, " AUTO "])
def test_a_choice_of_packs_is_read(value: Any) -> None:
    words = {"auto": AUTO_PACK, "off": NEVER_PACK, "1": NEVER_PACK, "4": PackChoice(4)}
    assert pack_choice(value) == words[str(value).strip().lower()]


@pytest.mark.parametrize("value", ["some", 0, -2, "2.5", ""])
def test_any_other_choice_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="auto, off or a number"):
        pack_choice(value)


def test_a_packed_study_of_a_real_model_has_the_losses_of_single_trials(tmp_path: Path) -> None:
    from advisor.core.recommendation import RejectedMethod
    from advisor.strategies import get_strategy
    from advisor.training.packing import train_pack
    from advisor.training.trainer import train
    from tests.training.training_runs import tiny_plan

    plan = tiny_plan(tmp_path, rows=100)

    def solve(request: Any, strategy: Any, cost_model: Any, *, time_limit_s: float | None = None) -> Any:
        found = fakes.solve(request, fakes.strategies()["lora"].config, cost_model)
        assert not isinstance(found, RejectedMethod)
        execution = ExecutionPlan(8, max_seq_length=32, num_threads=1)
        return dataclasses.replace(found, strategy=strategy, execution=execution)

    class RealCosts(FakeCostModel):
        def estimate(self, model: Any, strategy: Any, *rest: Any, **options: Any) -> Any:
            return super().estimate(model, fakes.strategies()["lora"].config, *rest, **options)

    def alone(given: Plan, folder: Path, *, resume: bool, time_limit_s: float | None, on_event: Any) -> Measurement:
        return train(given, folder, resume=resume)

    def together(
        plans: Any, folders: Any, *, resume: bool, time_limit_s: float | None, on_event: Any
    ) -> list[Measurement]:
        return train_pack(plans, folders, resume=resume)

    def run(name: str, pack: PackChoice) -> TuneResult:
        from advisor.search.study import tune_study

        return tune_study(
            *(plan.model, plan.data, plan.data_profile, RealCosts(), Budget()),  # type: ignore[arg-type]
            study_dir=tmp_path / name,
            methods=["lora"],
            strategies={"lora": get_strategy("lora")},
            time_budget_s=600.0,
            max_trials=3,
            effective_batch_size=8,
            runner=alone,
            solve=solve,
            pack=pack,
            pack_runner=together,
            predict_pack=lambda cost_model, model, strategies, execution, *, time_limit_s: fakes.predict_pack(
                cost_model,
                model,
                [fakes.strategies()["lora"].config] * len(strategies),
                execution,
                time_limit_s=time_limit_s,
            ),
        )

    packed, single = run("packed", PackChoice(2)), run("single", NEVER_PACK)
    assert memberships(packed)[1][0][1:] == (2, 0)
    for trial, other in zip(packed.trials, single.trials, strict=True):
        assert trial.params == other.params and trial.verdict == other.verdict
        assert [run.train_rows for run in trial.evaluations] == [run.train_rows for run in other.evaluations]
        for mine, theirs in zip(trial.evaluations, other.evaluations, strict=True):
            assert mine.nll == pytest.approx(theirs.nll, rel=1e-4)
            losses = [[loss for _, loss in run.measurement.train_losses] for run in (mine, theirs)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-4)
