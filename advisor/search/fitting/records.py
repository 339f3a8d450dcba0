"""What ``fit`` is asked and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from advisor.core.budget import Budget
from advisor.core.plan import Amp, AttentionImplementation, Dtype, ExecutionPlan, Optimizer
from advisor.core.serialization import LATER
from advisor.core.strategy import StrategyConfig

Bound = Literal["memory", "latency", "saved size", "positions", "layer width", "search limit"]
"""What ends an axis: a limit, the model's positions, the narrowest adapted layer, or the largest value looked at."""


@dataclass(frozen=True)
class FitRequest:
    """The point that is asked about; each axis is searched with the others held here.

    Attributes:
        micro_batch_size: Rows per forward pass.
        seq_length: Padded length.
        limit_bytes: What the device's peak memory must stay within.
        safety_level: Probability with which it must.
        padded: Whether batches hold padding (decides mask and attention kernel).
        max_latency_s, max_saved_size_bytes: Further limits, as in ``Budget``; a latency is that of the asked length.
    """

    micro_batch_size: int
    seq_length: int
    limit_bytes: int
    safety_level: float = 0.95
    padded: bool = True
    max_latency_s: float | None = field(default=None, metadata=LATER)
    max_saved_size_bytes: int | None = field(default=None, metadata=LATER)

    @property
    def budget(self) -> Budget:
        """The same limits as a budget."""
        return Budget(
            memory_bytes=self.limit_bytes,
            safety_level=self.safety_level,
            max_latency_s=self.max_latency_s,
            max_saved_size_bytes=self.max_saved_size_bytes,
        )

    @property
    def bounds_the_model(self) -> bool:
        """Whether anything besides memory is limited."""
        return self.max_latency_s is not None or self.max_saved_size_bytes is not None


@dataclass(frozen=True)
class Switches:
    """Execution knobs that are no sizes, as in ``ExecutionPlan``."""

    gradient_checkpointing: bool
    dtype: Dtype
    amp: Amp
    optim: Optimizer
    attn_implementation: AttentionImplementation

    def execution(self, micro_batch_size: int, seq_length: int, *, padded: bool) -> ExecutionPlan:
        """The plan with these switches; evaluation takes the same batch as training."""
        return ExecutionPlan(
            micro_batch_size=micro_batch_size,
            max_seq_length=seq_length,
            padded=padded,
            gradient_checkpointing=self.gradient_checkpointing,
            attn_implementation=self.attn_implementation,
            dtype=self.dtype,
            amp=self.amp,
            optim=self.optim,
        )


@dataclass(frozen=True)
class Largest:
    """The largest value of one axis that fits.

    Attributes:
        value: It fits; the next multiple of ``step`` does not, unless ``bound`` says that the axis ends here.
        step: Granularity of the search (lengths: what batches are padded to).
        memory_bytes: Upper quantile of the device's peak memory there.
        bound: Why it is not larger.
    """

    value: int
    step: int
    memory_bytes: int
    bound: Bound


@dataclass(frozen=True)
class CardFit:
    """A device that holds the asked point.

    Attributes:
        device: Profile id.
        capacity_bytes: What plans may use there.
        memory_bytes: Upper quantile of the peak there.
        dtype, amp: Data types there, where it has not those of the set-up (float16 for bfloat16).
    """

    device: str
    capacity_bytes: int
    memory_bytes: int
    dtype: Dtype
    amp: Amp


@dataclass(frozen=True)
class SetupFit:
    """One method under one set of switches.

    Attributes:
        memory_bytes: Upper quantile of the peak at the asked point; a lower bound when ``traced`` is false.
        traced: False where weights, gradients and optimizer states alone exceed the budget: nothing was traced.
        fits: Whether the asked point is inside the budget.
        micro_batch, seq_length, rank: The largest that fits on each axis, the others as asked; ``None`` when not even
            the least does, or the method has no rank.
        card: Smallest known card for the asked point; ``None`` when none is large enough or none was looked for.
        beyond: Limits besides memory that the asked point exceeds, one phrase each.
    """

    switches: Switches
    memory_bytes: int
    traced: bool
    fits: bool
    micro_batch: Largest | None = None
    seq_length: Largest | None = None
    rank: Largest | None = None
    card: CardFit | None = None
    beyond: tuple[str, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True)
class MethodFit:
    """One method: its set-ups, preferred data types first; without any, the reason.

    Attributes:
        problems: Set-ups that could not be traced, one sentence each.
        reason: Why there is no set-up at all.
    """

    method: str
    strategy: StrategyConfig | None
    setups: tuple[SetupFit, ...] = ()
    problems: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def leanest(self) -> SetupFit | None:
        """The traced set-up with the least memory at the asked point."""
        return min((s for s in self.setups if s.traced), key=lambda s: s.memory_bytes, default=None)

    @property
    def fits(self) -> bool:
        """Whether something fits: the asked point, or a smaller batch or length."""
        return any(s.fits or s.micro_batch or s.seq_length for s in self.setups)


@dataclass(frozen=True)
class FitAnswer:
    """Per method what fits.

    Attributes:
        considered: How many points were evaluated.
        cards: Whether cards were looked for.
    """

    device_id: str
    question: FitRequest
    methods: tuple[MethodFit, ...]
    considered: int
    cards: bool

    @property
    def fits(self) -> bool:
        return any(method.fits for method in self.methods)

    @property
    def leanest(self) -> tuple[MethodFit, SetupFit] | None:
        """The method and set-up that need the least memory at the asked point."""
        return min(self._leanest_setups(), key=lambda pair: pair[1].memory_bytes, default=None)

    def _leanest_setups(self) -> Iterator[tuple[MethodFit, SetupFit]]:
        for method in self.methods:
            if method.leanest is not None:
                yield method, method.leanest
