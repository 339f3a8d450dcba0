"""The Trainer's loop around one optimizer step and one evaluation pass, on fake tensors.

As ``transformers.Trainer`` and accelerate drive it: forward in autocast, outputs converted to float32 and dropped, loss
divided by the accumulation steps unless the model scales it itself, backward (of the scaled loss under fp16), gradients
un-scaled, norm and clipping, optimizer, gradients dropped. The plan's switches for other loops change exactly these
places.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils.operations import convert_to_fp32

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.tracing.environment import patched
from advisor.tracing.fake_peft import kept_tensors
from advisor.tracing.recorder import StepRecorder
from advisor.training.loss import fused_evaluation
from advisor.training.optimizer import create_optimizer
from advisor.training.switches import AMP_DTYPES, autocast

Batch = dict[str, torch.Tensor]
ADAPTER = "default"
"""PEFT's name of the only adapter."""


class TracedLoop:
    """Steps one built fake model.

    Args:
        model: As ``build_model`` makes it.
        strategy: Clipping and the optimizer's options.
        execution: All switches; batch sizes lie in the batches.
        device_type: Of the model's fake tensors.
        unreached: Positions in ``trainable`` of parameters that no gradient reaches: they never get optimizer states.
        loss_function: The task's own, as ``Trainer(compute_loss_func=...)``.

    Attributes:
        optimizer: Its states exist from the beginning: the recorded step is not the first one.
        trainable: What the optimizer updates.
        unreached: As the last step's backward pass found them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        device_type: str,
        unreached: frozenset[int] = frozenset(),
        loss_function: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        self.model, self.execution, self.device_type = model, execution, device_type
        self.max_grad_norm = strategy.max_grad_norm
        self.optimizer = create_optimizer(model, strategy, execution)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.unreached = unreached
        self.scaler = _scaler(execution, device_type)
        self._loss_function = loss_function
        self._scaled_by_model = accepts_loss_kwargs(model)
        self._make_steady()

    def _make_steady(self) -> None:
        """One unrecorded update makes the optimizer's states, and the gradients that are only zeroed between steps."""
        for position, parameter in enumerate(self.trainable):
            if position not in self.unreached:
                parameter.grad = torch.empty_like(parameter)
        with _optimizer_device(self.device_type):
            self.optimizer.step()
        self.model.zero_grad(set_to_none=self.execution.zero_grad_set_to_none)
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=self.device_type))

    def gradients(self) -> Iterator[torch.Tensor]:
        """Gradients that exist now."""
        return (p.grad for p in self.trainable if p.grad is not None)

    def step(self, batches: list[Batch], recorder: StepRecorder) -> None:
        """One optimizer step; ``batches`` hold its micro-batches first, then what the loader has ready."""
        # With accumulation the second micro-batch is the expensive one: gradients are already there.
        micro_batches = 2 if self.execution.gradient_accumulation_steps > 1 else 1
        total_loss = None
        for index in range(micro_batches):
            first = "" if index == micro_batches - 1 else "first_"
            recorder.phase = f"{first}forward"
            loss, held = self.forward_loss(batches[index])
            recorder.phase = f"{first}backward"
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            for gradient in self.gradients():
                recorder.label(gradient, "gradient")
            detached = loss.detach()
            del loss, held
            torch.isnan(detached)
            total_loss = detached if total_loss is None else total_loss + detached
        self.unreached = frozenset(position for position, p in enumerate(self.trainable) if p.grad is None)
        recorder.phase = "optimizer"
        self.update()
        torch.clear_autocast_cache()

    def evaluate(self, batch: Batch, recorder: StepRecorder) -> None:
        """A forward pass in evaluation mode."""
        recorder.phase = "evaluation"
        self.model.eval()
        with torch.no_grad(), fused_evaluation(self.model):
            self.forward_loss(batch)
        self.model.train()

    def forward_loss(self, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The loss to run backward from, and what the loop keeps of the outputs until then."""
        extra = {"num_items_in_batch": 1.0} if self._scaled_by_model else {}
        labels = batch["labels"]
        if self._loss_function is not None:
            batch = {name: values for name, values in batch.items() if name != "labels"}
        with autocast(self.execution, self.device_type):
            outputs = self.model(**batch, **extra)
        if self.execution.amp in AMP_DTYPES:
            outputs = convert_to_fp32(outputs)
        if self._loss_function is not None:
            scaled = self._loss_function(outputs, labels, num_items_in_batch=1.0)
        else:
            # The name keeps the model's own loss until the outputs are gone, as the Trainer's does.
            loss = outputs["loss"]
            scaled = loss if self._scaled_by_model else loss / self.execution.gradient_accumulation_steps
        return scaled, (outputs if self.execution.hold_outputs else None)

    def update(self) -> None:
        """Clip, step, and drop the gradients."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        # Without clipping the Trainer still takes the norm, to log it.
        torch.nn.utils.clip_grad_norm_(self.trainable, self.max_grad_norm or float("inf"))
        with _optimizer_device(self.device_type):
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        self.model.zero_grad(set_to_none=self.execution.zero_grad_set_to_none)


class _FiniteScaler(torch.amp.GradScaler):
    """torch's gradient scaler on gradients that are all finite: no step is skipped."""

    def _maybe_opt_step(
        self, optimizer: torch.optim.Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> float | None:
        return optimizer.step(*args, **kwargs)


def _scaler(execution: ExecutionPlan, device_type: str) -> torch.amp.GradScaler | None:
    """As accelerate makes it: fp16 mixed precision is the only one that scales."""
    return _FiniteScaler(device_type) if execution.amp == "fp16" else None


@contextlib.contextmanager
def _optimizer_device(device_type: str) -> Iterator[None]:
    """PEFT's LoRA-FA asks which accelerator this machine has; it shall hear of the traced one."""
    try:
        import peft.optimizers.lorafa as lorafa
    except ImportError:
        yield
        return
    with patched(lorafa, "infer_device", lambda: device_type):
        yield


def accepts_loss_kwargs(model: torch.nn.Module) -> bool:
    """As ``Trainer.model_accepts_loss_kwargs``: such models divide the loss by the whole batch's items themselves."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters)


# --------------------
# Tensors that outlive a step: weights, quantisation statistics, optimizer states.


def in_order_of_creation(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """A model's own parameters, then those of an adapter and its copies of whole modules, which came later.

    PEFT keeps what it adds in dictionaries by the adapter's name.
    """
    named = [(ADAPTER in name.split("."), parameter) for name, parameter in model.named_parameters()]
    return [parameter for _, parameter in sorted(named, key=lambda pair: pair[0])]


def frozen_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters that do not train, buffers, what PEFT's layers keep beside them, and statistics of 4-bit weights."""
    tensors = [p for p in model.parameters() if not p.requires_grad]
    tensors.extend(model.buffers())
    tensors.extend(kept_tensors(model))
    for parameter in list(tensors):
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors.extend(_quantization_tensors(state))
    return tensors


def _quantization_tensors(state: Any) -> list[torch.Tensor]:
    nested = state.state2
    candidates = [state.absmax, state.code, state.offset]
    if nested is not None:
        candidates += [nested.absmax, nested.code]
    return [t for t in candidates if isinstance(t, torch.Tensor)]


def state_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What the optimizer keeps between steps."""
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]


def logical_parameters(model: torch.nn.Module) -> int:
    """Parameters of the model, 4-bit weights at their unpacked size."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()
    return total
