"""What a comparison of runs on the same held-out items says."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
        name: Its folder, as it was named.
        method, seed: From its plan.
        setting: Changes with everything of the plan but the seed: runs of one setting differ by their seed alone.
        metric: Name of the figure that is compared.
        value: Of that figure.
        low, high: 95 % interval over items (bootstrap).
        errors: Items that are wrong; ``None`` for tasks without right and wrong.
        true_shares: Share of each class among the true labels of the errors.
        predicted_shares: The same among what was predicted instead.
        overconfidence: Of the errors, the probability of the predicted class minus that of the true one: lowest value,
            quartiles, highest value.
    """

    name: str
    method: str
    seed: int
    setting: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    errors: int | None = None
    true_shares: dict[str, float] = field(default_factory=dict)
    predicted_shares: dict[str, float] = field(default_factory=dict)
    overconfidence: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunPair:
    """Two runs, item by item.

    Attributes:
        first, second: Names of the runs.
        difference: The figure of the first minus that of the second.
        low, high: 95 % interval of the difference: both figures of the same bootstrap samples of items.
        both_wrong, only_first_wrong, only_second_wrong, both_right: Items.
        expected_both_wrong: If errors fell on items independently of each other.
        kappa: Cohen's kappa of being wrong: agreement beyond chance; ``None`` where one run has no or only errors.
        mcnemar_p: Exact p-value of McNemar's test that both are wrong equally often.
    """

    first: str
    second: str
    difference: float
    low: float | None = None
    high: float | None = None
    both_wrong: int | None = None
    only_first_wrong: int | None = None
    only_second_wrong: int | None = None
    both_right: int | None = None
    expected_both_wrong: float | None = None
    kappa: float | None = None
    mcnemar_p: float | None = None


@dataclass(frozen=True)
class ErrorGroup:
    """Items that share something, and how many of them each run gets wrong.

    Attributes:
        name: What they share: a class, or a range of text lengths.
        items: How many.
        errors: Per run, in the order of the comparison.
    """

    name: str
    items: int
    errors: tuple[int, ...]


@dataclass(frozen=True)
class ErrorWord:
    """A word that stands in wrong items more often than in others.

    Attributes:
        word: In lower case.
        items, errors: Items with the word, and how many of them the run gets wrong.
        ratio: Share of errors among the items with the word, over the share of errors among all items.
        p: Probability of at least so many errors if they had nothing to do with the word (hypergeometric; of one word,
            not corrected for the number of words).
    """

    word: str
    items: int
    errors: int
    ratio: float
    p: float


@dataclass(frozen=True)
class HardItem:
    """An item that most runs get wrong.

    Attributes:
        item: Hash of its content.
        text: Its beginning; empty where the data cannot be read.
        label: Its class.
        predicted: What each run says.
        wrong: Runs that are wrong.
        true_probability: Mean probability of the true class.
    """

    item: str
    text: str
    label: str
    predicted: tuple[str, ...]
    wrong: int
    true_probability: float


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ by their seed alone.

    Attributes:
        method: Of all of them.
        runs: Their names.
        values: The figure of each.
        mean, sd: Of these values; a standard deviation over seeds, not over items.
    """

    method: str
    runs: tuple[str, ...]
    values: tuple[float, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class SeedDifference:
    """Two settings whose runs have seeds in common.

    Attributes:
        first, second: Their methods.
        seeds: That both were trained with.
        differences: The figure of the first minus that of the second, per seed.
        mean: Of these differences.
        low, high: 95 % interval of Student's t over seeds; ``None`` below two seeds.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunComparison:
    """Runs on the same held-out items.

    Attributes:
        items: How many.
        runs: In the order in which they were named.
        pairs: Every two of them.
        classes: Errors per true class.
        lengths: Errors per quarter of text length, in characters.
        words: Per run, the words that are most over-represented in its errors.
        hardest: Items that most runs get wrong, those with the lowest probability of the true class first.
        seeds: Groups of runs that differ by their seed alone; over seeds and over items is never mixed.
        seed_differences: Between two such groups, over the seeds that both have.
        notes: What could not be said, with the reason.
    """

    items: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[RunPair, ...] = ()
    classes: tuple[ErrorGroup, ...] = ()
    lengths: tuple[ErrorGroup, ...] = ()
    words: dict[str, tuple[ErrorWord, ...]] = field(default_factory=dict)
    hardest: tuple[HardItem, ...] = ()
    seeds: tuple[SeedGroup, ...] = ()
    seed_differences: tuple[SeedDifference, ...] = ()
    notes: tuple[str, ...] = ()
