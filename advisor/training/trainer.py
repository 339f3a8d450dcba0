"""The verified training run: stock Trainer, held-out metrics, checkpoints that survive a kill, a reloadable result."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from advisor.core.events import Event
from advisor.core.metrics import LOSS
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import SAVE_EVERY_S, Measurement
from advisor.core.store import ensure_writable_dir
from advisor.hardware.backends import Backend
from advisor.strategies import get_strategy
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer, count_parameters, disk_bytes
from advisor.training.best_checkpoint import BestCheckpoint, EvaluationSchedule
from advisor.training.build import build_model
from advisor.training.callbacks import NeutralEvaluation, OnEvent
from advisor.training.checkpoints import (
    CheckpointKeeper,
    discard_incomplete,
    newest_complete,
    read_samples,
    step_of,
)
from advisor.training.compilation import compile_problem, described, forget_compiled_code, raised_by_compiled_code
from advisor.training.data import PreparedData, prepare_data
from advisor.training.data.encoding import EncodedDataset
from advisor.training.data.packing import require_separation
from advisor.training.kept_prefix import NumberedRows, NumberingCollator, kept_prefix, kept_prefix_trainer
from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.models import load_tokenizer
from advisor.training.run_folder import RunFolder, name_classes
from advisor.training.run_samples import FetchedRows, RunSamples
from advisor.training.sampling import OrderingTrainer, evaluation_order
from advisor.training.stopping import StopRun, StopSwitch, catching_interrupts
from advisor.training.switches import autocast, backend_of_plan, check_execution
from advisor.training.tasks import get_task
from advisor.training.wall_clock import RunAccount

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
        What was measured; its outcome is ``completed``, ``diverged``, ``interrupted`` or ``over_time``.

    Raises:
        InputError: the plan cannot be run here, or the output folder cannot be used.
        KeyboardInterrupt: a second Ctrl-C, or one before the first step.
    """
    folder = RunFolder(Path(output_dir))
    measurement, trained = train_only(
        plan, folder.path, resume=resume, on_event=on_event, time_limit_s=time_limit_s, save_every_s=save_every_s
    )
    measurement = with_final_metrics(measurement, trained)
    if measurement.outcome == "completed":
        folder.keep(measurement)
    return measurement


