"""What plans are made for, and the execution knobs that change how fast a step is but none of its operators."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from advisor.core.budget import Budget
from advisor.core.data import DataProfile, DataSpec
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.objective import DEFAULT_OBJECTIVE, Objective
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.run import computed_tokens
from advisor.hardware.backends import backend_of

WORTHWHILE_PADDING = 0.98
"""Rows are grouped by length when that leaves at most this share of the computed tokens: below, nothing is gained that
a run could be told apart by."""


@dataclass(frozen=True)
class SpeedKnobs:
    """What the user fixed; ``None`` leaves the choice to the planner.

    Attributes:
        group_by_length: Batches of rows of similar length; by default where less padding is computed.
        tf32: TensorFloat-32 for products of float32 tensors; by default where the device has it.
        torch_compile: Compile the model; never chosen by itself, because what it saves is not predicted.
        keep_features: Compute frozen first layers once (``ExecutionPlan.keep_features``), for methods that have any; by
            default where it is predicted to save time and the model has no dropout, so that it changes nothing else.
        num_threads: Intra-op threads on a CPU; by default what the probe found to be fastest.
        expandable_segments: Of torch's CUDA allocator; by default as ``PYTORCH_ALLOC_CONF`` says.
    """

    group_by_length: bool | None = None
    tf32: bool | None = None
    torch_compile: bool = False
    keep_features: bool | None = None
    num_threads: int | None = None
    expandable_segments: bool | None = None

    def check(self, device: DeviceProfile) -> None:
        """Refuse what the device does not have.

        Raises:
            InputError: with all problems.
        """
        problems = []
        if self.tf32 and not backend_of(device).has_tf32(device):
            problems.append(f"--tf32 needs a CUDA device of compute capability 8.0, but {device.id} is none")
        if self.num_threads is not None and not backend_of(device).setups.num_threads:
            problems.append(f"--num-threads sets the threads of a CPU, but {device.id} is a GPU")
        if self.expandable_segments and not backend_of(device).expandable_segments(True):
            problems.append(f"--expandable-segments is a setting of torch's CUDA allocator, but {device.id} is a CPU")
        if problems:
            raise InputError(
                problems[0],
                fix=f"leave out {' and '.join(problem.split()[0] for problem in problems)}",
                problems=problems[1:],
            )

    def settled(
        self, execution: ExecutionPlan, device: DeviceProfile, data: DataProfile, *, quantized: bool = False
    ) -> ExecutionPlan:
        """The plan with every one of these knobs set.

        Args:
            execution: Sizes, data types and attention kernel are decided.
            device: Where it will run.
            data: Lengths of the rows.
            quantized: Weights in 4 bits are not compiled.
        """
        backend, grouped = backend_of(device), replace(execution, group_by_length=True)
        wanted = self.group_by_length if self.group_by_length is not None else grouping_pays(grouped, data)
        return replace(
            execution,
            group_by_length=wanted,
            tf32=self.tf32 if self.tf32 is not None else backend.has_tf32(device),
            torch_compile=self.torch_compile and not quantized,
            num_threads=(self.num_threads or device.num_threads) if backend.setups.num_threads else None,
            expandable_segments=backend.expandable_segments(self.expandable_segments),
        )


def grouping_pays(execution: ExecutionPlan, data: DataProfile) -> bool:
    """Whether rows of similar length in a batch save a worthwhile share of padding."""
    if not execution.padded or execution.micro_batch_size == 1:
        return False
    return computed_tokens(execution, data, grouped=True) <= WORTHWHILE_PADDING * computed_tokens(
        execution, data, grouped=False
    )


@dataclass(frozen=True)
class PlanRequest:
    """What plans are made for.

    Attributes:
        model: What is to be trained.
        data_spec: How a run reads the data.
        data: What the data looks like.
        budget: Upper bounds; the device's capacity always counts.
        effective_batch_size: Rows per optimizer step, the same for all methods; micro-batches are its divisors.
        seed: Training seed of the plans.
        objective: What the plans are ordered by.
        speed: What is fixed of the knobs that change no operator; by default all of them are chosen.

    Raises:
        InputError: an effective batch size below 1.
    """

    model: ModelSpec
    data_spec: DataSpec
    data: DataProfile
    budget: Budget = field(default_factory=Budget)
    effective_batch_size: int = 32
    seed: int = 42
    speed: SpeedKnobs = field(default_factory=SpeedKnobs)
    objective: Objective = DEFAULT_OBJECTIVE

    def __post_init__(self) -> None:
        if self.effective_batch_size < 1:
            raise InputError(
                f"the effective batch size must be at least 1, but got {self.effective_batch_size}",
                fix="name another one",
            )
