"""What differs between kinds of devices, behind one interface.

Whatever predicts, plans, probes, trains or measures asks a :class:`Backend`; no other module compares the type of a
device. A further kind of device is one file with a subclass that states what is known. What it leaves out ends with a
:class:`~advisor.core.errors.DeviceError` that names the back end and what it cannot do yet.

Predicting needs no torch: ``memory``, ``overhead``, ``setups`` and ``traced_as`` are plain values. ``runtime`` and
``probing`` handle the device itself; their methods import torch when they are called.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NoReturn, Protocol

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.plan import AttentionImplementation, ExecutionPlan
from advisor.hardware.backends.contact import Check, DriverView, TorchView
from advisor.hardware.benchmarks import Figure, Scale
from advisor.hardware.energy import Counter
from advisor.hardware.host import Host
from advisor.hardware.timing import SamplingPolicy

Findings = Mapping[str, Sequence[dict[str, Any]]]
"""What a probe printed, by kind."""
Emit = Callable[..., None]
"""Receives a finding of a probe as keyword arguments."""
ProfileOf = Callable[[str], DeviceProfile]
"""From a product name to the profile of that device; raises ``DeviceError`` for an unknown one."""
Refusal = tuple[str, str]
"""The rule that does not hold, with the value; and the way out."""


@dataclass(frozen=True)
class MemoryTraits:
    """How memory is handed out.

    Attributes:
        allocator: The model that estimates it: ``"heap"`` is the process's own resident set, grown by the C library;
            ``"caching"`` is torch's caching allocator on a card, with a context and library workspaces.
        round_bytes: Allocations are rounded up to a multiple of this.
        counted: torch counts allocated and reserved bytes. Where it does not, a profiled step tells them.
        quantizes_on_device: Weights reach the device in full precision, one at a time, before they become 4-bit ones.
    """

    allocator: Literal["heap", "caching"]
    round_bytes: int
    counted: bool
    quantizes_on_device: bool


@dataclass(frozen=True)
class OverheadTraits:
    """What a run takes besides the operators' own time, where it was neither probed nor calibrated.

    Attributes:
        host_s_per_operator: Python, autograd, dispatch and Trainer.
        overlap_power: How host and device add up: ``step = (host^p + device^p)^(1/p)``. 1 adds them; a larger one comes
            close to the larger of the two.
        warm_up_s: What the first step takes beyond the others.
        packed_item_bytes: Of a weight before it is turned into NF4.
        packed_bytes_per_s: Rate at which weights are turned into NF4, in bytes as they were.
    """

    host_s_per_operator: float
    overlap_power: int
    warm_up_s: float
    packed_item_bytes: int
    packed_bytes_per_s: float


@dataclass(frozen=True)
class SetupTraits:
    """What a plan chooses from.

    Attributes:
        half_precision: Training usually computes in half precision where the device has it.
        compared: Data types and attention kernels are chosen by their predicted times, because none is always fastest.
        num_threads: The number of intra-op threads is part of a plan.
        eight_bit_optimizers: bitsandbytes' optimizers are worth proposing.
        attention: transformers' names of the kernels that run there.
    """

    half_precision: bool
    compared: bool
    num_threads: bool
    eight_bit_optimizers: bool
    attention: tuple[AttentionImplementation, ...] = ("sdpa", "eager")


class _Missing:
    """Stands for a member that a back end does not have yet."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __get__(self, backend: Backend | None, owner: type[Backend]) -> Any:
        return self if backend is None else backend.refuse(self._what)


_missing: Any = _Missing  # of whatever type the member has


