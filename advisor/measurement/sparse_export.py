"""What the zeros of a pruned adapter are worth: its size when only the rest is stored, its speed in a sparse format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from advisor.strategies.sparsity import adapter_weights

MASK, VALUES, SHAPE = "mask", "values", "shape"


def packed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as a bit for each of them and the values that are not zero, row by row.

    Rows and columns of the values, as compressed formats store them, would take as much as they save until three
    quarters of the weights are zero.
    """
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        kept = weight.detach().cpu() != 0
        found[f"{name}.{MASK}"] = torch.from_numpy(np.packbits(kept.numpy()))
        found[f"{name}.{VALUES}"] = weight.detach().cpu()[kept]
        found[f"{name}.{SHAPE}"] = torch.tensor(weight.shape)
    return found


def unpacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that were packed."""
    found: dict[str, torch.Tensor] = {}
    for name in (key.removesuffix(f".{MASK}") for key in tensors if key.endswith(f".{MASK}")):
        shape = tensors[f"{name}.{SHAPE}"].tolist()
        values = tensors[f"{name}.{VALUES}"]
        bits = np.unpackbits(tensors[f"{name}.{MASK}"].numpy(), count=int(np.prod(shape)))
        weight = torch.zeros(shape, dtype=values.dtype)
        weight[torch.from_numpy(bits.astype(bool)).reshape(shape)] = values
        found[name] = weight
    return found


def export_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of a safetensors file with the pruned adapter matrices: as they are, and packed."""
    pruned = {id(weight) for weight in adapter_weights(model)}
    weights = {name: weight.detach().cpu() for name, weight in model.named_parameters() if id(weight) in pruned}
    return len(save({name: weight.contiguous() for name, weight in weights.items()})), len(save(packed(weights)))


class SparseLinear(nn.Module):
    """A bias-free linear layer whose weight is in compressed rows (CSR).

    Args:
        linear: Its weight is read, not changed.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.weight = linear.weight.detach().to_sparse_csr()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As ``torch.nn.functional.linear``: shape (..., in) to (..., out)."""
        rows = inputs.reshape(-1, inputs.shape[-1]).to(self.weight.dtype)
        return (self.weight @ rows.T).T.reshape(*inputs.shape[:-1], -1)


@contextmanager
def in_sparse_format(model: nn.Module) -> Iterator[None]:
    """For as long as this is open, pruned adapter matrices are applied in compressed rows."""
    pruned = {id(weight) for weight in adapter_weights(model)}
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if id(getattr(child, "weight", None)) in pruned
    ]
    for parent, name, child in found:
        setattr(parent, name, SparseLinear(child))
    try:
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)
