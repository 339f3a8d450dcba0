"""Sparse matrices under fake tensors, which have no sparse layout.

What torch keeps for the backward pass, and what it takes while it runs, is read off the profiler's events of the real
operators on the CPU (torch 2.13: ``sparse_coo_tensor``, ``add_`` of a sparse matrix, ``sparse_mask``).
"""

from __future__ import annotations

from typing import Any

import torch


class SparseStandIn:
    """A sparse matrix that is only ever added to a dense one; fake tensors have no sparse layout.

    Args:
        indices: (2, entries); torch keeps them as int64.
        values: (entries,).
        size: Rows and columns.
    """

    def __init__(self, indices: torch.Tensor, values: torch.Tensor, size: tuple[int, int]) -> None:
        self.indices, self.values, self.size = indices.to(torch.long), values, size

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.Tensor.__iadd__, torch.Tensor.add_):
            raise NotImplementedError(f"{func} of a sparse matrix on fake tensors")
        dense, sparse = args
        return _AddSparse.apply(dense, sparse.indices, sparse.values)


class _AddSparse(torch.autograd.Function):
    """``dense += sparse``; the backward pass reads the dense gradient at the sparse positions."""

    @staticmethod
    def forward(ctx: Any, dense: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(indices, values)
        ctx.mark_dirty(dense)
        return dense.index_put_((indices[0], indices[1]), values, accumulate=True)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        indices, _ = ctx.saved_tensors
        picked, positions = gradient[indices[0], indices[1]], indices.clone()
        masked = picked * torch.ones((), device=positions.device)
        return gradient, None, masked
