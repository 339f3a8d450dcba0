"""The verified training run: stock Trainer, held-out metrics, checkpoints that survive a kill, a reloadable result."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from advisor.core.plan import Plan
from advisor.core.run import SAVE_EVERY_S, Measurement
from advisor.core.store import ensure_writable_dir
from advisor.hardware.cpu_process import prepare_process
from advisor.strategies import get_strategy
from advisor.strategies.sparsity import achieved_sparsity
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer, count_parameters
from advisor.training.build import build_model
from advisor.training.callbacks import NeutralEvaluation, OnEvent, ProgressEvents, StepClock
from advisor.training.checkpoints import (
    CheckpointKeeper,
    discard_incomplete,
    newest_complete,
    read_samples,
    step_of,
)
from advisor.training.compilation import compile_problem
from advisor.training.data import PreparedData, prepare_data
from advisor.training.metrics import held_out_metrics
from advisor.training.models import load_tokenizer
from advisor.training.parts import Stopwatch, run_parts
from advisor.training.placement import device_type_of, disk_bytes
from advisor.training.run_folder import RunFolder
from advisor.training.stopping import StopRun, StopSwitch
from advisor.training.switches import check_execution

LOGGED_LOSSES = 200
"""About how many losses of a run are logged; each is the mean over the steps since the one before."""


def train(
    plan: Plan,
    output_dir: Path,
    *,
    resume: bool = False,
    on_event: OnEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Measurement:
    """Train, evaluate and save one plan in this process.

    Resuming repeats the interrupted run: same data order, same random numbers, same optimizer states. Only the masks of
    masked language modelling are drawn anew for the first batch after the checkpoint.

    Args:
        plan: What to run.
        output_dir: Empty, or with ``resume`` the folder of the same plan's earlier run.
        resume: Continue an earlier run of the plan; a finished one is not run again.
        on_event: Receives ``phase``, ``step``, ``evaluation`` and ``metrics`` events.
        time_limit_s: No step is begun after this long; the run then ends ``over_time`` with a checkpoint.
        save_every_s: About how often a checkpoint is written.

    Returns:
        What was measured; its outcome is ``completed``, ``interrupted`` or ``over_time``.

    Raises:
        InputError: the plan cannot be run here, or the output folder cannot be used.
        KeyboardInterrupt: a second Ctrl-C, or one before the first step.
    """
    folder = RunFolder(Path(output_dir))
    folder.claim(plan, resume=resume)
    if (finished := folder.finished()) is not None:
        return finished
    deadline_s = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
    run = _Run(plan, folder, on_event or _ignore, StopSwitch(deadline_s), save_every_s)
    with run.switch.catching_interrupts():
        measurement = run.execute()
    if measurement.outcome == "completed":
        folder.keep(measurement)
    return measurement


@dataclass
class _Run:
    """One training run in progress."""

    plan: Plan
    folder: RunFolder
    on_event: OnEvent
    switch: StopSwitch
    save_every_s: float
    began_s: float = field(default_factory=time.perf_counter)
    clock: StepClock = field(default_factory=lambda: StepClock(waiting=False))
    times_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("data", "loading", "set_up", "training", "preparing", "saving"), 0.0)
    )
    restored_steps: int = 0
    earlier_s: float = 0.0
    counts: tuple[int, int] = (0, 0)
    sparsity: float | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        self.execution = self.plan.execution
        self.progress = ProgressEvents(self.on_event)
        self.keeper = CheckpointKeeper(self.folder.checkpoints, self._samples, save_every_s=self.save_every_s)

    def execute(self) -> Measurement:
        self._find_checkpoint()
        try:
            data, tokenizer, model = self._load()
            trainer = self._assemble(data, tokenizer, model)
            self._train(trainer)
            metrics = self._final_metrics(trainer)
            self._save(model, tokenizer)
        except StopRun as stop:
            return self._measurement(stop.reason, {})
        return self._measurement("completed", metrics)

    def _load(self) -> tuple[PreparedData, Any, nn.Module]:
        plan, started_s = self.plan, time.perf_counter()
        self._phase("loading")
        device_type = device_type_of(plan)
        prepare_process(device_type, plan.execution.num_threads)
        self._try_compilation(device_type)
        tokenizer = load_tokenizer(plan.model)
        data = prepare_data(plan.data, plan.model, tokenizer, max_seq_length=plan.execution.max_seq_length)
        self.times_s["data"] = time.perf_counter() - started_s
        self.switch.check()
        set_seed(plan.seed)
        model = build_model(plan.model, plan.strategy, self.execution, device=device_type)
        self.counts = count_parameters(model)
        ensure_writable_dir(self.folder.path, needed_bytes=disk_bytes(model))
        _name_classes(model, data.label_names)
        self.switch.check()
        self.times_s["loading"] = time.perf_counter() - started_s - self.times_s["data"]
        return data, tokenizer, model

    def _assemble(self, data: PreparedData, tokenizer: Any, model: nn.Module) -> Trainer:
        plan, started_s = self.plan, time.perf_counter()
        steps_per_epoch = math.ceil(len(data.train_dataset) / plan.execution.effective_batch_size)
        arguments = training_arguments(
            plan.strategy,
            self.execution,
            self.folder.checkpoints,
            seed=plan.seed,
            device_type=device_type_of(plan),
            evaluation="epoch",
            logging_steps=max(1, round(steps_per_epoch * plan.strategy.num_train_epochs) // LOGGED_LOSSES),
        )
        callbacks: list[TrainerCallback] = [
            *get_strategy(plan.strategy.method).callbacks(plan.strategy),
            self.clock,
            NeutralEvaluation(),
            self.progress,
            self.switch,
            self.keeper,  # after the switch: it saves what the switch stops
        ]
        trainer = assemble_trainer(
            model,
            arguments,
            plan.model.task,
            train_dataset=data.train_dataset,
            eval_dataset=data.eval_dataset,
            collator=data.collator,
            callbacks=callbacks,
            tokenizer=tokenizer,
            strategy=plan.strategy,
            execution=self.execution,
        )
        self.times_s["set_up"] = time.perf_counter() - started_s
        return trainer

    def _try_compilation(self, device_type: str) -> None:
        """A plan that asks for compilation is trained without it where this machine's compiler fails."""
        if not self.execution.torch_compile:
            return
        check_execution(self.plan.model, self.plan.strategy, self.execution, device_type=device_type, traced=False)
        problem = compile_problem(device_type)
        if problem is not None:
            self.on_event(
                {"kind": "note", "text": f"torch.compile does not work here, training goes on without: {problem}"}
            )
            self.execution = dataclasses.replace(self.execution, torch_compile=False)

    def _find_checkpoint(self) -> None:
        self.folder.checkpoints.mkdir(exist_ok=True)
        discard_incomplete(self.folder.checkpoints)
        self.checkpoint = newest_complete(self.folder.checkpoints)
        if self.checkpoint is not None:
            self._restore(read_samples(self.checkpoint))
            self.on_event({"kind": "resumed", "step": step_of(self.checkpoint)})

    def _train(self, trainer: Trainer) -> None:
        self._phase("training")
        started_s = time.perf_counter()
        try:
            trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        finally:
            ended_s = time.perf_counter()
            self.times_s["training"] = ended_s - started_s
            self.times_s["preparing"] = (self.clock.first_began_s or ended_s) - started_s
        if self.switch.reason is not None and trainer.state.global_step < trainer.state.max_steps:
            raise StopRun(self.switch.reason)

    def _final_metrics(self, trainer: Trainer) -> dict[str, float]:
        """Those of the last epoch's evaluation; evaluated again only when the run was resumed after training had
        ended.
        """
        history = self.progress.metric_history
        if history and history[-1][0] == trainer.state.global_step:
            return history[-1][1]
        self._phase("evaluation")
        return held_out_metrics(trainer.evaluate())

    def _save(self, model: nn.Module, tokenizer: Any) -> None:
        """Whole or not at all: written beside, then renamed."""
        self._phase("saving")
        started_s = time.perf_counter()
        partial = self.folder.path / "model.partial"
        for left_over in (partial, self.folder.model):
            shutil.rmtree(left_over, ignore_errors=True)
        get_strategy(self.plan.strategy.method).save(model, partial)
        tokenizer.save_pretrained(partial)
        partial.rename(self.folder.model)
        if self.plan.strategy.sparsity is not None:
            self.sparsity = achieved_sparsity(model)
        self.times_s["saving"] += time.perf_counter() - started_s

    def _phase(self, name: str) -> None:
        self.on_event({"kind": "phase", "name": name})

    def _samples(self) -> dict[str, Any]:
        return {
            "step_times_s": self.clock.step_times_s,
            "train_losses": self.progress.train_losses,
            "metric_history": self.progress.metric_history,
            "elapsed_s": self.earlier_s + time.perf_counter() - self.began_s,
        }

    def _restore(self, samples: dict[str, Any]) -> None:
        self.clock.step_times_s[:] = samples["step_times_s"]
        self.restored_steps = len(self.clock.step_times_s)
        self.progress.train_losses[:] = [(step, loss) for step, loss in samples["train_losses"]]
        self.progress.metric_history[:] = [(step, metrics) for step, metrics in samples["metric_history"]]
        self.earlier_s = samples["elapsed_s"]

    def _measurement(self, outcome: Any, metrics: dict[str, float]) -> Measurement:
        evaluation_s = self.progress.evaluation_s
        done = len(self.clock.step_times_s)
        total_s = self.earlier_s + time.perf_counter() - self.began_s
        return Measurement(
            outcome=outcome,
            reason=""
            if outcome == "completed"
            else f"{STOPPED[outcome]} after {done} optimizer steps; resume to continue from there",
            step_times_s=tuple(self.clock.step_times_s),
            loading_s=self.times_s["data"] + self.times_s["loading"],
            training_s=max(0.0, self.times_s["training"] - evaluation_s - self.keeper.saving_s),
            evaluation_s=evaluation_s,
            saving_s=self.times_s["saving"] + self.keeper.saving_s,
            total_s=total_s,
            parts_s=self._parts_s(total_s),
            train_losses=tuple(self.progress.train_losses),
            metrics=metrics,
            metric_history=tuple(self.progress.metric_history),
            trainable_parameters=self.counts[0],
            total_parameters=self.counts[1],
            achieved_sparsity=self.sparsity,
        )

    def _parts_s(self, total_s: float) -> dict[str, float]:
        times_s = self.times_s
        return run_parts(
            Stopwatch(
                total_s=total_s,
                earlier_s=self.earlier_s,
                data_s=times_s["data"],
                loading_s=times_s["loading"],
                set_up_s=times_s["set_up"] + times_s["preparing"],
                trainer_s=times_s["training"],
                preparing_s=times_s["preparing"],
                step_times_s=self.clock.step_times_s[self.restored_steps :],
                evaluation_s=self.progress.evaluation_s,
                checkpoints_s=self.keeper.saving_s,
                saving_s=times_s["saving"],
            )
        )


STOPPED = {"interrupted": "stopped by Ctrl-C", "over_time": "the time limit was reached"}


def _name_classes(model: nn.Module, label_names: tuple[str, ...]) -> None:
    """So that the saved model answers with the user's labels instead of ``LABEL_0``."""
    config = getattr(model, "config", None)
    if label_names and config is not None and len(label_names) == getattr(config, "num_labels", 0):
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}


def _ignore(event: dict[str, Any]) -> None:
    pass
