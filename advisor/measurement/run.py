"""One measured run of a plan: a profiled step, then the training itself, each in a process of its own."""

from __future__ import annotations

import dataclasses
import errno
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import set_seed

from advisor.core.errors import OutputError
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import write_text_atomically
from advisor.measurement.isolation import ADVICE, Result, isolated
from advisor.measurement.resident import peak_resident_bytes, resident_bytes
from advisor.measurement.step_profile import ProfiledStep, StepProfiler
from advisor.strategies import get_strategy
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer
from advisor.training.build import build_model
from advisor.training.checkpoints import SAVE_EVERY_S
from advisor.training.data import PreparedData, prepare_data
from advisor.training.models import load_tokenizer
from advisor.training.run_folder import RunFolder
from advisor.training.trainer import device_type_of, train

OnEvent = Callable[[dict[str, Any]], None]

GRACE_SHARE = 0.1
LEAST_GRACE_S = 60.0
"""A run stops itself at its time limit, after the step it is in; if it does not within this long, it is killed."""

SAMPLING_S = 0.05
"""How often the device's memory figure of the training process is read (CUDA; on CPU the kernel keeps the peak itself)."""


def measure_run(
    plan: Plan,
    output_dir: Path,
    *,
    resume: bool = False,
    on_event: OnEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
    profile: bool = True,
) -> Measurement:
    """Run a plan and measure it.

    On CPU the allocated peak comes from a separate process that trains two optimizer steps on the longest batch, so that the
    profiler neither slows the real run nor adds to its resident set.

    Args:
        output_dir: Empty, or with ``resume`` the folder of the same plan's earlier run.
        on_event: Receives ``phase``, ``step``, ``evaluation`` and ``metrics`` events.
        time_limit_s: Of the training process; the checkpoint of what was done is kept.
        profile: Measure the allocated peak on CPU, too.

    Returns:
        The figures; ``outcome`` says how the run ended, ``reason`` why and what to do about it.

    Raises:
        InputError: the plan cannot be run here, or the output folder is occupied, read-only or full.
    """
    folder = RunFolder(Path(output_dir))
    folder.claim(plan, resume=resume)
    if (finished := folder.finished()) is not None:
        return finished
    profiled = _profiled_step(plan, folder, on_event or _ignore) if profile else None
    if isinstance(profiled, Measurement):
        return profiled
    result = isolated(
        run_in_this_process,
        plan,
        folder.path,
        time_limit_s=time_limit_s,
        save_every_s=save_every_s,
        on_event=on_event or _ignore,
        timeout_s=None if time_limit_s is None else time_limit_s + max(LEAST_GRACE_S, GRACE_SHARE * time_limit_s),
        log_path=folder.log,
    )
    measurement = _as_measurement(result, folder)
    if profiled is not None and measurement.allocated_peak_bytes is None:
        measurement = dataclasses.replace(measurement, allocated_peak_bytes=profiled.peak_bytes)
    folder.keep(measurement)
    return measurement


def run_in_this_process(
    plan: Plan,
    output_dir: Path,
    *,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
    on_event: OnEvent | None = None,
) -> Measurement:
    """Train the plan here and add this process's memory figures; meant for a process that does nothing else."""
    device_type = device_type_of(plan)
    baseline_bytes = resident_bytes()
    if device_type == "cpu":
        measurement = _train(plan, output_dir, time_limit_s, save_every_s, on_event)
        return dataclasses.replace(measurement, device_peak_bytes=peak_resident_bytes(), baseline_bytes=baseline_bytes)
    torch.cuda.reset_peak_memory_stats()
    with DeviceMemoryWatch() as watch:
        measurement = _train(plan, output_dir, time_limit_s, save_every_s, on_event)
    return dataclasses.replace(
        measurement,
        allocated_peak_bytes=torch.cuda.max_memory_allocated(),
        reserved_peak_bytes=torch.cuda.max_memory_reserved(),
        device_peak_bytes=watch.peak_bytes,
        baseline_bytes=watch.first_bytes,
    )


