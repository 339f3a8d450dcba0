"""Whether model and data are still those that a plan was made for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advisor.core.errors import InputError, ModelError
from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.pipeline.events import OnEvent, note
from advisor.strategies import get_strategy


def check_unchanged(plan: Plan, *, accept_changes: bool, on_event: OnEvent | None) -> None:
    """Refuse a run of which something has changed since the plan was made.

    What a plan promises holds for the model and the rows that it was made for. A model on the hub is read at the plan's
    revision and cannot change. Plans of versions that kept no fingerprints are not checked.

    Args:
        plan: With the fingerprints of its model and its data.
        accept_changes: Train on what is there now; what has changed is said.
        on_event: Told about it.

    Raises:
        InputError: something has changed.
        ModelError: the model is not there any more.
        DataError: the data cannot be read any more.
    """
    problems = _changed_model(plan.model)
    if plan.model.fingerprints or (plan.model.kind == "hub" and plan.model.revision is not None):
        problems += _changed_data(plan)
    if not problems:
        return
    if accept_changes:
        for problem in problems:
            note(on_event, f"changed since the plan was made, so that its predictions may not hold: {problem}")
        return
    raise InputError(
        "model and data must be those that the plan was made for, but have changed since",
        problems=problems,
        fix="make the plan again with `advisor recommend`, or train on what is there now with --accept-changes",
    )


def check_base_unchanged(
    plan: Plan, class_names: Sequence[str], *, accept_changes: bool, on_event: OnEvent | None
) -> None:
    """Refuse to measure a trained model on another base, or with other classes, than it was trained with.

    Args:
        plan: Of the run. The base's weights do not count where the run saved a whole model.
        class_names: By index, as the training data has them now; empty where there are none.
        accept_changes: Measure it all the same; what has changed is said.
        on_event: Told about it.

    Raises:
        InputError: something has changed.
        ModelError: the base model is not there any more.
    """
    whole = get_strategy(plan.strategy.method).saves_whole_model
    unused = f"weights of {plan.model.source}" if whole else ""
    problems = [problem for problem in _changed_model(plan.model) if problem != unused]
    trained = tuple(plan.data_profile.class_counts)
    if trained and class_names and trained != tuple(class_names):
        raise InputError(
            f"the training data must have the classes that were trained, {_listed(trained)}, but"
            f" {Path(plan.data.source).name} has {_listed(class_names)} now, so that classes would be taken for others",
            fix="put the file back as it was when the run began",
        )
    if problems and not accept_changes:
        raise InputError(
            "the base model must be the one that was trained on, but has changed since",
            problems=problems,
            fix="put its files back, or measure on what is there now with --accept-changes",
        )
    for problem in problems:
        note(on_event, f"changed since the run, so that its figures may not hold: {problem}")


def _changed_model(model: ModelSpec) -> list[str]:
    """What is not as it was.

    Raises:
        ModelError: it is not there at all.
    """
    from advisor.training.fingerprints import changed_parts

    if model.fingerprints and not Path(model.source).expanduser().exists():
        raise ModelError(
            f"the model must be where it was, but there is nothing at {model.source}",
            fix="put it back, or make the plan again with the model's new place",
        )
    return [f"{part} of {model.source}" for part in changed_parts(model)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _changed_data(plan: Plan) -> list[str]:
    """The trials of a study train on a part of their profile's rows, and are not compared."""
    from advisor.training.data import load_rows

    before = plan.data_profile
    if not before.fingerprint or plan.data.inner_holdout:
        return []
    rows = load_rows(plan.data, plan.model.task)
    if rows.fingerprint == before.fingerprint:
        return []
    name = Path(plan.data.source).name
    if rows.kind != "text" and (len(rows.train), len(rows.eval)) != (before.train_rows, before.eval_rows):
        return [
            f"the number of rows of {name}: {len(rows.train):,} to train on and {len(rows.eval):,} held out, where "
            f"there were {before.train_rows:,} and {before.eval_rows:,}"
        ]
    what = "labels" if rows.class_counts != before.class_counts else "content"
    return [f"the {what} of the rows of {name}"]
