"""Statistical knobs: what is learned, and how."""

from __future__ import annotations

import dataclasses
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from advisor.core.errors import AdvisorError, InputError
from advisor.core.record_reader import build, read_fields
from advisor.core.serialization import BESIDE, LATER, to_dict
from advisor.core.tasks import TaskTraits

QuantizationType = Literal["nf4", "fp4"]
ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True)
class Quantization:
    """How frozen weights are stored (bitsandbytes 4-bit).

    Attributes:
        quant_type: Code book.
        double_quant: Block statistics are quantised too (QLoRA, Dettmers et al. 2023).
        compute_dtype: Data type that weights are de-quantised to.
    """

    quant_type: QuantizationType = "nf4"
    double_quant: bool = True
    compute_dtype: str = "float32"


@dataclass(frozen=True)
class Knobs:
    """What one method has to set besides the knobs that all methods share. This class is for methods without any.

    A method with knobs of its own names a subclass (``Strategy.knobs``): a frozen dataclass of JSON values, each with a
    default (``None`` only as one), whose ``__post_init__`` raises ``ValueError`` for values that can never be used.

    A knob called ``rank`` is more than a value: the sizes of a traced step are formulas of it, so that one trace serves
    all ranks, and ``fit`` and ``recommend`` search for the largest.
    """

    @classmethod
    def of(cls, config: StrategyConfig) -> Self:
        """The knobs of a configuration, known to be of this class.

        Raises:
            InputError: they are another method's.
        """
        if not isinstance(config.knobs, cls):
            raise InputError(
                f"the knobs of {config.method} must be {cls.__name__}, but got {type(config.knobs).__name__}",
                fix="make configurations with Strategy.default_config or Strategy.configured",
            )
        return config.knobs

    def replaced(self, **values: Any) -> Self:
        """A copy with some values replaced.

        Raises:
            ValueError: a value that can never be used.
        """
        return dataclasses.replace(self, **values)

    def described(self) -> tuple[str, ...]:
        """What tells two configurations apart in a table, one phrase per knob."""
        values = {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self)}
        return tuple(f"{name}={value}" for name, value in values.items() if value is not None)


