"""Reading back what a method saved."""

from __future__ import annotations

from pathlib import Path

from torch import nn


def load_whole_model(base: nn.Module, directory: Path) -> nn.Module:
    """A model saved whole, of the same class as ``base``, in evaluation mode."""
    loaded: nn.Module = type(base).from_pretrained(directory, use_safetensors=True)
    return loaded.eval()
