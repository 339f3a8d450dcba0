"""What the corpus runs: tasks, strategies with knobs, learning rates and seeds, in an order of which every prefix is a
usable design. The lists themselves are data: ``calibration/corpus/design.json``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from advisor.core.model import ModelSpec
from advisor.core.serialization import from_dict, read_json
from advisor.core.store import resource_dir
from advisor.core.strategy import StrategyConfig
from advisor.experiments.grid import Cell, content_key
from advisor.strategies import get_strategy

ORDER_SEED = 20261129
SEEDS = (1, 2)
SECOND_SEEDS_AT_ONCE = 0.15
"""Share of the cells whose second seed is run among the first ones, so that the noise between seeds is known early; the
other second seeds come last."""


@dataclass(frozen=True)
class CorpusSize:
    """How long runs are.

    Attributes:
        name: Of the size.
        train_rows: That training goes through.
        steps: Optimizer steps: one and a half to two passes.
        lr_rels: Relative learning rates of its runs.
        earliness: How early its cells come; dear ones are spread thinly over the beginning.
        variants: Names; all where empty.
    """

    name: str
    train_rows: int
    steps: int
    lr_rels: tuple[float, ...]
    earliness: float
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorpusVariant:
    """A strategy with some knobs set.

    Attributes:
        name: In the corpus.
        method: Registry name of the strategy.
        knobs: The strategy's own, where they are not its defaults.
    """

    name: str
    method: str
    knobs: dict[str, Any] = field(default_factory=dict)

    def configured(self, model: ModelSpec, *, lr_rel: float, epochs: float) -> StrategyConfig:
        """The strategy as its runs have it."""
        return get_strategy(self.method).configured(model, lr_rel=lr_rel, num_train_epochs=epochs, **self.knobs)


@dataclass(frozen=True)
class CorpusTask:
    """What is learned.

    Attributes:
        name: In the corpus.
        source: The collection that the texts come from: tasks of one source are left out together.
        data: Name of the data set.
        size: Name of the size.
        model: Name of the demo model, or a folder.
        task: Registered task.
        max_seq_length: Rows are cut here, tokens.
        eval_fraction: Share of all rows that is held out before caps.
        keep_labels: Only rows of these classes; all where empty.
    """

    name: str
    source: str
    data: str
    size: str
    model: str
    task: str
    max_seq_length: int = 24
    eval_fraction: float = 0.1
    keep_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorpusDesign:
    """Everything that runs.

    Attributes:
        description: What the file is.
        batch_size: Rows per optimizer step.
        held_out_items: At most so many per task, the same for all its runs; with 128 the standard error of an accuracy
            of 0.8 is 3.5 points.
        sizes, variants, tasks: See their classes.
    """

    description: str
    batch_size: int
    held_out_items: int
    sizes: tuple[CorpusSize, ...]
    variants: tuple[CorpusVariant, ...]
    tasks: tuple[CorpusTask, ...]

    def task(self, name: str) -> CorpusTask:
        return next(task for task in self.tasks if task.name == name)

    def size_of(self, task: CorpusTask) -> CorpusSize:
        return next(size for size in self.sizes if size.name == task.size)

    def variant(self, name: str) -> CorpusVariant:
        return next(variant for variant in self.variants if variant.name == name)


@lru_cache(maxsize=1)
def load_design() -> CorpusDesign:
    """The design that ships with the package."""
    path = resource_dir("calibration") / "corpus" / "design.json"
    return from_dict(CorpusDesign, read_json(path, what="the design of the corpus"), what=str(path))


@dataclass(frozen=True)
class CorpusCell:
    """What one run is made of.

    Attributes:
        task, variant: Names.
        lr_rel: Multiple of the method's default learning rate.
        seed: Of the run.
    """

    task: str
    variant: str
    lr_rel: float
    seed: int

    @property
    def label(self) -> str:
        return f"{self.task} {self.variant} lr x{self.lr_rel:.3g} seed {self.seed}"


def _of_seed(design: CorpusDesign, seed: int) -> Iterator[CorpusCell]:
    for task in design.tasks:
        size = design.size_of(task)
        for variant in size.variants or [variant.name for variant in design.variants]:
            for lr_rel in size.lr_rels:
                yield CorpusCell(task.name, variant, lr_rel, seed)


def corpus_cells(design: CorpusDesign) -> list[Cell[CorpusCell]]:
    """All cells: those of the first seed in random order with some second seeds among them, then the others."""
    drawn = random.Random(ORDER_SEED)
    first, second = (list(_of_seed(design, seed)) for seed in SEEDS)
    drawn.shuffle(second)
    at_once = round(SECOND_SEEDS_AT_ONCE * len(second))
    leading = first + second[:at_once]
    leading.sort(key=lambda cell: drawn.expovariate(design.size_of(design.task(cell.task)).earliness))
    return [Cell(content_key(cell), cell.label, cell) for cell in (*leading, *second[at_once:])]
