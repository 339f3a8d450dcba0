"""The recipes that a plan is compared with, and the trainings of a comparison as cells of a grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.experiments.grid import Cell, content_key
from advisor.training.tasks import get_task

PUBLISHED_FILE = Path(__file__).with_name("published.json")
"""The published recipe: ``padding="max_length", max_length=128``, and rows per step."""
PLAN = "plan"
"""Name of the recommended plan among the arms."""

Padding = Literal["max_length", "longest"]


@dataclass(frozen=True)
class Recipe:
    """A run of the plain ``transformers.Trainer``: its own collator, options and threads.

    Attributes:
        name: Of the arm.
        padding: As in the tokenizer: every row to ``max_length``, or each batch to its longest row.
        max_length: Rows are cut (and padded) here.
        batch_size: Rows per optimizer step, in one forward pass.
        description: One line for the reader.
    """

    name: str
    padding: Padding
    max_length: int
    batch_size: int
    description: str


@dataclass(frozen=True)
class Training:
    """One training of one arm.

    Attributes:
        plan: Its data, method, learning rate and epochs are those of every arm.
        recipe: ``None`` for the plan itself.
        seed: Of initialisation, order and dropout; the arms of a round share it.
    """

    plan: Plan
    recipe: Recipe | None
    seed: int

    @property
    def arm(self) -> str:
        """``"plan"`` or the recipe's name."""
        return PLAN if self.recipe is None else self.recipe.name


@cache
def _published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    return content


def published_methods() -> tuple[str, ...]:
    """The methods that the published comparison trains."""
    return tuple(_published()["methods"])


def reference_batch_size(method: str) -> int:
    """Rows per optimizer step of the published recipe for the method."""
    rows: int = _published()["rows_per_step"].get(method, _published()["rows_per_step_of_others"])
    return rows


def recipes_for(plan: Plan) -> tuple[Recipe, ...]:
    """The published recipe, and the Trainer's own defaults with the plan's effective batch.

    Raises:
        InputError: the task is none of theirs.
    """
    if get_task(plan.model.task).row_kind(plan.data) != "labelled":
        raise InputError(
            f"the suite speed compares classification recipes, but the task is {plan.model.task}",
            fix="name a labelled data set",
        )
    longest: int = _published()["max_length"]
    length = min(longest, plan.model.max_positions or longest)
    rows, batch = reference_batch_size(plan.strategy.method), plan.execution.effective_batch_size
    published = f"published recipe: every row padded to {length} tokens, {rows} rows a step"
    plain = f"plain Trainer: its own collator pads to the batch's longest row, {batch} rows a step"
    return (
        Recipe("reference", "max_length", length, rows, published),
        Recipe("plain", "longest", plan.execution.max_seq_length, batch, plain),
    )


def training_cells(plan: Plan, recipes: Sequence[Recipe], seeds: Sequence[int]) -> tuple[Cell[Training], ...]:
    """The plan and every recipe once per seed.

    The arms of a round follow each other, and every round begins with another arm, so that a machine that grows slower
    or faster meanwhile does so for all of them.

    Args:
        plan: A recommended plan.
        recipes: What to compare it with.
        seeds: One round each.
    """
    arms: list[Recipe | None] = [None, *recipes]
    what = {"model": plan.model, "data": plan.data, "strategy": plan.strategy, "execution": plan.execution}
    cells = []
    for number, seed in enumerate(seeds):
        turn = number % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            training = Training(plan, arm, seed)
            label = f"{plan.strategy.method}: {training.arm}, seed {seed}"
            cells.append(Cell(content_key({**what, "recipe": arm, "seed": seed}), label, training))
    return tuple(cells)