def train_only(
    plan: Plan,
    output_dir: Path,
    *,
    resume: bool = False,
    on_event: OnEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> tuple[Measurement, TrainedRun]:
    """``train`` without what is computed afterwards, and what it is computed from.

    For whoever measures this process: computing metrics imports scikit-learn.
    """
    folder, trained = RunFolder(Path(output_dir)), TrainedRun(HeldOut(get_task(plan.model.task)))
    folder.claim(plan, resume=resume)
    if (finished := folder.finished()) is not None:
        return finished, trained
    switch = StopSwitch(math.inf if time_limit_s is None else time.monotonic() + time_limit_s)
    with catching_interrupts(switch):
        if get_strategy(plan.strategy.method).fits_frozen_features:
            from advisor.training.linear_probe.run import ProbeRun

            probe = ProbeRun(plan, folder, on_event or _ignore, switch, trained.held_out)
            measurement = probe.execute()
            trained.data, trained.tokenizer = probe.data, probe.tokenizer
            return measurement, trained
        run = TrainingRun(plan, plan.execution, folder, on_event or _ignore, switch, save_every_s, trained)
        return _executed(run), trained


@dataclass
class TrainedRun:
    """What a finished run leaves in its process.

    Attributes:
        held_out: Remembers the last evaluation.
        tokenizer, data: As they were trained with; ``None`` for a run that had finished before.
        model: As it was trained; ``None`` where features of a frozen one were fitted.
        samples: Of the steps of this process.
    """

    held_out: HeldOut
    model: Any = None
    tokenizer: Any = None
    data: PreparedData | None = None
    samples: RunSamples | None = None


def with_final_metrics(measurement: Measurement, trained: TrainedRun) -> Measurement:
    """A completed run with the metrics that are computed afterwards."""
    if measurement.outcome != "completed":
        return measurement
    figures = trained.held_out.final_metrics(trained.tokenizer)
    return dataclasses.replace(measurement, metrics={**measurement.metrics, **figures})


def _executed(run: TrainingRun) -> Measurement:
    """The run as planned; where its compiled model fails, once more with the model as it is written.

    Compilation promises the same numbers, faster, so nothing is lost by going without. An error that is the model's own
    comes back from the second attempt, and is raised from there.
    """
    try:
        return run.execute()
    except Exception as failure:
        if not (run.execution.torch_compile and raised_by_compiled_code(failure)):
            raise
        problem = described(failure)
        logging.getLogger(__name__).warning("the compiled model fails", exc_info=True)
    # Only here: while the exception lives, so do the model and its optimizer.
    forget_compiled_code(backend_of_plan(run.plan).runtime)
    return run.uncompiled(f"the compiled model fails, training continues without torch.compile: {problem}").execute()


@dataclass
class TrainingRun:
    """One attempt at a training run."""

    plan: Plan
    execution: ExecutionPlan
    folder: RunFolder
    on_event: OnEvent
    switch: StopSwitch
    save_every_s: float
    trained: TrainedRun
    earlier_s: float = 0.0

    def __post_init__(self) -> None:
        self.account = RunAccount(self.on_event, earlier_s=self.earlier_s)
        self.keeper = CheckpointKeeper(self.folder.checkpoints, self.account.samples, save_every_s=self.save_every_s)
        self.best: BestCheckpoint | None = None
        if self.plan.strategy.load_best_model_at_end:
            metric, patience = self.plan.model.traits.metric, self.plan.strategy.early_stopping_patience
            history = self.account.progress.metric_history
            self.best = BestCheckpoint(self.folder.checkpoints, metric, history, patience)

    def execute(self) -> Measurement:
        """From the newest checkpoint, or from the beginning where there is none."""
        checkpoint = self._newest_checkpoint()
        try:
            data, tokenizer, model = self._load()
            trainer = self._assemble(data, tokenizer, model)
            self._train(trainer, checkpoint)
            metrics = self._final_metrics(trainer)
            if LOSS.name not in metrics:
                raise StopRun("diverged")
            metrics = self._with_best_model(trainer, metrics)
            if self.execution.keep_features:
                kept_prefix(model).restore()
            self._save(model, tokenizer)
            self.trained.model, self.trained.tokenizer, self.trained.data = model, tokenizer, data
        except StopRun as stop:
            return self.account.stopped(stop.reason, checkpoints_s=self.keeper.saving_s)
        return self.account.completed(metrics, checkpoints_s=self.keeper.saving_s)

    def uncompiled(self, why: str) -> TrainingRun:
        """Another attempt at the same run, that does not compile the model."""
        self._note(why)
        execution = dataclasses.replace(self.execution, torch_compile=False)
        return dataclasses.replace(self, execution=execution, earlier_s=self.account.elapsed_s)

    def _load(self) -> tuple[PreparedData, Any, nn.Module]:
        plan, backend = self.plan, backend_of_plan(self.plan)
        self.switch.check()
        self._phase("loading")
        with self.account.timing("data"):
            backend.runtime.prepare_for(plan.execution)
            self._try_compilation(backend)
            data, tokenizer = self._read_data()
        self.switch.check()
        with self.account.timing("loading"):
            set_seed(plan.seed)
            model = self._build(backend.torch_device)
            self.account.parameters = count_parameters(model)
            if plan.data.separate_documents:
                require_separation(model, data.train_dataset[0]["input_ids"], plan.model.source)
            ensure_writable_dir(self.folder.path, needed_bytes=disk_bytes(model, plan.strategy))
            name_classes(model, data.label_names)
            self.trained.held_out.name_labels(data.label_names)
        self.switch.check()
        return data, tokenizer, model

    def _read_data(self) -> tuple[PreparedData, Any]:
        """Rows and tokenizer."""
        tokenizer = load_tokenizer(self.plan.model)
        length = self.plan.execution.max_seq_length
        return prepare_data(self.plan.data, self.plan.model, tokenizer, max_seq_length=length), tokenizer

    def _build(self, device: str) -> nn.Module:
        """The model to train; the seed is set."""
        return build_model(self.plan.model, self.plan.strategy, self.execution, device=device)

    def _trainer_class(self, model: nn.Module) -> Callable[..., Trainer]:
        """What trains it."""
        return kept_prefix_trainer(model) if self.execution.keep_features else OrderingTrainer

    def _keep_features(self, model: nn.Module, data: PreparedData) -> None:
        """Before training: every row through the frozen layers, once."""
        backend = backend_of_plan(self.plan)
        self._phase("features of the frozen layers")
        with self.account.timing("features"):
            kept_prefix(model).compute(
                (data.train_dataset, data.eval_dataset),
                data.collator,
                self.folder.path / "features.partial",
                device=backend.torch_device,
                batch_rows=self.execution.evaluation_batch_size,
                precision=lambda: autocast(self.execution, backend.name),
                check=self.switch.check,
            )

    def _assemble(self, data: PreparedData, tokenizer: Any, model: nn.Module) -> Trainer:
        plan = self.plan
        steps_per_epoch = math.ceil(len(data.train_dataset) / plan.execution.effective_batch_size)
        fetched = FetchedRows(data.train_dataset)
        rows: Any = fetched
        eval_rows: Any = data.eval_dataset
        collator: Any = data.collator
        if self.execution.keep_features:
            self._keep_features(model, data)
            rows, eval_rows = NumberedRows(rows, 0), NumberedRows(eval_rows, len(rows))
            collator = NumberingCollator(collator)
        self.trained.samples = RunSamples(fetched, plan.execution.effective_batch_size, self._paused_s)
        callbacks: list[TrainerCallback] = [
            *get_strategy(plan.strategy.method).callbacks(plan.strategy),
            EvaluationSchedule(steps_per_epoch, plan.strategy.evaluations_per_epoch),
            self.account.clock,
            NeutralEvaluation(),
            self.account.progress,
            *([self.best] if self.best is not None else []),  # after the progress, whose figures it compares
            self.trained.samples,
            self.switch,
            self.keeper,  # after the switch: it saves what the switch stops
        ]
        weigh = plan.strategy.class_weights != "none"
        with self.account.timing("set_up"):
            arguments = training_arguments(
                plan.strategy,
                self.execution,
                self.folder.checkpoints,
                seed=plan.seed,
                device_type=backend_of_plan(plan).name,
                evaluation="epoch",
                logging_steps=max(1, round(steps_per_epoch * plan.strategy.num_train_epochs) // LOGGED_LOSSES),
            )
            trainer = assemble_trainer(
                model,
                arguments,
                plan.model.task,
                train_dataset=rows,
                eval_dataset=eval_rows,
                collator=collator,
                callbacks=callbacks,
                tokenizer=tokenizer,
                strategy=plan.strategy,
                execution=self.execution,
                held_out=self.trained.held_out,
                compute_loss_func=self._weighted_loss(data) if weigh else None,
                trainer_class=self._trainer_class(model),
            )
            self.trained.held_out.order = evaluation_order(trainer)
            return trainer

    def _weighted_loss(self, data: PreparedData) -> Callable[..., torch.Tensor]:
        model, rows = self.plan.model, data.train_dataset
        self.plan.strategy.check_task(model.traits)
        if not isinstance(rows, EncodedDataset):
            raise TypeError(f"rows with classes must be an EncodedDataset, but got {type(rows).__name__}")
        return get_task(model.task).weighted_loss_func(rows.class_labels, model.num_labels)

    def _paused_s(self) -> float:
        return self.account.progress.evaluation_s + self.keeper.saving_s

    def _try_compilation(self, backend: Backend) -> None:
        """A plan that asks for compilation is trained without it where this machine's compiler fails."""
        if not self.execution.torch_compile:
            return
        plan, place = self.plan, backend.torch_device
        check_execution(plan.model, plan.strategy, self.execution, device_type=place, traced=False)
        problem = compile_problem(place)
        if problem is not None:
            self._note(f"torch.compile does not work here, training continues without: {problem}")
            self.execution = dataclasses.replace(self.execution, torch_compile=False)

    def _newest_checkpoint(self) -> Path | None:
        """What there is to go on from; the account then knows what had been done there."""
        self.folder.checkpoints.mkdir(exist_ok=True)
        discard_incomplete(self.folder.checkpoints)
        checkpoint = newest_complete(self.folder.checkpoints)
        if checkpoint is not None:
            self.account.restore(read_samples(checkpoint))
            self.on_event({"kind": "resumed", "step": step_of(checkpoint)})
        return checkpoint

    def _train(self, trainer: Trainer, checkpoint: Path | None) -> None:
        self._phase("training")
        with self.account.timing("training"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.switch.reason is None and trainer.state.global_step < trainer.state.max_steps:
            self._note(f"stopped early after {trainer.state.global_step} of {trainer.state.max_steps} optimizer steps")
        if self.switch.reason is not None and trainer.state.global_step < trainer.state.max_steps:
            raise StopRun(self.switch.reason)

    def _final_metrics(self, trainer: Trainer) -> dict[str, float]:
        """Those of the last epoch's evaluation; evaluated again only when the run was resumed after training had
        ended.
        """
        history = self.account.progress.metric_history
        if self.trained.held_out.evaluated and history and history[-1][0] == trainer.state.global_step:
            return history[-1][1]
        self._phase("evaluation")
        return held_out_metrics(trainer.evaluate())

    def _with_best_model(self, trainer: Any, last: dict[str, float]) -> dict[str, float]:
        """The figures of the model that is saved: of the best checkpoint, loaded and evaluated once more, where the
        plan asks for it and it is not the last one anyway.
        """
        if self.best is None or self.best.best_step in (None, trainer.state.global_step):
            return last
        folder, progress = self.best.folder(), self.account.progress
        if folder is None:
            self._note("the checkpoint of the best evaluation is not there any more: the last model is kept")
            return last
        self._phase("evaluation")
        evaluations, evaluation_s = len(progress.metric_history), progress.evaluation_s
        with self.account.timing("saving"):
            trainer._load_from_checkpoint(str(folder))
            metrics = held_out_metrics(trainer.evaluate())
        # It is no evaluation along the run.
        del progress.metric_history[evaluations:]
        progress.evaluation_s = evaluation_s
        self._note(f"the model of step {self.best.best_step} is kept, the best of {evaluations} evaluations")
        return metrics

    def _save(self, model: nn.Module, tokenizer: Any) -> None:
        self._phase("saving")
        with self.account.timing("saving"):
            self.folder.save_result(self.plan.strategy, model, tokenizer)
            self.account.achieved_sparsity = get_strategy(self.plan.strategy.method).achieved_sparsity(model)

    def _phase(self, name: str) -> None:
        self.on_event({"kind": "phase", "name": name})

    def _note(self, text: str) -> None:
        self.on_event({"kind": "note", "text": text})


def _ignore(event: Event) -> None:
    pass
