"""Whether model and data are still those that a plan was made for."""

from __future__ import annotations

from pathlib import Path

from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.pipeline.events import OnEvent, note


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
        DataError: the data cannot be read any more.
    """
    from advisor.training.fingerprints import changed_parts

    problems = [f"{part} of {plan.model.source}" for part in changed_parts(plan.model)]
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
