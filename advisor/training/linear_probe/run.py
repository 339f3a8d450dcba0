"""A run that fits frozen features: one pass over the rows, the fit, held-out metrics, a result that loads again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, set_seed

from advisor.core.events import OnEvent
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.store import ensure_writable_dir
from advisor.hardware.backends import Backend
from advisor.strategies import get_strategy
from advisor.strategies.linear_probe import output_layer_name
from advisor.strategies.targets import backbone
from advisor.training.assembly import count_parameters
from advisor.training.build import build_model
from advisor.training.callbacks import EVENT_SPACING_S
from advisor.training.data import PreparedData, prepare_data
from advisor.training.linear_probe.feature_store import Features
from advisor.training.linear_probe.fitting import LinearHead, choose_strength, fit_head
from advisor.training.linear_probe.pooling import Pooler
from advisor.training.linear_probe.saved import ProbedEncoder, SavedFacts
from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.models import load_tokenizer
from advisor.training.run_folder import RunFolder, name_classes
from advisor.training.stopping import StopRun, StopSwitch
from advisor.training.switches import backend_of_plan
from advisor.training.wall_clock import RunAccount

SORTED_BATCHES = 50
"""Batches whose rows are sorted by length together, as the Trainer does with ``group_by_length``."""


@dataclass
class ProbeRun:
    """One run; a resumed one passes the rows through the model anew, since nothing of it is kept before the fit."""

    plan: Plan
    folder: RunFolder
    on_event: OnEvent
    switch: StopSwitch
    held_out: HeldOut

    def __post_init__(self) -> None:
        self.account = RunAccount(self.on_event)
        self.data: PreparedData | None = None
        self.tokenizer: Any = None
        self._last_sent_s = 0.0

    def execute(self) -> Measurement:
        """All of it."""
        try:
            data, tokenizer, model, backend = self._load()
            self.data, self.tokenizer = data, tokenizer
            train, evaluation = self._features(data, model, backend)
            head = self._fit(train, _labels(data.train_dataset), model)
            metrics = self._metrics(head, evaluation, _labels(data.eval_dataset))
            self._save(data, head, model, tokenizer)
        except StopRun as stop:
            return self.account.stopped(stop.reason, checkpoints_s=0.0)
        return self.account.completed(metrics, checkpoints_s=0.0)

    def _load(self) -> tuple[PreparedData, Any, nn.Module, Backend]:
        plan, backend = self.plan, backend_of_plan(self.plan)
        self.switch.check()
        self._phase("loading")
        with self.account.timing("data"):
            backend.runtime.prepare_for(plan.execution)
            tokenizer = load_tokenizer(plan.model)
            data = prepare_data(plan.data, plan.model, tokenizer, max_seq_length=plan.execution.max_seq_length)
        with self.account.timing("loading"):
            set_seed(plan.seed)
            model = build_model(plan.model, plan.strategy, plan.execution, device=backend.torch_device).eval()
            self.account.parameters = count_parameters(model)
            written_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
            ensure_writable_dir(self.folder.path, needed_bytes=written_bytes)
            name_classes(model, data.label_names)
        return data, tokenizer, model, backend

    def _features(self, data: PreparedData, model: nn.Module, backend: Backend) -> tuple[Features, Features]:
        """Of training rows, each step timed, and of held-out rows."""
        self._phase("training")
        execution, clock = self.plan.execution, self.account.clock
        pooling = get_strategy(self.plan.strategy.method).pooling(self.plan.strategy)
        with self.account.timing("training"), Pooler(model, pooling, execution, backend.torch_device) as pooler:
            steps = list(batches(data.train_dataset, execution.effective_batch_size, grouped=execution.group_by_length))
            train: list[tuple[Sequence[int], Features]] = []
            for number, chosen in enumerate(steps, start=1):
                self.switch.check()
                parts = [
                    data.collator(
                        [data.train_dataset[index] for index in chosen[start : start + execution.micro_batch_size]]
                    )
                    for start in range(0, len(chosen), execution.micro_batch_size)
                ]
                began_s = time.perf_counter()
                clock.first_began_s = clock.first_began_s or began_s
                train.append((chosen, np.concatenate([pooler(part).cpu().numpy() for part in parts])))
                clock.step_times_s.append(time.perf_counter() - began_s)
                self._tell(number, len(steps))
            began_s = time.perf_counter()
            evaluation: list[tuple[Sequence[int], Features]] = []
            for chosen in batches(data.eval_dataset, execution.evaluation_batch_size, grouped=False):
                self.switch.check()
                batch = data.collator([data.eval_dataset[index] for index in chosen])
                evaluation.append((chosen, pooler(batch).cpu().numpy()))
            self.account.progress.evaluation_s += time.perf_counter() - began_s
        return _in_order(train), _in_order(evaluation)

    def _fit(self, features: Features, labels: np.ndarray, model: nn.Module) -> LinearHead:
        self._phase("fitting")
        layer: Any = model.get_submodule(output_layer_name(model))
        with self.account.timing("fitting"):
            classes, balanced = self.plan.model.num_labels, self.plan.strategy.class_weights == "balanced"
            strength = choose_strength(features, labels, classes, balanced=balanced).strength
            bias = self._pooling != "own" or layer.bias is not None
            return fit_head(features, labels, classes, strength, bias=bias, balanced=balanced)

    def _metrics(self, head: LinearHead, features: Features, labels: np.ndarray) -> dict[str, float]:
        """As the Trainer computes them from a model's logits."""
        scores = self.held_out.reduce_logits(torch.from_numpy(head.scores(features)), torch.from_numpy(labels))
        figures = self.held_out.compute_metrics(EvalPrediction(predictions=scores.numpy(), label_ids=labels))
        metrics = held_out_metrics({f"eval_{name}": value for name, value in figures.items()})
        step = len(self.account.clock.step_times_s)
        self.account.progress.metric_history.append((step, metrics))
        self.on_event({"kind": "metrics", "step": step, "metrics": metrics})
        return metrics

    def _save(self, data: PreparedData, head: LinearHead, model: nn.Module, tokenizer: Any) -> None:
        self._phase("saving")
        with self.account.timing("saving"):
            result: Any = model
            if self._pooling == "own":
                write_head(model, head)
            else:
                facts = SavedFacts(tuple(data.label_names), data.max_seq_length)
                result = ProbedEncoder(backbone(model), head, facts)
            self.folder.save_result(self.plan.strategy, result, tokenizer)

    @property
    def _pooling(self) -> str:
        return get_strategy(self.plan.strategy.method).pooling(self.plan.strategy)

    def _tell(self, step: int, total: int) -> None:
        now_s = time.perf_counter()
        if now_s - self._last_sent_s >= EVENT_SPACING_S or step == total:
            self._last_sent_s = now_s
            self.on_event({"kind": "step", "step": step, "total": total, "loss": None})

    def _phase(self, name: str) -> None:
        self.on_event({"kind": "phase", "name": name})


def write_head(model: nn.Module, head: LinearHead) -> None:
    """Make a fitted classifier the model's output layer."""
    layer: Any = model.get_submodule(output_layer_name(model))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(head.bias))


def batches(dataset: Any, rows: int, *, grouped: bool) -> Iterator[Sequence[int]]:
    """Positions of the rows of every batch; grouped, rows of similar length share one."""
    lengths, size = np.asarray(dataset.lengths), SORTED_BATCHES * rows
    order = np.arange(len(lengths))
    if grouped:
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    for start in range(0, len(order), rows):
        yield order[start : start + rows].tolist()


def _in_order(parts: Sequence[tuple[Sequence[int], Features]]) -> Features:
    order = np.concatenate([np.asarray(chosen) for chosen, _ in parts])
    found: Features = np.concatenate([values for _, values in parts])[np.argsort(order)]
    return found


def _labels(dataset: Any) -> np.ndarray:
    return np.array([dataset[index]["labels"] for index in range(len(dataset))], dtype=np.int64)
