"""Traces a step of TRL's ``DPOTrainer`` (``advisor.training.preference_trainer``): pairs of answers, scored by the
model that trains and by the model before training.

TRL never holds the logits of all tokens. It multiplies tiles of at most ``TILE_TOKENS`` hidden states with
``TILE_ENTRIES`` entries of the vocabulary, folds each tile into running sums, and computes the tiles once more in the
backward pass (``trl.kernels.chunked_logprob``, read in TRL 1.16). Here the same memory is held in the same order: on a
CPU with the temporary tensors of PyTorch's operators, on a GPU with kernels that work in place. All positions count as
answers; TRL's GPU kernels leave out prompts and padding.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import is_host
from advisor.tracing.recorder import StepRecorder
from advisor.tracing.training_loop import Batch, TracedLoop
from advisor.training.data.encoding import IGNORED_LABEL
from advisor.training.loss import compute_dtype
from advisor.training.preferences import BETA, frozen_copy
from advisor.training.switches import autocast

TILE_ENTRIES = 32768
"""``_CHUNKED_LOGPROB_CHUNK_SIZE`` of ``trl.trainer.utils``; buffers are that wide also for smaller vocabularies."""

Scored = tuple[torch.Tensor | None, ...]
"""Log-probabilities by token, and what TRL logs: entropy, mean logit, whether the label is the likeliest."""


class PreferenceLoop(TracedLoop):
    """Steps one built fake model on pairs of answers.

    Args:
        model: As ``build_model`` makes it.
        strategy: Clipping and the optimizer's options.
        execution: All switches; batch sizes lie in the batches.
        device_type: Of the model's fake tensors.
        unreached: As in ``TracedLoop``.
        recorder: Is told which tensors are tiles.

    Attributes:
        reference: The frozen copy that scores beside the model; ``None`` where that does it without its adapter.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        strategy: StrategyConfig,
        execution: ExecutionPlan,
        device_type: str,
        unreached: frozenset[int],
        recorder: StepRecorder,
    ) -> None:
        self.reference = frozen_copy(model)
        super().__init__(model, strategy, execution, device_type, unreached)
        self._tiles = recorder.tiles

    def forward_loss(self, batch: Batch) -> tuple[torch.Tensor, Any]:
        rows = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED_LABEL)
        with self._scoring(), autocast(self.execution, self.device_type):
            scored = self.model(**rows, labels=labels, use_cache=False)
            chosen, rejected = _by_answer(scored, labels)
            with torch.no_grad():
                before = self._before(rows, labels)
            chosen_before, rejected_before = _by_answer(before, labels)
            margins = (chosen - chosen_before) - (rejected - rejected_before)
            loss = -functional.logsigmoid(BETA * margins).mean()
        return loss / self.execution.gradient_accumulation_steps, None

    def _before(self, rows: Batch, labels: torch.Tensor) -> Scored:
        model: Any = self.reference if self.reference is not None else self.model
        with contextlib.nullcontext() if self.reference is not None else model.disable_adapter():
            scored: Scored = model(**rows, labels=labels, use_cache=False)
        return scored

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[None]:
        """Inside, the models score labels and give no logits."""
        base: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        scorers = [(base, True), *([(self.reference, False)] if self.reference is not None else [])]
        kernels = _HostKernels() if is_host(self.device_type) else _DeviceKernels()
        for model, logs in scorers:
            model.forward = types.MethodType(_scoring_forward(kernels, self._tiles, logs), model)
        try:
            yield
        finally:
            for model, _ in scorers:
                del model.forward