class Backend:
    """One kind of device. Instances have no state; the registry makes one of each.

    Attributes:
        name: As profiles write it (``DeviceProfile.type``) and ``advisor probe --device`` takes it.
        title: With its article, for messages.
        torch_device: What torch calls it.
        is_host: It is the machine's own processor: operators run in the thread that launches them, and its memory is
            the process's.
        setups: What a plan chooses from.
        memory: How memory is handed out.
        overhead: What a run takes besides its operators.
        traced_as: Name of the back end whose operators a traced step has: its own, or that of another one with the same
            operators.
        runtime: The device at hand, for training and measuring.
        probing: What a probe tries and times.
    """

    name: str
    title: str
    torch_device: str
    is_host: bool = False
    setups: SetupTraits = _missing("plan: it does not say what a plan chooses from")
    memory: MemoryTraits = _missing("predict memory: it has no model of the allocator")
    overhead: OverheadTraits = _missing("predict time: it does not say what a run takes besides its operators")
    traced_as: str = _missing("trace steps: it does not say whose operators they have")
    runtime: Runtime = _missing("train or measure")
    probing: Probing = _missing("be probed")

    def has_tf32(self, device: DeviceProfile) -> bool:
        """Whether float32 products may round their operands to TensorFloat-32."""
        return False

    def expandable_segments(self, wanted: bool | None) -> bool:
        """Whether torch's allocator is to use expandable segments.

        Args:
            wanted: By the user; ``None``: as the environment says.
        """
        return False

    def driver_version(self) -> str:
        """Version of the loaded driver; empty where there is none, or where nobody says."""
        return ""

    def driver_view(self) -> DriverView:
        """What the driver says of itself and its devices; starts nothing on them."""
        return DriverView(self.driver_version())

    def torch_view(self) -> TorchView:
        """What the installed torch was built for, without importing it."""
        return TorchView()

    def architectures(self) -> tuple[str, ...]:
        """For which architectures torch has kernels; imports it."""
        return ()

    def contact_checks(self, torch: TorchView, driver: DriverView) -> list[Check]:
        """Whether torch, driver and devices fit together; empty where there is nothing between torch and the device."""
        return []

    def refusals(self, execution: ExecutionPlan, *, here: bool) -> list[Refusal]:
        """What of a plan cannot run on this kind of device.

        Args:
            execution: The plan's switches.
            here: It is about to run on the device at hand, which is then asked, too.
        """
        return []

    def refuse(self, what: str) -> NoReturn:
        """End with what this back end cannot do yet.

        Args:
            what: A verb and its object; after a colon, why.

        Raises:
            DeviceError: always.
        """
        raise DeviceError(
            f"the back end {self.name!r} cannot yet {what}", fix="name another device; `advisor devices` lists them"
        )


class Runtime(ABC):
    """The device at hand, as a process that trains or measures uses it."""

    @abstractmethod
    def count(self) -> int:
        """How many of these devices this process can use."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished what was queued, so that wall-clock times mean something."""

    @abstractmethod
    def memory_watch(self) -> AbstractContextManager[MemoryWatch]:
        """Watches what this process holds of the device while the ``with`` block runs."""

    @abstractmethod
    def energy_counter(self) -> Counter:
        """The device's energy meter.

        Raises:
            DeviceError: there is none that can be read.
        """

    @abstractmethod
    def compile_refusal(self) -> Refusal | None:
        """Why ``torch.compile`` cannot work here; ``None`` where nothing speaks against it."""

    def release_cached(self) -> None:
        """Give back what the allocator keeps for later."""
        return

    def reset_peaks(self) -> None:
        """Count the peaks of allocated and reserved bytes anew."""
        return

    def peaks(self) -> tuple[int | None, int | None]:
        """Peaks of allocated and reserved bytes; ``None`` where torch does not count them."""
        return None, None

    def held_bytes(self) -> tuple[int | None, int | None]:
        """Allocated and reserved bytes now; ``None`` where torch does not count them."""
        return None, None

    def prepare_process(self, num_threads: int | None, *, expandable_segments: bool = False) -> None:
        """Set this process up to train, for its whole life.

        Every process whose steps are timed, predicted or trained calls it before it uses the device, so that they are
        alike.

        Args:
            num_threads: Intra-op threads; torch's choice when ``None``.
            expandable_segments: Of torch's allocator on a card; the environment's choice when ``False``.
        """
        if num_threads is not None:
            import torch

            torch.set_num_threads(num_threads)

    def prepare_for(self, execution: ExecutionPlan) -> None:
        """Set this process up as an execution plan has it."""
        self.prepare_process(execution.num_threads, expandable_segments=execution.expandable_segments)

    def mark(self) -> Mark | None:
        """A point of the queued work that the device puts the time to; ``None`` where only the host keeps time."""
        return None

    def is_lost(self) -> bool:
        """Whether a failure left the device unusable for this process."""
        return False


