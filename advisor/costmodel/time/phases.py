"""The parts of a run that are not steps: reading, loading, warming up, fetching batches, checkpoints, saving.

They hardly depend on the method. What can be measured beforehand is (reading and tokenising, with the data's profile;
writing, with the device's); the rest are published constants of a small machine with a wide interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.core.run import SAVE_EVERY_S, SAVING_SHARE
from advisor.hardware.backends import backend_of
from advisor.hardware.optimizers import PACKING

PART_NAMES = (
    *("data", "loading", "set_up", "warm_up", "training", "between_steps"),
    *("evaluation", "checkpoints", "saving"),
)
"""In the order of a run; a measured run has the same ones, and ``other`` for what is none of them."""
FITTING, FEATURES = "fitting", "features"
"""Further parts, of methods that fit a classifier to frozen features, and of runs that compute frozen layers once."""

STORAGE_BYTES_PER_S = 500e6
"""Writing files and flushing them where nothing was probed: a SATA solid-state disk (SATA 3: 600 MB/s less encoding and
protocol)."""
BURST_BYTES = 16 * 2**20
"""What a disk takes at the rate of ``storage``; the rest goes at that of ``storage_large`` (``hardware.storage``)."""
FIRST_TOUCH_BYTES_PER_S = 1e9
"""Clearing pages at their first use where nothing was probed: 716,000 page faults of 4 KiB took 2.9 s on two cores of a
virtual machine (``hardware.host_process``)."""
TOKENIZER_S = 0.2
"""Reading the tokenizer's files: 0.06 s for BERT's 30,000 pieces, 0.2 to 0.5 s for SmolLM2's 49,000 with their merges
(CPU time of one server core, as everything below; transformers 5.23, MiniLM with 23M and SmolLM2 with 135M parameters).
"""
READING_S, TOKENIZING_S_PER_ROW = 0.3, 60e-6
"""Where the data's profile did not measure them: 10,600 sentences of 25 tokens were read, split and tokenised in 0.3 s
and 0.6 s (BERT's tokenizer in Rust)."""
BUILDING_S = 0.2
"""Building the modules, wrapping them and importing the model's code; libraries are imported before the clock
starts."""
LOADED_BYTES_PER_S = 6e8
"""Weights from the page cache into tensors: SmolLM2's 269 MB, bfloat16 turned into float32, in 0.3 to 0.6 s."""
SET_UP_S = 0.4
"""Putting the Trainer together and preparing its optimizer and loader, up to the first step."""
STEP_OVERHEAD_S, BATCH_OVERHEAD_S_PER_ROW, BATCH_OVERHEAD_S_PER_TOKEN = 0.7e-3, 10e-6, 0.1e-6
"""Between two steps: callbacks and logging, fetching rows, and turning padded lists of numbers into tensors. Runs of 75
to 240 steps of 16 or 32 rows took 0.8 to 1.4 ms a step."""
FITTING_IMPORT_S, FITTING_S_PER_ROW_AND_WEIGHT = 1.5, 4e-7
"""Importing scikit-learn takes one to two seconds; then at most 19 fits of some tens of iterations, each of which goes
through rows x weights twice (``training.linear_probe.fitting``): 9,000 rows of 384 features in two classes took 1 to
4 s on one core."""
CHECKPOINT_S, SAVING_S = 0.15, 0.1
"""A checkpoint's many small files, flushed one by one and fingerprinted; the result's, and the tokenizer's."""
FIXED_PART_FACTOR = 2.0
"""90 % interval of these parts, as a factor either way: caches and disks differ."""


@dataclass(frozen=True)
class RunShape:
    """What a run consists of, besides its steps.

    Attributes:
        weights_bytes: Read when loading.
        quantized_parameters: Of them, weights that are turned into 4 bits while loading.
        saved_bytes: Of the result.
        checkpoint_bytes: Of one checkpoint: trained weights and optimizer states.
        evaluations: Passes over the held-out rows; a checkpoint is written with each.
        evaluates_best: Another one comes at the end, of the best checkpoint.
        fresh_bytes: Memory of the process that steps use for the first time (on a CPU).
        loading_s: Measured loading time, when there is one.
        fitted_weights: Of a classifier that is fitted to features after one pass over the rows; nothing is trained then
            and no checkpoint is written.
    """

    weights_bytes: int = 0
    quantized_parameters: int = 0
    saved_bytes: int = 0
    checkpoint_bytes: int = 0
    evaluations: int = 1
    evaluates_best: bool = False
    fresh_bytes: int = 0
    loading_s: float | None = None
    fitted_weights: int = 0


def fixed_parts(
    shape: RunShape,
    data: DataProfile,
    execution: ExecutionPlan,
    device: DeviceProfile,
    *,
    steps: int,
    padded_tokens: float,
    compute_s: float,
) -> dict[str, float]:
    """Seconds of every part but training and evaluation."""
    rows = steps * execution.effective_batch_size
    checkpoint_s = CHECKPOINT_S + _writing_s(shape.checkpoint_bytes, device)
    if shape.fitted_weights:
        special = {"set_up": 0.0, "checkpoints": 0.0, FITTING: fitting_seconds(data.train_rows, shape.fitted_weights)}
    else:
        count = checkpoint_count(compute_s, shape.evaluations, checkpoint_s)
        special = {"set_up": SET_UP_S, "checkpoints": count * checkpoint_s}
    return {
        **special,
        "data": data_seconds(data),
        "loading": shape.loading_s if shape.loading_s is not None else _loading_s(shape, device),
        "warm_up": backend_of(device).overhead.warm_up_s + _fresh_memory_s(shape, device),
        "between_steps": steps * STEP_OVERHEAD_S
        + rows * (BATCH_OVERHEAD_S_PER_ROW + padded_tokens * BATCH_OVERHEAD_S_PER_TOKEN),
        "saving": SAVING_S + _writing_s(shape.saved_bytes, device),
    }


def fitting_seconds(rows: int, weights: int) -> float:
    """Importing scikit-learn, and fitting a classifier with cross-validation.

    Args:
        rows: To fit to.
        weights: Of the classifier: classes x width.
    """
    return FITTING_IMPORT_S + FITTING_S_PER_ROW_AND_WEIGHT * rows * weights


def data_seconds(data: DataProfile) -> float:
    """The tokenizer; reading, splitting and tokenising all rows."""
    reading_s = data.reading_s if data.reading_s is not None else READING_S
    per_row_s = data.tokenizing_s_per_row if data.tokenizing_s_per_row is not None else TOKENIZING_S_PER_ROW
    return TOKENIZER_S + reading_s + (data.train_rows + data.eval_rows) * per_row_s


def checkpoint_count(compute_s: float, epochs: int, checkpoint_s: float) -> int:
    """One at the end of every epoch, and within one whenever ``SAVE_EVERY_S`` have passed since the last."""
    interval_s = max(SAVE_EVERY_S, checkpoint_s / SAVING_SHARE)
    return epochs * (1 + math.floor(compute_s / max(epochs, 1) / interval_s))


def _writing_s(size_bytes: int, device: DeviceProfile) -> float:
    burst = _rate(device, "storage", STORAGE_BYTES_PER_S)
    lasting = _rate(device, "storage_large", burst)
    return min(size_bytes, BURST_BYTES) / burst + max(0, size_bytes - BURST_BYTES) / lasting


def _fresh_memory_s(shape: RunShape, device: DeviceProfile) -> float:
    if not backend_of(device).is_host:
        return 0.0
    return shape.fresh_bytes / _rate(device, "first_touch", FIRST_TOUCH_BYTES_PER_S)


def _rate(device: DeviceProfile, key: str, otherwise: float) -> float:
    return device.bytes_per_s[key].value if key in device.bytes_per_s else otherwise


def _loading_s(shape: RunShape, device: DeviceProfile) -> float:
    overhead = backend_of(device).overhead
    packed_bytes = shape.quantized_parameters * overhead.packed_item_bytes
    packing_s = packed_bytes / _rate(device, PACKING, overhead.packed_bytes_per_s)
    return BUILDING_S + shape.weights_bytes / LOADED_BYTES_PER_S + packing_s