@dataclass(frozen=True)
class StrategyConfig:
    """One strategy with all its knobs set. Only evidence can rank two of these.

    In JSON the method's own knobs stand beside the shared ones, and those from ``class_weights`` on are left out where
    they have their default.

    Attributes:
        method: Name in the strategy registry.
        learning_rate: Peak learning rate of the optimizer (already multiplied by ``lr_rel``).
        lr_rel: What the method's default learning rate was multiplied by; kept so that studies share it over methods.
        num_train_epochs: Passes over the training rows.
        knobs: The method's own.
        weight_decay, warmup_ratio, lr_scheduler_type, max_grad_norm: As in ``transformers.TrainingArguments``.
        class_weights: ``"balanced"`` weighs the training loss of each class by its inverse frequency among the training
            rows, ``rows / (classes * rows of the class)`` (scikit-learn's ``compute_class_weight``). Held-out figures
            are not weighted.
        evaluations_per_epoch: How often held-out rows are evaluated, evenly spread; the last time at the epoch's end.
        load_best_model_at_end: As in transformers: the result is the checkpoint with the best held-out figure of the
            metric that the task is ranked on, not the last one.
        early_stopping_patience: Training ends after so many evaluations in a row without a better one than before
            (``transformers.EarlyStoppingCallback``); ``None`` trains to the end.
    """

    method: str
    learning_rate: float
    lr_rel: float = 1.0
    num_train_epochs: float = 3.0
    knobs: Knobs = field(default=Knobs(), metadata=BESIDE)
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    lr_scheduler_type: str = "linear"
    max_grad_norm: float = 1.0
    class_weights: ClassWeights = field(default="none", metadata=LATER)
    evaluations_per_epoch: int = field(default=1, metadata=LATER)
    load_best_model_at_end: bool = field(default=False, metadata=LATER)
    early_stopping_patience: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        problems = []
        for name in ("learning_rate", "num_train_epochs"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                problems.append(f"{name} > 0 must hold, and be finite, but got {value}")
        if not 0 <= self.warmup_ratio < 1:
            problems.append(f"0 <= warmup_ratio < 1 must hold, but got {self.warmup_ratio}")
        if not self.max_grad_norm >= 0:
            problems.append(f"max_grad_norm >= 0 must hold, but got {self.max_grad_norm}")
        if self.class_weights not in get_args(ClassWeights):
            problems.append(f"class_weights must be balanced or none, but got {self.class_weights!r}")
        if self.evaluations_per_epoch < 1:
            problems.append(f"evaluations_per_epoch >= 1 must hold, but got {self.evaluations_per_epoch}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            problems.append(f"early_stopping_patience >= 1 must hold, but got {self.early_stopping_patience}")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            problems.append(
                f"early_stopping_patience = {self.early_stopping_patience} needs load_best_model_at_end, because the"
                " last model is not the best one when training stops (--load-best)"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def evaluations(self) -> int:
        """Passes over the held-out rows along the run, if it does not stop early."""
        return max(1, math.ceil(self.num_train_epochs * self.evaluations_per_epoch))

    def check_task(self, traits: TaskTraits) -> None:
        """Refuse what means nothing for a task.

        Raises:
            InputError: it has no classes to weigh.
        """
        if self.class_weights != "none" and not traits.weighs_classes:
            raise InputError(
                f"class_weights {self.class_weights} weighs the classes of rows or words, but {traits.name} has none",
                fix="leave --class-weights out",
            )

    @property
    def rank(self) -> int | None:
        """The knob of that name, or ``None`` where the method has none (see :class:`Knobs`)."""
        rank: int | None = self.knob("rank")
        return rank

    def knob(self, name: str) -> Any:
        """The value of a knob, shared or the method's own; ``None`` where the method has none of that name."""
        return getattr(self if name in SHARED_KNOBS else self.knobs, name, None)

    def replaced(self, **values: Any) -> StrategyConfig:
        """A copy with some knobs replaced, shared ones or the method's own.

        Raises:
            ValueError: a value that can never be used.
            TypeError: the method has no such knob.
        """
        shared = {name: value for name, value in values.items() if name in SHARED_KNOBS}
        own = {name: value for name, value in values.items() if name not in SHARED_KNOBS}
        return dataclasses.replace(self, knobs=self.knobs.replaced(**own), **shared)

    @classmethod
    def read_plain(cls, values: Any) -> StrategyConfig:
        """A configuration from JSON of exactly the right types (:mod:`advisor.core.record_reader`).

        Raises:
            NotPlainError: the values need a closer look.
            ValueError: a value that can never be used, or an unknown method.
        """
        shared, own, knobs_class = _split(values)
        return cls(**read_fields(cls, shared), knobs=build(knobs_class, own))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic reads it: see :func:`_read`."""
        from pydantic_core import core_schema

        return core_schema.no_info_wrap_validator_function(_read, handler(source))


SHARED_KNOBS = frozenset(knob.name for knob in dataclasses.fields(StrategyConfig)) - {"method", "knobs"}
"""What every method has; no method may have a knob of its own with one of these names."""

FIRST_KNOBS = (
    *("rank", "lora_alpha", "lora_dropout", "target_modules", "unfrozen_layers", "sparsity", "l1_lambda"),
    "peft_config",
)
"""What files of the first version list for every method."""


def first_layout(config: StrategyConfig) -> dict[str, Any]:
    """A configuration as files of the first version have it: stored digests were made of that.

    Every method has the same knobs there, with null for those that it does not have. Knobs that came later are left out
    where they have their default, which is what the first version did.
    """
    later = {f.name: f.default for f in dataclasses.fields(config.knobs) if f.name not in FIRST_KNOBS}
    values = to_dict(config)
    return {**dict.fromkeys(FIRST_KNOBS), **{k: v for k, v in values.items() if k not in later or v != later[k]}}


def _knobs_class(method: str) -> type[Knobs]:
    """Of a registered method: strategies live in a room above this one, and are looked up when one is read."""
    knobs: type[Knobs] = pkgutil.resolve_name("advisor.strategies:get_strategy")(method).knobs
    return knobs


def _split(values: Any) -> tuple[dict[str, Any], dict[str, Any], type[Knobs]]:
    """JSON values of the shared fields, of the method's own knobs, and the class of these.

    A null stands for a knob's default: files of the first version list the knobs of every built-in method, with null
    for those that were not set or that the method does not have.

    Raises:
        ValueError: no such method.
        TypeError: not an object that names a method.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("method"), str):
        raise TypeError("a strategy must be an object that names its method")
    try:
        knobs_class = _knobs_class(values["method"])
    except AdvisorError as failure:
        raise ValueError(f"{failure.message}; {failure.fix}" if failure.fix else failure.message) from None
    shared = {name: value for name, value in values.items() if name in SHARED_KNOBS or name == "method"}
    own = {name: value for name, value in values.items() if name not in shared and value is not None}
    return shared, own, knobs_class


def _read(values: Any, build_shared: Callable[[Any], StrategyConfig]) -> StrategyConfig:
    """A configuration from JSON, with the problems of shared and own knobs reported together."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        shared, own, knobs_class = _split(values)
    except TypeError:
        return build_shared(values)
    problems: list[Any] = []
    knobs, config = Knobs(), None
    try:
        (knobs,) = TypeAdapter(tuple[knobs_class], config=ConfigDict(extra="forbid")).validate_python((own,))  # type: ignore[valid-type]
    except ValidationError as failure:
        problems += [{**detail, "loc": detail["loc"][1:]} for detail in failure.errors(include_url=False)]
    try:
        config = build_shared(shared)
    except ValidationError as failure:
        problems += failure.errors(include_url=False)
    if problems or config is None:
        raise ValidationError.from_exception_data("StrategyConfig", problems)
    return dataclasses.replace(config, knobs=knobs)
