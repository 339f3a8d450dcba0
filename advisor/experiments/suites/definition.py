"""What a suite is made of: data of one file, written before anything is run.

A package adds a suite with an entry point of the group ``advisor.suites`` that names a :class:`SuiteDefinition`::

    [project.entry-points."advisor.suites"]
    my-study = "my_package.suite:SUITE"   # SUITE = read_suite(Path(...))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advisor.core.errors import InputError
from advisor.core.registry import Registry
from advisor.core.serialization import from_dict, read_json
from advisor.core.store import resource_dir

Relation = Literal["more", "less", "same"]
"""How the first side of a claim compares with the second."""

Part = Literal["published", "corrected"]
"""``published``: settings as published. ``corrected``: one backbone, equal batch, each method's own learning rate."""


@dataclass(frozen=True)
class SuiteModel:
    """A backbone.

    Attributes:
        hub: Hub id of what the study trained.
        stand_in: Demo model that takes its place where it cannot be reached.
        config: Its ``config.json``, from which memory and time are predicted without weights; empty: no prediction.
    """

    hub: str
    stand_in: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteData:
    """A data set.

    Attributes:
        hub: Hub id of what the study used; empty where it cannot be named.
        stand_in: Demo set that takes its place.
        task: Of the suite's cells.
        rows: Training rows of the study.
        pairs: Make pairs of rows of the stand-in, with three classes, instead of taking it as it is.
        columns: Of the hub's data set, where they are not recognised.
        split, eval_split: Of the hub's data set.
        num_labels: Classes, for predictions without data.
        middle_class: Names of the class between the others, as the data of the study and its stand-ins have them; for
            claims about the shape of errors.
    """

    hub: str
    stand_in: str
    task: str
    rows: int
    pairs: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    eval_split: str | None = None
    num_labels: int = 2
    middle_class: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteCell:
    """One configuration.

    Attributes:
        id: Unique in the suite.
        row: The row of the published table that it stands in.
        table: That table.
        model, data: Keys of the suite's models and data sets.
        method: Strategy.
        knobs: Of the strategy, shared ones included; ``learning_rate`` is the published one where it is stated.
        batch_size: Rows per optimizer step.
        max_seq_length: Tokens per row as published or, where that is not stated, as assumed; ``None``: chosen from the
            data.
        execution: Further fields of the execution plan.
        part: ``"published"`` or ``"corrected"``.
        trained: ``False``: only predicted, from the configuration of the published backbone.
    """

    id: str
    row: str
    table: str
    model: str
    data: str
    method: str
    batch_size: int
    max_seq_length: int | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    part: Part = "published"
    trained: bool = True


@dataclass(frozen=True)
class SuiteTable:
    """A table as published.

    Attributes:
        id, title: Of the table.
        rows: By name of the row, figures by quantity in base units (shares, bytes, seconds).
        remark: What to know of it.
    """

    id: str
    title: str
    rows: dict[str, dict[str, float]]
    remark: str = ""


@dataclass(frozen=True)
class Claim:
    """What a study says of its cells; written before any run.

    Attributes:
        id: For example ``"A1"``.
        sentence: The claim in one sentence.
        quantity: What is compared: a metric, or a resource with its unit in its name.
        relation: ``first`` has more or less of it than ``second``, or the same.
        first, second: Cells. Of several in ``first`` the best one counts; the claim must hold against each of
            ``second``.
        size: Published difference: of shares in points (hundredths), of everything else the ratio first / second.
        table: Where it stands.
        order: Cells from first place to last, of a claim about a ranking; then there is no ``first`` and ``second``.
        ranked_by: The quantities of a ranking, with the relation that is better; places are averaged.
        needs_real_data: Whether data that were constructed as a stand-in say nothing about it.
        second_quantity: Of the second side where it is another one; both sides may then be the same cell.
    """

    id: str
    sentence: str
    quantity: str = ""
    relation: Relation = "more"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    size: float | None = None
    table: str = ""
    order: tuple[str, ...] = ()
    ranked_by: dict[str, Relation] = field(default_factory=dict)
    needs_real_data: bool = False
    second_quantity: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """All cells that it is about."""
        return (*self.first, *self.second, *self.order)


