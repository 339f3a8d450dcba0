"""By what the errors of step times are grouped."""

from __future__ import annotations

from collections.abc import Callable

from advisor.experiments.validation.comparison import DEFAULT_OPTIMIZER
from advisor.experiments.validation.record import Record

TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)


def tokens_of(record: Record) -> str:
    """The size class of a micro-batch."""
    tokens = record.rows * record.length
    return next((f"up to {limit}" for limit in TOKENS if tokens <= limit), f"above {TOKENS[-1]}")


def switches_of(record: Record) -> list[str]:
    """What is switched on or differs from the defaults; ``["none"]`` when nothing does."""
    values = record.execution
    found = ["checkpointing"] if values.get("gradient_checkpointing") else []
    found += [f"amp {values['amp']}"] if values.get("amp", "none") != "none" else []
    found += [str(values["dtype"])] if values.get("dtype", "float32") != "float32" else []
    found += [str(values["attn_implementation"])] if values.get("attn_implementation", "sdpa") != "sdpa" else []
    found += [str(values["optim"])] if values.get("optim", DEFAULT_OPTIMIZER) != DEFAULT_OPTIMIZER else []
    found += ["accumulation"] if values.get("gradient_accumulation_steps", 1) > 1 else []
    found += ["no padding"] if not values.get("padded", True) else []
    found += [str(values["loss"])] if values.get("loss", "standard") != "standard" else []
    return found or ["none"]


TIME_GROUPINGS: dict[str, Callable[[Record], list[str]]] = {
    "all": lambda record: ["all"],
    "method": lambda record: [record.method],
    "model": lambda record: [record.model],
    "tokens": lambda record: [tokens_of(record)],
    "switch": switches_of,
}
