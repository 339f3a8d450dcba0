"""Output projection and cross-entropy in one: the logits of a language model exist a few rows at a time.

The standard loss holds B·S·V logits several times (projection, float32 copy, log-softmax, gradient): for vocabularies
of 128k to 256k more than everything else. Here each chunk of rows goes through projection, loss and gradient before the
next one begins, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989, section 3.2) but in plain torch operators, so
that it runs on every device. Newer torch versions have such a function of their own (``linear_cross_entropy``), the
oldest supported one has not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from advisor.core.errors import InputError
from advisor.training.data.encoding import IGNORED_LABEL

CHUNKS = 8
"""Into how many parts the rows go. A fixed number: the operators of a step then do not depend on its shape. With
half-precision weights a chunk holds its scores in float32 and once more in half precision."""


def fuse_output_projection(model: Any) -> None:
    """Let a causal language model compute its training loss in chunks, and that of ``fused_evaluation``.

    Everything else (a forward pass without labels, generation) has logits as before.

    Raises:
        InputError: the output projection is not a plain linear layer (an adapter or a copy took its place).
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        raise InputError(
            "the loss fused-linear needs a plain linear output projection, but that of "
            f"{type(model).__name__} is a {type(head).__module__}.{type(head).__name__}",
            fix="leave the output projection out of the adapter's targets, or use the standard loss",
        )
    fused = _FusedOutput(type(model).__name__, head, model.loss_function)
    head.forward = fused.project
    model.loss_function = fused.loss


def evaluates_fused(model: Any) -> bool:
    """Whether ``fused_evaluation`` changes what the model returns."""
    return _fused_output(model) is not None


@contextlib.contextmanager
def fused_evaluation(model: Any) -> Iterator[None]:
    """Inside, a model with a fused loss evaluates without holding all logits; other models are left alone.

    In place of logits it returns a float32 tensor [rows, length, 2]: at every position the negative log-likelihood in
    nats of the label that follows, and 1.0 where that label is the likeliest token. Both are 0 where nothing is to be
    predicted.
    """
    fused = _fused_output(model)
    if fused is None:
        yield
        return
    fused.scores_labels = True
    try:
        yield
    finally:
        fused.scores_labels = False


def _fused_output(model: Any) -> _FusedOutput | None:
    find = getattr(model, "get_output_embeddings", None)
    owner = getattr(getattr(find() if find is not None else None, "forward", None), "__self__", None)
    return owner if isinstance(owner, _FusedOutput) else None


class _FusedOutput:
    """Passes the hidden states past the model's own code, from its output projection to its loss.

    In training the projection returns an empty tensor in place of the logits, in a fused evaluation one that the loss
    fills. Models that change their logits on the way (scale or cap them) hand something else to the loss and are
    refused.

    Attributes:
        scores_labels: Whether evaluation is fused, too.
    """

    def __init__(self, model_name: str, head: nn.Linear, standard_loss: Any) -> None:
        self._model_name, self._head = model_name, head
        self._standard_forward, self._standard_loss = head.forward, standard_loss
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None
        self.scores_labels = False

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._head.training and torch.is_grad_enabled():
            placeholder = hidden.new_empty((*hidden.shape[:-1], 0))
        elif self.scores_labels:
            placeholder = hidden.new_empty((*hidden.shape[:-1], 2), dtype=torch.float32)
        else:
            logits: torch.Tensor = self._standard_forward(hidden)
            return logits
        self._pending = (placeholder, hidden)
        return placeholder

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int,
        num_items_in_batch: torch.Tensor | float | None = None,
        ignore_index: int = IGNORED_LABEL,
        shift_labels: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """As transformers' ``ForCausalLMLoss``, which it hands over to outside of training."""
        pending, self._pending = self._pending, None
        if pending is None:
            standard: torch.Tensor = self._standard_loss(
                logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **options
            )
            return standard
        placeholder, hidden = pending
        if logits is not placeholder:
            raise InputError(
                "the loss fused-linear needs logits that go from the output projection to the loss as they are, but "
                f"{self._model_name} changes them on the way",
                fix="use the standard loss",
            )
        if shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets = shift_labels.reshape(-1).to(hidden.device)
        rows = hidden.reshape(-1, hidden.shape[-1])
        if placeholder.shape[-1]:
            scored = placeholder.view(-1, 2)
            _score_labels(rows, self._head.weight, self._head.bias, targets, scored, ignore_index)
            return _mean(scored[:, 0].sum(), targets, num_items_in_batch, ignore_index)
        return linear_cross_entropy(
            rows, self._head.weight, targets, self._head.bias, items=num_items_in_batch, ignore_index=ignore_index
        )


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    items: torch.Tensor | float | None = None,
    ignore_index: int = IGNORED_LABEL,
) -> torch.Tensor:
    """Cross-entropy of ``hidden @ weight.T + bias``, averaged over the targets that count.

    Its backward pass can run once (gradients are made in the forward pass and scaled in place).

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width).
        targets: (rows,) int64.
        bias: (vocabulary,).
        items: What to divide the sum by; ``None`` counts the targets.
        ignore_index: Target without a loss.

    Returns:
        A float32 scalar.
    """
    total = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, ignore_index)
    return _mean(total, targets, items, ignore_index)


