"""Where PEFT's methods look at tensor values while they are built or run, and what fake tensors answer.

None of these values changes a size: permutations, random masks and cluster numbers only say which elements are meant.
Each stand-in returns tensors of exactly the shapes that PEFT would have made.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

Patch = tuple[Any, str, Any]
"""Owner, attribute, replacement."""


def peft_patches() -> Iterator[Patch]:
    """What to replace in PEFT while fake tensors are traced; methods that the installed PEFT lacks are left out."""
    for patches in (
        _drawn_dropout,
        _permutations,
        _sparse_masks,
        _clusters,
        _joint_projections,
        _row_weights,
        _experts,
    ):
        with contextlib.suppress(ImportError, AttributeError):
            yield from patches()


class EveryElement(TorchDispatchMode):
    """Operators whose result's size depends on values, for masks that select everything.

    PEFT asks which entries are in range or used; all of them are. Enter it above the fake-tensor mode.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.long)
        if func is aten.bincount.default and (length := _argument(args, kwargs, 2, "minlength")):
            return args[0].new_empty((length,), dtype=torch.long)
        if func is aten._unique2.default:
            return args[0].new_empty((1,)), *(args[0].new_empty((0,), dtype=torch.long) for _ in range(2))
        if func is aten.index.Tensor and any(_is_mask(index) for index in args[1]):
            return func(args[0], [position for index in args[1] for position in _positions(index)], **kwargs)
        return func(*args, **kwargs)


def _argument(args: Any, kwargs: Any, position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _positions(index: Any) -> list[Any]:
    """One index per dimension of a mask, as torch expands it."""
    if not _is_mask(index):
        return [index]
    return [index.new_empty((index.numel(),), dtype=torch.long) for _ in range(index.dim())]


def kept_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """What PEFT's layers keep beside parameters and buffers, in plain dictionaries: drawn positions, clusters."""
    for module in model.modules():
        if type(module).__module__.startswith("peft."):
            held = [
                value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")
            ]
            yield from (leaf for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor) and leaf.grad_fn is None)


def _drawn_dropout() -> Iterator[Patch]:
    """LoHa and LoKr leave a whole module out when a number drawn in [0, 1) is small; the step's peak keeps them all."""
    from peft.tuners.loha import layer as loha
    from peft.tuners.lokr import layer as lokr

    def rand(*size: Any, **kwargs: Any) -> Any:
        drawn = torch.rand(*size, **kwargs)
        return 1.0 if size == (1,) else drawn

    for module in (loha, lokr):
        yield module, "torch", _torch_with(rand=rand)


def _permutations() -> Iterator[Patch]:
    """BOFT writes its permutation matrices element by element; computed for real, kept by size."""
    from peft.tuners.boft.layer import BOFTLayer

    permutation = BOFTLayer.block_butterfly_perm

    def block_butterfly_perm(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily(), torch.device("cpu"):
            real: torch.Tensor = permutation(self, *args, **kwargs)
        return real

    def perm2mat(self: Any, indices: torch.Tensor) -> torch.Tensor:
        return torch.zeros((len(indices), len(indices)))

    yield BOFTLayer, "block_butterfly_perm", block_butterfly_perm
    yield BOFTLayer, "perm2mat", perm2mat


def _sparse_masks() -> Iterator[Patch]:
    """SHiRA trains ``r * (in + out)`` weights at drawn positions and adds them as a sparse matrix."""
    from peft.tuners.shira import layer

    update_layer = layer.ShiraLayer.update_layer

    def with_positions(self: Any, adapter_name: str, mask: Any, r: int, **kwargs: Any) -> None:
        update_layer(self, adapter_name, None, r, **kwargs)
        weight = self.shira_weight[adapter_name]
        positions = torch.empty((2, weight.numel()), dtype=torch.int, device=weight.device)
        self.shira_indices[adapter_name] = positions

    yield layer.ShiraLayer, "update_layer", with_positions
    yield layer, "torch", _torch_with(sparse_coo_tensor=SparseStandIn)


def _clusters() -> Iterator[Patch]:
    """AdaMSS clusters singular vectors with k-means; clusters of equal size stand for the real ones."""
    from peft.tuners.adamss import layer

    def slice_pca(tensor: torch.Tensor, r: int, device: Any, dtype: torch.dtype, random_seed: int = 0) -> Any:
        outer, inner, rows, columns = tensor.shape
        rank = min(r, rows, columns)
        right = torch.empty(outer, inner, rank, columns, dtype=dtype, device=device)
        return right, torch.empty(outer, inner, rows, rank, dtype=dtype, device=device)

    def clustering_z(vectors: torch.Tensor, num_subspaces: int, iternum: int) -> tuple[tuple[int, int], int]:
        count = min(num_subspaces, len(vectors))
        return (len(vectors), count), count

    def seg_locations(clusters: tuple[int, int]) -> dict[int, torch.Tensor]:
        rows, count = clusters
        sizes = [rows // count + (number < rows % count) for number in range(count)]
        return {number: torch.empty(size, dtype=torch.long, device="cpu") for number, size in enumerate(sizes)}

    yield layer, "slice_pca", slice_pca
    yield layer, "clustering_Z", clustering_z
    yield layer, "seg_locations", seg_locations


def _joint_projections() -> Iterator[Patch]:
    """FRoD's projection is square, of the layers' input width; PEFT computes it from all weights on the CPU."""
    from peft.tuners.frod import layer, model

    def projection(matrices: list[torch.Tensor], *args: Any) -> torch.Tensor:
        width = matrices[0].shape[1]
        return torch.empty((width, width), device="cpu")

    yield model, "_projection_from_weights", projection
    yield layer, "torch", _torch_with(sparse_coo_tensor=SparseStandIn)


def _row_weights() -> Iterator[Patch]:
    """CPT weighs the tokens of one row after the other, in temporaries of one row each; one row stands for all.

    Otherwise every batch size would run a number of operators of its own. They are a dozen per row and tiny.
    """
    from peft.tuners.cpt import model

    yield model, "range", lambda rows: range(min(rows, 1))


def _experts() -> Iterator[Patch]:
    """XLoRA reads its experts' weights from files; for real, on the CPU, whatever they are copied into."""
    from peft.utils import save_and_load

    load = save_and_load.load_peft_weights

    def load_peft_weights(model_id: str, *args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily(), torch.device("cpu"):
            return load(model_id, **{**kwargs, "device": "cpu"})

    yield save_and_load, "load_peft_weights", load_peft_weights


def _torch_with(**replaced: Callable[..., Any]) -> Any:
    """A namespace that is torch but for some functions, for one module's global name ``torch``."""
    namespace = types.ModuleType("torch")
    namespace.__getattr__ = lambda name: getattr(torch, name)  # type: ignore[method-assign]
    for name, function in replaced.items():
        setattr(namespace, name, function)
    return namespace


# --------------------
# Sparse matrices under fake tensors, which have no sparse layout.
#
# What torch keeps for the backward pass, and what it takes while it runs, is read off the profiler's events of the real
# operators on the CPU (torch 2.13: ``sparse_coo_tensor``, ``add_`` of a sparse matrix, ``sparse_mask``).


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
