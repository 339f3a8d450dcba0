"""One configuration of a grid, before anything is known about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from advisor.core.model import Task
from advisor.experiments.validation.models import model_configuration

KEY_LENGTH = 12
"""Hexadecimal digits of a case's key: 48 bits tell a few hundred cases apart."""

_SHORT = {"dtype": "", "amp": "amp ", "attn_implementation": "", "optim": "", "loss": "", "rank": "r="}
"""How a value is written in a label; everything else is written ``name=value``."""


@dataclass(frozen=True)
class Case:
    """What one run of a grid is.

    Attributes:
        model: Name in ``models.json``.
        method: Registered strategy.
        rows: Micro-batch size; where ``fill`` is given, chosen from the prediction instead.
        length: Padded length in tokens.
        task: Head; the model's own when ``None``.
        knobs: Fields of ``StrategyConfig`` that differ from the method's defaults.
        execution: Fields of ``ExecutionPlan`` that differ from its defaults.
        fill: Choose as many rows as are predicted to take this share of the device: near its capacity below 1, beyond
            it above 1.
        mixed_lengths: Steps of random lengths before the measured ones and between them, as real text brings.
        room: Let the allocator have this share of what is predicted for the device, as on a smaller card (CUDA).
        repeats: Steps that are timed, more of short ones; 0 where only memory is asked about.
        again: 1 for the second measurement of a case, which tells the machine's own repeat noise.
    """

    model: str
    method: str
    rows: int
    length: int
    task: Task | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    mixed_lengths: int = 0
    fill: float | None = None
    room: float | None = None
    repeats: int = 0
    again: int = 0

    @property
    def label(self) -> str:
        """The case in one line: ``"bert-base lora 32x512, amp bf16, gradient_checkpointing"``."""
        shape = f"{self.rows}x{self.length}" if self.fill is None else f"fill {self.fill:.0%} x{self.length}"
        parts = [f"{self.model} {self.method} {shape}"]
        parts += [str(self.task)] if self.task else []
        parts += ["mixed lengths"] if self.mixed_lengths else []
        parts += [f"room {self.room:.0%}"] if self.room is not None else []
        parts += [_spoken(name, value) for name, value in {**self.knobs, **self.execution}.items()]
        parts += ["again"] if self.again else []
        return ", ".join(parts)


def case_key(case: Case) -> str:
    """Content hash of a case and its model's configuration, however often its steps are timed: it is not run twice."""
    given = {name: value for name, value in vars(case).items() if value and name != "repeats"}
    return _digest({"config": model_configuration(case.model), **given})


def config_hash(model: str) -> str:
    """Content hash of a model's configuration."""
    return _digest(model_configuration(model))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def _spoken(name: str, value: Any) -> str:
    if name in _SHORT:
        return f"{_SHORT[name]}{value}"
    if name == "peft_config":
        return str(value.get("peft_type", "")) + (" DoRA" if value.get("use_dora") else "")
    if value is True:
        return name
    return f"{name}={value}"
