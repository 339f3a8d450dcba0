"""A new study's space and ladder, or an old study's, if it is about the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advisor.core.errors import AdvisorError, InputError, NothingFitsError, OutputError
from advisor.search.planner.candidates import ineligible
from advisor.search.study.clock import StudyClock
from advisor.search.study.context import OnEvent, Runner, StudyContext, identity_hash
from advisor.search.study.feasible import feasible_space
from advisor.search.study.files import StudyHeader, load_header
from advisor.search.study.pilot import ladder_costs
from advisor.search.study.records import NeverStarted
from advisor.search.study.space import MethodSpace, Space, method_space
from advisor.search.study.successive_halving import choose_ladder


def open_header(
    setting: StudyContext, study_dir: Path, *, resume: bool, runner: Runner, clock: StudyClock, on_event: OnEvent | None
) -> StudyHeader:
    """The study in the folder when resuming, else a new one.

    Raises:
        OutputError: a study is there and ``resume`` was not given.
        InputError: the study there is about something else.
    """
    declared, unusable = declared_methods(setting)
    identity = setting.identity(declared)
    known = load_header(study_dir)
    if known is None:
        header = _new_header(setting, declared, unusable, identity, study_dir, runner, clock, on_event)
        header.save(study_dir)
        return header
    if not resume:
        raise OutputError(
            f"a new study needs a folder of its own, but {study_dir} holds one",
            fix="pass --resume, or name another folder",
        )
    before = known.identity
    changed = [f"{part}: was {before.get(part)}, is {now}" for part, now in identity.items() if before.get(part) != now]
    if changed:
        raise InputError(
            f"a resumed study must be about the same thing, but the one in {study_dir} differs",
            problems=changed,
            fix="repeat the first command's options, or start a new study in another folder",
        )
    return known


def declared_methods(setting: StudyContext) -> tuple[Space, list[NeverStarted]]:
    """The declared space of every method that has defaults for this model, and why the others have none."""
    spaces: list[MethodSpace] = []
    unusable: list[NeverStarted] = []
    for name, strategy in setting.strategies.items():
        if strategy.user_knob is not None and strategy.user_knob not in setting.knobs:
            unusable.append(NeverStarted(None, name, str(ineligible(strategy, setting.model))))
            continue
        try:
            spaces.append(method_space(strategy, setting.model, setting.knobs))
        except AdvisorError as failure:
            unusable.append(NeverStarted(None, name, failure.message))
    return Space(tuple(spaces)), unusable


def _new_header(
    setting: StudyContext,
    declared: Space,
    unusable: Sequence[NeverStarted],
    identity: dict[str, str],
    study_dir: Path,
    runner: Runner,
    clock: StudyClock,
    on_event: OnEvent | None,
) -> StudyHeader:
    space, cut = feasible_space(setting, declared, clock, on_event)
    never_started = (*unusable, *cut)
    if not space.methods:
        raise NothingFitsError(
            "no method fits the budget, so there is nothing to tune",
            problems=[f"{entry.method}: {entry.reason}" for entry in never_started],
            fix="raise --memory or --time, or shorten the sequences",
        )
    costs = ladder_costs(setting, space, runner, clock, study_dir, on_event)
    ladder = choose_ladder(setting.full_rows, setting.effective_batch_size, costs, clock.remaining_s)
    complete = ladder[-1] >= setting.full_rows
    return StudyHeader(
        name=f"tune-{identity_hash(identity)}",
        identity=identity,
        space=space,
        never_started=never_started,
        ladder_rows=ladder,
        full_rows=setting.full_rows,
        direction="maximize" if complete and not setting.metric.is_relative else "minimize",
    )