@dataclass(frozen=True)
class SuiteScale:
    """How much of the suite is run.

    Attributes:
        train_rows, eval_rows: Per training; ``None`` takes all.
        max_seq_length: Rows are cut here; ``None`` as published.
        epochs: Passes over the rows; ``None`` as published.
        seeds: Trainings per cell.
        batch_divisor: Batches are as many times smaller, so that few rows make enough steps.
        learning_rate_times: Published learning rates are multiplied by this, for the same reason.
        lr_rel: Learning rates that are a method's own are multiplied by this.
        cells: Only these; all where there are none.
        data: By key of a data set, other rows and lengths than the above.
        reaches_hub: Whether the models and data of the study are looked for; otherwise stand-ins are taken.
        predicts_published: Whether the published backbones are predicted, too.
    """

    train_rows: int | None = None
    eval_rows: int | None = None
    max_seq_length: int | None = None
    epochs: float | None = None
    seeds: int = 3
    batch_divisor: int = 1
    learning_rate_times: float = 1.0
    lr_rel: float = 1.0
    cells: tuple[str, ...] = ()
    data: dict[str, dict[str, int]] = field(default_factory=dict)
    reaches_hub: bool = False
    predicts_published: bool = True


@dataclass(frozen=True)
class SuiteDefinition:
    """One suite.

    Attributes:
        name: In the registry.
        title, authors, source: Of the study.
        models, data: By key.
        tables: As published.
        cells: What is trained or predicted.
        claims: What is judged.
        scales: By name, the whole study first.
        notes: What the study mixes up or leaves out, and what is assumed here.
    """

    name: str
    title: str
    authors: str
    source: str
    models: dict[str, SuiteModel]
    data: dict[str, SuiteData]
    tables: tuple[SuiteTable, ...]
    cells: tuple[SuiteCell, ...]
    claims: tuple[Claim, ...]
    scales: dict[str, SuiteScale]
    notes: tuple[str, ...] = ()

    def scale(self, name: str) -> SuiteScale:
        """The scale of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self.scales:
            raise InputError(
                f"the scale must be one of {', '.join(self.scales)}, but got {name!r}", fix="write --scale small"
            )
        return self.scales[name]

    def cell(self, identity: str) -> SuiteCell:
        """The cell of that id."""
        return next(cell for cell in self.cells if cell.id == identity)

    def cells_at(self, scale: SuiteScale) -> tuple[SuiteCell, ...]:
        """The cells that are trained at a scale."""
        return tuple(cell for cell in self.cells if cell.trained and (not scale.cells or cell.id in scale.cells))

    def published(self, cell: SuiteCell) -> dict[str, float]:
        """The published figures of a cell's row."""
        table = next((table for table in self.tables if table.id == cell.table), None)
        return table.rows.get(cell.row, {}) if table is not None else {}


def read_suite(path: Path) -> SuiteDefinition:
    """A suite from its file; every name in it is looked up.

    Raises:
        InputError: the file is damaged, or names what it does not define.
    """
    suite = from_dict(SuiteDefinition, read_json(path, what="the suite"), what=str(path))
    if problems := list(_problems(suite)):
        raise InputError(f"the names in {path} must be defined there, but some are not", problems=problems)
    return suite


def _problems(suite: SuiteDefinition) -> Iterator[str]:
    known = {cell.id for cell in suite.cells}
    tables = {table.id: table for table in suite.tables}
    if len(known) != len(suite.cells):
        yield "two cells have the same id"
    for cell in suite.cells:
        if cell.model not in suite.models or cell.data not in suite.data:
            yield f"cell {cell.id}: no model {cell.model} or no data {cell.data}"
        if cell.part == "published" and cell.row not in getattr(tables.get(cell.table), "rows", {}):
            yield f"cell {cell.id}: no row {cell.row} in the table {cell.table}"
    for claim in suite.claims:
        if missing := [name for name in claim.cells if name not in known]:
            yield f"claim {claim.id}: no cell {', '.join(missing)}"
        if not claim.order and not (claim.first and claim.second and claim.quantity):
            yield f"claim {claim.id}: it needs an order, or a quantity with both sides"
    for name, scale in suite.scales.items():
        if missing := [cell for cell in scale.cells if cell not in known]:
            yield f"scale {name}: no cell {', '.join(missing)}"


def _shipped() -> list[SuiteDefinition]:
    return [read_suite(path) for path in sorted(resource_dir("calibration").glob("suites/*.json"))]


SUITES: Registry[SuiteDefinition] = Registry("advisor.suites", "suite", SuiteDefinition, _shipped)
