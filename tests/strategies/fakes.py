"""A fixture that enters fake mode; import it where it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Fake CPU tensors as the tracer makes them: PEFT deep-copies heads, and moving a module swaps its tensors."""
    swap = torch.utils.swap_tensors

    def swap_unless_same(first: torch.Tensor, second: torch.Tensor) -> None:
        if first.device.type == second.device.type and first.dtype == second.dtype:
            return
        try:
            swap(first, second)
        except RuntimeError:  # a weak reference forbids it
            first.data = second.data

    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda self, memo: self, raising=False)
        monkeypatch.setattr(torch.utils, "swap_tensors", swap_unless_same)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
            yield

    return entered
