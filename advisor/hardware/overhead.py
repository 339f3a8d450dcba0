"""Times that do not depend on sizes: dispatch, autograd, modules, kernels."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.hardware.benchmarks import Figure, Workload

CHAIN = 50
"""Operators of one differentiated chain: enough that starting the backward pass (some 20 us) is a small share."""
GRAPH_KERNELS = 200
"""Kernels in one graph: enough that replaying it (some 10 us) is a small share."""


def overhead_figures(device: str) -> Iterator[Figure]:
    """What every operator costs the host."""

    def operator(divisor: int) -> Workload:
        import torch

        x = torch.zeros(1, device=device)
        return Workload(1.0, "add to one element", "", lambda: x.add_(1.0))

    def module(divisor: int) -> Workload:
        import torch

        identity, x = torch.nn.Identity(), torch.zeros(1)
        return Workload(1.0, "an identity", "", lambda: identity(x))

    yield Figure("overhead_s", "operator", "one operator", operator, quick=True)
    yield Figure("overhead_s", "operator_autograd", "with autograd", lambda _: _chain(device), quick=True, grad=True)
    yield Figure("overhead_s", "module", "one module", module, quick=True, grad=True)


def kernel_figure(device: str) -> Figure:
    """What every kernel costs a CUDA device itself."""
    return Figure("overhead_s", "kernel", "one kernel", lambda _: _kernels(device), quick=True)


def _chain(device: str) -> Workload:
    """Forward and backward: each multiplication is dispatched once in either direction."""
    import torch

    x = torch.ones(1, device=device, requires_grad=True)

    def call() -> object:
        y = x
        for _ in range(CHAIN):
            y = y * 1.0
        return torch.autograd.grad(y, x)

    return Workload(2.0 * CHAIN, f"{CHAIN} multiplications of one element, forward and backward", "", call)


def _kernels(device: str) -> Workload:
    """A replayed CUDA graph leaves the host out of the time."""
    import torch

    x = torch.zeros(1, device=device)
    x.add_(1.0)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_KERNELS):
            x.add_(1.0)
    # The graph holds the address of x and not x itself.
    return Workload(float(GRAPH_KERNELS), "adding to one element, replayed", "", lambda: (graph.replay(), x))
