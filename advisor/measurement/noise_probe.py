"""A fixed, short work load: how fast the machine itself was at the moment when a case was timed.

Shared machines drift by more than a prediction errs. The same work before and after a case's steps, in the same
process, tells a slow moment of the machine from a wrong prediction.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn import functional

from advisor.hardware.backends import Backend

ROWS, WIDTH, INNER, HEADS = 512, 768, 3072, 12
"""One layer of BERT-base for 512 tokens: 6.4 GFLOP forward, and the elementwise work that goes with it."""
PASSES, CARD_PASSES = 1, 100
"""Layers per repeat, so that a repeat takes some hundredths of a second on two cores, and launching them is not all of
it on a GPU."""
WARMUP_REPEATS, REPEATS = 3, 5


def reference_seconds(backend: Backend) -> float:
    """Median wall clock of the reference work load now, synchronised; about half a second in all."""
    device, runtime = torch.device(backend.torch_device), backend.runtime
    generator = torch.Generator().manual_seed(0)
    hidden, weights = _tensors(device, generator)
    times = []
    with torch.no_grad():
        for repeat in range(WARMUP_REPEATS + REPEATS):
            runtime.synchronize()
            started_s = time.perf_counter()
            for _ in range(PASSES if backend.is_host else CARD_PASSES):
                _layer(hidden, weights)
            runtime.synchronize()
            if repeat >= WARMUP_REPEATS:
                times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def _tensors(device: torch.device, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    shapes = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
    weights = {name: torch.randn(shape, generator=generator).mul_(0.02).to(device) for name, shape in shapes.items()}
    return torch.randn((ROWS, WIDTH), generator=generator).to(device), weights


def _layer(hidden: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Attention over one row of tokens and a feed-forward block, unfused as in most models."""
    query, key, value = functional.linear(hidden, weights["qkv"]).view(ROWS, 3, HEADS, -1).unbind(1)
    scores = query.transpose(0, 1) @ key.permute(1, 2, 0)
    mixed = (torch.softmax(scores, dim=-1) @ value.transpose(0, 1)).transpose(0, 1).reshape(ROWS, WIDTH)
    hidden = functional.layer_norm(hidden + functional.linear(mixed, weights["out"]), (WIDTH,))
    inner = functional.gelu(functional.linear(hidden, weights["up"]))
    return functional.layer_norm(hidden + functional.linear(inner, weights["down"]), (WIDTH,))