class Mark(Protocol):
    """A moment on the device's own clock."""

    def synchronize(self) -> None:
        """Wait for it."""

    def elapsed_time(self, other: Any) -> float:
        """Milliseconds up to another mark."""


@dataclass
class MemoryWatch:
    """What a process holds of its device; ``None`` where nobody says.

    Attributes:
        first_bytes: Before the work.
        peak_bytes: The most up to the end.
        states: What the driver said along the way, in order: ``sm_clock_hz``, ``temperature_c``, ``slowdowns``.
    """

    first_bytes: int | None = None
    peak_bytes: int | None = None
    states: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class BeforeProbe:
    """What is known of the devices before any library is imported.

    Attributes:
        states: Of every device that its driver lists, by UUID.
        refused: Why there are none.
    """

    states: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


def slug(text: str) -> str:
    """A product name as a profile id: lower case, words joined by hyphens.

    Vendor words and trade marks are dropped, so that ``"NVIDIA A100-SXM4-80GB"`` becomes ``"a100-sxm4-80gb"``.
    """
    words = re.split(r"[^a-z0-9]+", re.sub(r"\((r|tm|c)\)|®|™", " ", text.lower()))
    return "-".join(word for word in words if word and word not in _VENDOR_WORDS)


_VENDOR_WORDS = ("nvidia", "geforce", "tesla", "corporation", "cpu", "processor", "at")


@dataclass(frozen=True)
class Identity:
    """What a device is, as fields of its profile.

    Attributes:
        fields: Identity, capacity, context, workspace.
        sources: Where each of them comes from.
        facts: What else is known.
    """

    fields: dict[str, Any]
    sources: dict[str, str]
    facts: dict[str, str] = field(default_factory=dict)


class Probing(ABC):
    """What a probe tries and times on one kind of device.

    Attributes:
        scale: Sizes that suit it.
        tail_s: Of a full probe, kept back from the grid of figures for what comes after it.
        tries_compiling: ``torch.compile`` is tried where there is time; elsewhere its compiler is only looked for.
        absent_kernels: Attention kernels that do not exist there, with the reason.
    """

    scale: Scale
    tail_s: float
    tries_compiling: bool = False
    absent_kernels: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def describe(
        self, device: str, before: BeforeProbe, emit: Emit, *, known: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """Emit what the device is.

        Args:
            device: As torch names it.
            before: From before this process used the device.
            emit: Receives findings.
            known: An earlier probe has measured what a bare process holds.

        Returns:
            The compute capability, where there is one; and whether the probe can go on.
        """

    @abstractmethod
    def sampling(self, host: Host, *, quick: bool) -> SamplingPolicy:
        """How samples are taken."""

    @abstractmethod
    def identity(self, findings: Findings, host: Host, profile_of: ProfileOf) -> Identity:
        """The fields of a profile that say what the device is.

        Args:
            findings: What the probe printed.
            host: The machine around it.
            profile_of: Knows the datasheets of cards.

        Raises:
            DeviceError: the findings do not say it.
        """

    def look_before(self) -> BeforeProbe:
        """What the driver says before any library is imported; starts nothing on the device."""
        return BeforeProbe()

    def own_figures(self, device: str) -> list[Figure]:
        """What is timed there besides the figures of every device."""
        return []

    def emulated(self, device: str, dtype: str) -> str:
        """Why a data type that works is nevertheless of no use; empty when it is of use."""
        return ""

    def chosen_kernel(self, device: str, dtype: str, emit: Emit) -> str:
        """The attention kernel that torch takes by itself, which is then timed last; empty where that is not asked."""
        return ""

    def look_back(self, device: str, before: BeforeProbe, dtype: str, emit: Emit) -> None:
        """Emit what only work shows: clocks under load, what the process holds after all kernels ran."""
        return
