"""What an explanation of a peak says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PeakShare:
    """A part of the live bytes at the peak."""

    name: str
    live_bytes: int


@dataclass(frozen=True)
class TensorGroup:
    """Equal tensors at the peak: the same place in every layer, operator, shape and data type.

    Attributes:
        module: Dotted name of the module that made them, layer numbers replaced by ``*`` when there are several.
        module_class: Class of that module; ``""`` outside of every module.
        role: What they are for (``"attention scores"``).
        kind: ``"weights"``, ``"gradients"``, ``"optimizer states"``, ``"activations"`` or ``"temporaries"``.
        operator: That allocated them; ``""`` for what was there before the step.
        shape: Of each of them; empty for a kernel's hidden temporaries and for optimizer states of all shapes together.
        dtype: Of one of them.
        phase: In which they were made.
        recomputed: Made by a forward pass that checkpointing runs again.
        count: How many there are.
        live_bytes: Of all together.
    """

    module: str
    module_class: str
    role: str
    kind: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    phase: str
    recomputed: bool
    count: int
    live_bytes: int


@dataclass(frozen=True)
class Timeline:
    """Live bytes over the step, thinned to moments that keep every local maximum of their neighbourhood.

    Attributes:
        kinds: Names of the columns of ``live_bytes``.
        live_bytes: By moment and kind.
        events: Number of allocations and frees before each moment: the step's own clock.
        phases: ``(name, index of its first moment)``, in order.
        places: By moment, the module and operator of the event.
        peak_index: Moment of the peak.
    """

    kinds: tuple[str, ...]
    live_bytes: tuple[tuple[int, ...], ...]
    events: tuple[int, ...]
    phases: tuple[tuple[str, int], ...]
    places: tuple[str, ...]
    peak_index: int


@dataclass(frozen=True)
class PeakExplanation:
    """The peak of live bytes, taken apart; each of the lists adds up to ``live_bytes``.

    Attributes:
        live_bytes: All live storages at the peak, rounded as the allocator rounds: ``allocated_bytes`` of the estimate
            before workspaces.
        phase: ``"forward"``, ``"backward"``, ``"optimizer"`` or ``"evaluation"``.
        module: Whose operator made the allocation that reached the peak.
        operator: That operator.
        by_kind: Weights, gradients, optimizer states, activations, temporaries.
        by_role: What the tensors are for, largest first.
        by_layer: Per layer, in order, weights included; then optimizer states and everything outside the layers.
        by_module_class: By the class of the module that made them, largest first.
        by_operator: By the operator that allocated them, largest first.
        tensors: The largest groups of equal tensors.
        timeline: Live bytes over the step.
        num_layers: How many layers were traced: all of them.
    """

    live_bytes: int
    phase: str
    module: str
    operator: str
    by_kind: tuple[PeakShare, ...]
    by_role: tuple[PeakShare, ...]
    by_layer: tuple[PeakShare, ...]
    by_module_class: tuple[PeakShare, ...]
    by_operator: tuple[PeakShare, ...]
    tensors: tuple[TensorGroup, ...]
    timeline: Timeline
    num_layers: int