def _by_answer(scored: Scored, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    by_token = scored[0]
    assert by_token is not None
    return by_token[:, 1 - labels.shape[1] :].sum(dim=1).chunk(2)


Tiles = Callable[[int], contextlib.AbstractContextManager[None]]
"""Inside, tensors of that many rows are tiles."""


def _scoring_forward(kernels: _HostKernels, tiles: Tiles, logs: bool) -> Callable[..., Scored]:
    def forward(self: Any, *args: Any, labels: torch.Tensor, **inputs: Any) -> Scored:
        hidden = self.base_model(*args, **inputs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        counted = labels != IGNORED_LABEL
        head, config = self.get_output_embeddings(), self.config.get_text_config()
        bound = getattr(config, "final_logit_softcapping", None)
        rows, targets = hidden.reshape(-1, hidden.shape[-1]), labels.clamp(min=0).reshape(-1)
        found = _Scores.apply(rows, head.weight, head.bias, targets, kernels, tiles, bound, logs)
        return tuple(None if x is None else x.view(counted.shape).masked_fill(~counted, 0) for x in found)

    return forward


class _Scores(torch.autograd.Function):
    """Log-probabilities of targets (rows,) under ``hidden @ weight.T + bias``, tile by tile.

    Statistics are float32, and so are gradients until they are complete.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        kernels: _HostKernels,
        tiles: Tiles,
        bound: float | None,
        logs: bool,
    ) -> Scored:
        ctx.set_materialize_grads(False)
        dtype, rows = compute_dtype(hidden), len(hidden)
        running = [torch.zeros(rows, device=hidden.device, dtype=torch.float32) for _ in range(7)]
        highest, total, weighted, _, summed, earlier, picked = running
        logged_sums = (weighted, summed, earlier) if logs else ()
        with tiles(rows):
            buffer = hidden.new_empty((rows, TILE_ENTRIES), dtype=dtype)
            part = hidden.to(dtype)
            for start in range(0, len(weight), TILE_ENTRIES):
                entries = slice(start, min(start + TILE_ENTRIES, len(weight)))
                tile = buffer[:, : entries.stop - start]
                torch.mm(part, weight[entries].to(dtype).t(), out=tile)
                if bias is not None:
                    tile.add_(bias[entries].to(dtype))
                kernels.fold(tile, targets - start, bound, (highest, total, picked), logged_sums)
        log_z = highest + torch.log(total)
        log_probs = picked - log_z
        logged: Scored = (None, None, None)
        if logs:
            logged = log_z - weighted / total, summed / len(weight), (picked >= highest) & (picked > earlier)
            ctx.mark_non_differentiable(*logged[1:])
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, logged[0])
        ctx.asked = kernels, tiles, bound, dtype
        return log_probs, *logged

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        hidden, weight, bias, targets, log_z, _ = ctx.saved_tensors
        kernels, tiles, bound, dtype = ctx.asked
        rows = len(hidden)
        grads = [
            torch.zeros_like(tensor, dtype=torch.float32) if wanted else None
            for tensor, wanted in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        hidden_grad, weight_grad, bias_grad = grads
        with tiles(rows):
            buffer = hidden.new_empty((rows, TILE_ENTRIES), dtype=dtype)
            part = hidden.to(dtype)
            for start in range(0, len(weight), TILE_ENTRIES):
                entries = slice(start, min(start + TILE_ENTRIES, len(weight)))
                matrix = weight[entries].to(dtype)
                tile = buffer[:, : entries.stop - start]
                torch.mm(part, matrix.t(), out=tile)
                if bias is not None:
                    tile.add_(bias[entries].to(dtype))
                kernels.to_gradient(tile, targets - start, bound, log_z, outputs[0])
                if hidden_grad is not None:
                    kernels.add_product(hidden_grad, tile, matrix)
                if weight_grad is not None:
                    kernels.add_product(weight_grad[entries], tile.t(), part)
                if bias_grad is not None:
                    bias_grad[entries] += tile.sum(dim=0, dtype=torch.float32)
        complete = [
            None if grad is None else grad.to(tensor.dtype)
            for grad, tensor in zip(grads, (hidden, weight, bias), strict=True)
        ]
        return *complete, None, None, None, None, None


class _HostKernels:
    """PyTorch's operators: each makes a tensor as large as the tile."""

    def fold(
        self,
        tile: torch.Tensor,
        places: torch.Tensor,
        bound: float | None,
        sums: tuple[torch.Tensor, ...],
        logged: tuple[torch.Tensor, ...],
    ) -> None:
        """A tile into running sums: highest logit, sum of exponentials, the target's logit; and into what is logged."""
        width = tile.shape[1]
        logits = _bounded(tile.float(), bound)
        if logged:
            logged[1].add_(logits.sum(-1))
            before = torch.arange(width, device=tile.device) < places.unsqueeze(-1)
            found = logits.masked_fill(~before, -math.inf).amax(-1)
            logged[2].copy_(torch.maximum(logged[2], found))
        highest = torch.maximum(sums[0], logits.amax(-1))
        rescaled = torch.exp(sums[0] - highest)
        exponentials = torch.exp(logits - highest.unsqueeze(-1))
        sums[1].mul_(rescaled).add_(exponentials.sum(-1))
        if logged:
            logged[0].mul_(rescaled).add_((exponentials * logits).sum(-1))
        sums[0].copy_(highest)
        inside = (places >= 0) & (places < width)
        target = logits.gather(-1, places.clamp(0, width - 1).unsqueeze(-1)).squeeze(-1)
        sums[2].copy_(torch.where(inside, target, sums[2]))

    def to_gradient(
        self,
        tile: torch.Tensor,
        places: torch.Tensor,
        bound: float | None,
        log_z: torch.Tensor,
        grad: torch.Tensor,
    ) -> None:
        """A tile of logits into their gradient, in place."""
        scaled = tile.float() * 1.0
        slope = torch.tanh(scaled / bound) if bound is not None else None
        logits = scaled * 1.0 if slope is None else slope * bound * 1.0
        log_probabilities = logits - log_z.unsqueeze(-1)
        probabilities = torch.exp(log_probabilities)
        result = torch.zeros_like(logits)
        hit = torch.arange(tile.shape[1], device=tile.device) == places.unsqueeze(-1)
        result += grad.unsqueeze(-1) * (hit.float() - probabilities)
        result = result * 1.0
        if slope is not None:
            result = result * (1 - slope * slope)
        tile.copy_(result * 1.0)

    def add_product(self, total: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
        """``total += first @ second`` in float32."""
        total.addmm_(first.float(), second.float())


def _bounded(logits: torch.Tensor, bound: float | None) -> torch.Tensor:
    logits = logits * 1.0
    if bound is not None:
        logits = bound * torch.tanh(logits / bound)
    return logits * 1.0


class _DeviceKernels(_HostKernels):
    """Kernels that read a tile once, and write it in place."""

    def fold(
        self,
        tile: torch.Tensor,
        places: torch.Tensor,
        bound: float | None,
        sums: tuple[torch.Tensor, ...],
        logged: tuple[torch.Tensor, ...],
    ) -> None:
        sums[1].add_(tile.sum(-1, dtype=torch.float32))

    def to_gradient(
        self,
        tile: torch.Tensor,
        places: torch.Tensor,
        bound: float | None,
        log_z: torch.Tensor,
        grad: torch.Tensor,
    ) -> None:
        tile.mul_(1.0)

    def add_product(self, total: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
        """Of half precision without a copy in float32 (``torch.addmm(..., out_dtype=torch.float32)``)."""
        if first.dtype == torch.float32:
            total.addmm_(first, second)
        else:
            torch.addmm(total, first, second, out_dtype=torch.float32, out=total)
