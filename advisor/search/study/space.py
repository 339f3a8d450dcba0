"""The statistical search space: method, then the method's own knobs, and what all methods share.

Shared are one learning-rate factor, the number of epochs, the weight decay and the batch. A LoRA's alpha is no axis: it
keeps its ratio to the rank (``LoraKnobs.replaced``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.search.planner.candidates import given_knobs
from advisor.search.study.records import ParamValue
from advisor.strategies.base import CategoricalDimension, Dimension, FloatDimension, Strategy

if TYPE_CHECKING:
    import optuna

METHOD = "method"
LR_REL = "lr_rel"
BATCH = "log2_batch"

LR_REL_RANGE = (0.2, 10.0)
"""Wider than ``strategies.base.LR_REL``: the best rate lay at ten times a method's default more than once."""

RACE = (3.0, 1 / 3, 10.0)
"""Multiples of the default learning rate that race against it, likeliest first: a plain race of four rates with one
method ties or beats published tuners (pichak 0.4.1)."""


@dataclass(frozen=True)
class SearchAxis:
    """One searched knob.

    Attributes:
        field: Name of the knob.
        low, high: Bounds of a numeric axis, inclusive; exponents where ``power_of_two``.
        integer: Whether values are whole.
        log: Sampled on a log scale.
        power_of_two: The field is ``2 ** value`` (ranks).
        step: Grid of an integer axis.
        choices: JSON texts of a categorical axis (Optuna stores scalars only); empty for numeric axes.
    """

    field: str
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False
    power_of_two: bool = False
    step: int = 1
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"log2_{self.field}" if self.power_of_two else self.field

    @property
    def lowest(self) -> ParamValue:
        """The cheapest value of a numeric axis, the first choice of another."""
        if self.choices:
            return self.choices[0]
        return int(self.low) if self.integer else self.low

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), step=self.step)
        return FloatDistribution(self.low, self.high, log=self.log)

    def encode(self, value: Any) -> ParamValue:
        """A field's value as the nearest parameter inside the bounds."""
        if self.choices:
            text = _choice_text(value)
            return text if text in self.choices else self.choices[0]
        number = float(int(value).bit_length() - 1) if self.power_of_two else float(value)
        number = min(max(number, self.low), self.high)
        if not self.integer:
            return number
        return int(self.low + round((number - self.low) / self.step) * self.step)

    def decode(self, param: ParamValue) -> Any:
        """A parameter as the field's value."""
        if self.choices:
            value = json.loads(str(param))
            return tuple(value) if isinstance(value, list) else value
        if self.power_of_two:
            return 2 ** int(param)
        return int(param) if self.integer else float(param)


@dataclass(frozen=True)
class MethodSpace:
    """One method: where it starts and what may change."""

    method: str
    default: StrategyConfig
    axes: tuple[SearchAxis, ...]

    def param(self, axis: SearchAxis) -> str:
        return f"{self.method}.{axis.label}"

    def config(self, values: Mapping[str, Any], lr_rel: float) -> StrategyConfig:
        """The default configuration with ``values`` by knob."""
        rate = self.default.learning_rate / self.default.lr_rel * lr_rel
        return self.default.replaced(**values, learning_rate=rate, lr_rel=lr_rel)

    def default_params(self) -> dict[str, ParamValue]:
        """The default, moved inside the bounds where a budget cut them."""
        params: dict[str, ParamValue] = {METHOD: self.method, LR_REL: 1.0}
        for axis in self.axes:
            value = self.default.knob(axis.field)
            params[self.param(axis)] = axis.encode(value if value is not None else axis.decode(axis.lowest))
        return params


EPOCHS = SearchAxis("num_train_epochs", low=1, high=6, integer=True)
"""Three, the default of most published recipes, are a few dozen steps where rows are few, and often too many where they
are plenty."""

WEIGHT_DECAY = SearchAxis("weight_decay", low=0.0, high=0.1)
SHARED_AXES = (EPOCHS, WEIGHT_DECAY)


