"""Sparse matrices under fake tensors, which have no sparse layout.

What torch keeps for the backward pass, and what it takes while it runs, is read off the profiler's events of the real
operators on the CPU (torch 2.13: ``sparse_coo_tensor``, ``add_`` of a sparse matrix, ``sparse_mask``).
"""

from __future__ import annotations

from typing import Any

import torch


class SparseStandIn:
    """A sparse matrix that is added to a dense one, or multiplies one from the left.

    Args:
        indices: (2, entries); torch keeps them as int64.
        values: (entries,).
        size: Rows and columns; not read, because PEFT takes it from a tensor's values.
    """

    def __init__(self, indices: torch.Tensor, values: torch.Tensor, size: tuple[int, int]) -> None:
        self.indices, self.values = indices.to(torch.long), values

    def coalesce(self) -> SparseStandIn:
        """Sorted by position, in storages of its own."""
        return SparseStandIn(self.indices.clone(), self.values.clone(), (0, 0))

    def _nnz(self) -> int:
        return self.values.numel()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.__iadd__, torch.Tensor.add_):
            dense, sparse = args
            return _AddSparse.apply(dense, sparse.indices, sparse.values)
        if func is torch.sparse.mm:
            sparse, dense = args
            return _MultiplySparse.apply(sparse.indices, sparse.values, dense)
        raise NotImplementedError(f"{getattr(func, '__name__', func)} of a sparse matrix on fake tensors")


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


class _MultiplySparse(torch.autograd.Function):
    """``sparse @ dense`` of a square sparse matrix; its gradient is a dense product read at the sparse positions."""

    @staticmethod
    def forward(ctx: Any, indices: torch.Tensor, values: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(indices, values, dense)
        return torch.empty(dense.shape, dtype=dense.dtype, device=dense.device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        indices, _, dense = ctx.saved_tensors
        product = gradient @ dense.t()
        picked = product[indices[0], indices[1]]
        return None, picked, torch.empty(dense.shape, dtype=dense.dtype, device=dense.device)