def profile_longest_batch(plan: Plan) -> ProfiledStep:
    """Two optimizer steps of the plan on its longest batch, the second one under the memory profiler."""
    if plan.execution.num_threads is not None:
        torch.set_num_threads(plan.execution.num_threads)
    data = prepare_data(
        plan.data, plan.model, load_tokenizer(plan.model), max_seq_length=plan.execution.max_seq_length
    )
    worst = _WorstRows(data, plan.execution.micro_batch_size, 3 * plan.execution.gradient_accumulation_steps)
    profiler = StepProfiler(at_step=2)
    set_seed(plan.seed)
    model = build_model(plan.model, plan.strategy, plan.execution, device=device_type_of(plan))
    with tempfile.TemporaryDirectory(prefix="advisor-profile-") as scratch:
        arguments = training_arguments(plan.strategy, plan.execution, scratch, seed=plan.seed, max_steps=2, logging_steps=3)
        trainer = assemble_trainer(
            model,
            arguments,
            plan.model.task,
            train_dataset=worst,
            collator=worst.collate,
            callbacks=[*get_strategy(plan.strategy.method).callbacks(plan.strategy), profiler],
        )
        trainer.train()
    if profiler.result is None:
        raise RuntimeError("the Trainer ended before the profiled step")
    return profiler.result


class _WorstRows(Dataset[int]):
    """Micro-batches as wide as the data's longest row, each with one such row and, where there are any, shorter ones.

    Since rows are shuffled, every epoch has such a batch. The shorter rows bring the padding that decides whether an attention
    mask is built; only the shape matters to memory besides.
    """

    def __init__(self, data: PreparedData, rows: int, batches: int) -> None:
        order = np.argsort(-np.asarray(data.train_dataset.lengths), kind="stable")
        chosen = [int(order[0]), *(int(order[-1 - index % len(order)]) for index in range(rows - 1))]
        self._features = [data.train_dataset[index] for index in chosen]
        self._collator = data.collator
        self._length = rows * batches

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        return self._collator(self._features[: len(rows)])


class DeviceMemoryWatch:
    """Samples what the driver says this process holds on its GPU.

    Attributes:
        first_bytes: The first figure, with the CUDA context and little else.
        peak_bytes: The largest one; ``None`` when the driver does not say.
    """

    def __init__(self) -> None:
        self.first_bytes: int | None = None
        self.peak_bytes: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> DeviceMemoryWatch:
        torch.zeros(1, device="cuda")  # makes the context, so that the first figure is the context
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        from advisor.hardware.nvml import process_memory_bytes

        while not self._done.wait(SAMPLING_S):
            held_bytes = process_memory_bytes(os.getpid())
            if held_bytes is None:
                return
            self.first_bytes = self.first_bytes or held_bytes
            self.peak_bytes = max(self.peak_bytes or 0, held_bytes)


def _train(
    plan: Plan, output_dir: Path, time_limit_s: float | None, save_every_s: float, on_event: OnEvent | None
) -> Measurement:
    """``train``, with a full disk told apart from a defect."""
    try:
        return train(
            plan, output_dir, resume=True, on_event=on_event, time_limit_s=time_limit_s, save_every_s=save_every_s
        )
    except Exception as failure:
        if _is_full_disk(failure):
            raise OutputError(
                f"{output_dir} must take the run's files, but writing failed: {str(failure).splitlines()[0]}",
                fix="free some space and continue with --resume",
            ) from failure
        raise


FULL_DISK_PHRASES = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos",  # the same writer, when a write came back short
)


def _is_full_disk(failure: Exception) -> bool:
    """``torch.save`` and safetensors wrap the operating system's error in types and words of their own."""
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return True
    text = str(failure)
    return any(phrase in text for phrase in FULL_DISK_PHRASES)


def _profiled_step(plan: Plan, folder: RunFolder, on_event: OnEvent) -> ProfiledStep | Measurement | None:
    """The profiled step (CPU), from an earlier start of this run if there is one; a Measurement when it ended the run."""
    if device_type_of(plan) != "cpu":
        return None
    if folder.step_profile.exists():
        return from_dict(ProfiledStep, read_json(folder.step_profile, what="the step profile"), what=str(folder.step_profile))
    on_event({"kind": "phase", "name": "profiling"})
    result = isolated(profile_longest_batch, plan, log_path=folder.log)
    if result.value is not None:
        write_text_atomically(folder.step_profile, to_json(result.value))
        return result.value
    if result.error is not None:
        raise result.error
    return _as_measurement(result, folder)


def _as_measurement(result: Result[Any], folder: RunFolder) -> Measurement:
    """An isolated run's end as figures. Expected failures of the input are raised, as they would be without isolation."""
    if result.error is not None:
        raise result.error
    if isinstance(result.value, Measurement):
        return result.value
    advice = f"see {folder.log}" if result.outcome == "failed" else ADVICE[result.outcome]
    return Measurement(outcome=result.outcome, reason=f"{result.reason}; {advice}", total_s=result.wall_s)


def _ignore(event: dict[str, Any]) -> None:
    pass