def _mean(
    total: torch.Tensor, targets: torch.Tensor, items: torch.Tensor | float | None, ignore_index: int
) -> torch.Tensor:
    if items is None:
        items = (targets != ignore_index).sum()
    elif isinstance(items, torch.Tensor):
        items = items.to(total.device)
    mean: torch.Tensor = total / items
    return mean


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed loss; the gradients are ready when the forward pass is over."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        ignore_index: int,
    ) -> torch.Tensor:
        dtype = compute_dtype(hidden)
        inputs = (hidden, weight, bias)
        wanted = [t if needed else None for t, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)]
        grads = [None if t is None else torch.zeros_like(t) for t in wanted]
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        step = -(-len(hidden) // CHUNKS)
        for first in range(0, len(hidden), step):
            rows = hidden[first : first + step].to(dtype)
            counted = (targets[first : first + step] != ignore_index).unsqueeze(1)
            chosen = targets[first : first + step].unsqueeze(1).masked_fill(~counted, 0)
            scores = F.linear(rows, matrix, offset).float()
            total += _loss_to_gradient(scores, chosen, counted)
            _add_gradients(grads, first, scores.to(dtype), rows, matrix)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (scale,) = outputs
        grads = [None if grad is None else grad.mul_(scale) for grad in ctx.saved_tensors]
        return (*grads, None, None)


def _score_labels(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scored: torch.Tensor,
    ignore_index: int,
) -> None:
    """Fill ``scored`` (rows, 2) as ``fused_evaluation`` says, without gradients."""
    dtype = compute_dtype(hidden)
    matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
    step = -(-len(hidden) // CHUNKS)
    for first in range(0, len(hidden), step):
        chunk = slice(first, first + step)
        counted = (targets[chunk] != ignore_index).unsqueeze(1)
        chosen = targets[chunk].unsqueeze(1).masked_fill(~counted, 0)
        scores = F.linear(hidden[chunk].to(dtype), matrix, offset).float()
        highest, likeliest = scores.max(dim=1, keepdim=True)
        scores.sub_(highest)
        picked = scores.gather(1, chosen)
        nll = scores.exp_().sum(dim=1, keepdim=True).log() - picked
        scored[chunk] = torch.cat([nll, likeliest == chosen], dim=1).masked_fill(~counted, 0.0)


def compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """What a linear layer would compute in: the autocast type inside autocast, else the input's."""
    device_type = hidden.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype


def _loss_to_gradient(scores: torch.Tensor, chosen: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The summed loss of a chunk; ``scores`` (rows, vocabulary) become its gradient in place."""
    scores.sub_(scores.amax(dim=1, keepdim=True))
    picked = scores.gather(1, chosen)
    scores.exp_()
    totals = scores.sum(dim=1, keepdim=True)
    loss = ((totals.log() - picked) * counted).sum()
    scores.div_(totals)
    scores.scatter_add_(1, chosen, torch.full_like(picked, -1.0))
    scores.mul_(counted)
    return loss


def _add_gradients(
    grads: list[torch.Tensor | None], first: int, scores: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor
) -> None:
    """Add a chunk's part to the gradients of the inputs that need one; ``scores`` hold those of the logits."""
    hidden_grad, weight_grad, bias_grad = grads
    if hidden_grad is not None:
        hidden_grad[first : first + len(rows)].copy_(scores @ matrix)
    if weight_grad is not None and weight_grad.dtype == scores.dtype:
        weight_grad.addmm_(scores.T, rows)
    elif weight_grad is not None:
        product = scores.T @ rows
        if product.is_cpu:  # whose kernels would convert it inside, unseen by a trace
            product = product.to(weight_grad.dtype)
        weight_grad.add_(product)
    if bias_grad is not None:
        bias_grad.add_(scores.sum(dim=0))