@dataclass(frozen=True)
class Space:
    """All methods of a study.

    Attributes:
        methods: Every method that can be used on the model at all.
        shared: Axes of knobs that every method has.
        batch: Octaves by which the batch may differ from the study's effective batch size; ``None`` keeps it.
    """

    methods: tuple[MethodSpace, ...]
    shared: tuple[SearchAxis, ...] = ()
    batch: SearchAxis | None = None
    lr_rel: tuple[float, float] = LR_REL_RANGE

    def method(self, name: str) -> MethodSpace:
        return next(space for space in self.methods if space.method == name)

    def axes(self, method: str) -> dict[str, SearchAxis]:
        """Every axis of a method but the method itself, by parameter."""
        space = self.method(method)
        axes = {LR_REL: SearchAxis(LR_REL, *self.lr_rel, log=True)}
        axes |= {axis.label: axis for axis in self.shared}
        if self.batch is not None:
            axes[BATCH] = self.batch
        return axes | {space.param(axis): axis for axis in space.axes}

    def distributions(self, params: Mapping[str, ParamValue]) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of the parameters of a point."""
        from optuna.distributions import CategoricalDistribution

        axes = self.axes(str(params[METHOD]))
        found = {name: axis.distribution() for name, axis in axes.items() if name in params}
        return {METHOD: CategoricalDistribution([space.method for space in self.methods]), **found}

    def default_params(self, method: str, lr_rel: float = 1.0) -> dict[str, ParamValue]:
        """A method's default, with another learning rate where one is named."""
        space = self.method(method)
        params: dict[str, ParamValue] = {**space.default_params(), LR_REL: lr_rel}
        params |= {axis.label: axis.encode(space.default.knob(axis.field)) for axis in self.shared}
        return params | ({BATCH: 0} if self.batch is not None else {})

    def suggest(self, trial: optuna.Trial) -> dict[str, ParamValue]:
        """Sample one point: the method first, then only its own knobs."""
        names = [space.method for space in self.methods]
        params: dict[str, ParamValue] = {METHOD: trial.suggest_categorical(METHOD, names)}
        for name, axis in self.axes(str(params[METHOD])).items():
            params[name] = _suggest(trial, name, axis)
        return params

    def config(self, params: Mapping[str, ParamValue]) -> StrategyConfig:
        """The configuration that a point stands for; what it does not name is as in the default."""
        space = self.method(str(params[METHOD]))
        own = {axis.field: axis.decode(params[space.param(axis)]) for axis in space.axes}
        shared = {axis.field: float(axis.decode(params[axis.label])) for axis in self.shared if axis.label in params}
        return space.config({**own, **shared}, float(params[LR_REL]))

    @staticmethod
    def batch_size(params: Mapping[str, ParamValue], effective_batch_size: int) -> int:
        """Rows per optimizer step of a point."""
        octaves = int(params.get(BATCH, 0))
        return max(1, effective_batch_size * 2**octaves if octaves >= 0 else effective_batch_size // 2**-octaves)


def method_space(strategy: Strategy, model: ModelSpec, knobs: Mapping[str, Any] | None = None) -> MethodSpace:
    """The space as a strategy declares it, before any budget cuts it.

    Args:
        strategy: Any.
        model: What is to be trained.
        knobs: Values that are given instead of searched or left at their defaults, where the strategy has them.

    Raises:
        InputError: a value that cannot be used.
    """
    given = given_knobs(strategy, knobs or {})
    default = strategy.configured(model, **given) if given else strategy.default_config(model)
    dimensions = strategy.search_space(model)
    names = [name for name in sorted(dimensions) if name not in (LR_REL, *given)]
    return MethodSpace(strategy.name, default, tuple(axis_of(name, dimensions[name]) for name in names))


def axis_of(name: str, dimension: Dimension) -> SearchAxis:
    """A strategy's dimension as an axis; whole numbers on a log scale are searched as exponents of two."""
    if isinstance(dimension, CategoricalDimension):
        return SearchAxis(name, choices=tuple(_choice_text(choice) for choice in dimension.choices))
    if isinstance(dimension, FloatDimension):
        return SearchAxis(name, low=dimension.low, high=dimension.high, log=dimension.log)
    low, high = dimension.low, dimension.high
    if dimension.log:
        return SearchAxis(name, low=low.bit_length() - 1, high=high.bit_length() - 1, integer=True, power_of_two=True)
    return SearchAxis(name, low=low, high=high, integer=True, step=dimension.step)


def _suggest(trial: optuna.Trial, name: str, axis: SearchAxis) -> ParamValue:
    if axis.choices:
        return str(trial.suggest_categorical(name, axis.choices))
    if axis.integer:
        return int(trial.suggest_int(name, int(axis.low), int(axis.high), step=axis.step))
    return float(trial.suggest_float(name, axis.low, axis.high, log=axis.log))


def _choice_text(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, list | tuple) else value)


def shared_axes(given: Collection[str]) -> tuple[SearchAxis, ...]:
    """The axes of shared knobs that the user has not set."""
    return tuple(axis for axis in SHARED_AXES if axis.field not in given)
