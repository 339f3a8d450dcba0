"""Which fake tensors a trace for CUDA uses: those of the GPU at hand where a process can start on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from advisor.tracing import fake_device
from advisor.tracing.environment import _starts_cuda, tracing_device_type


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    _starts_cuda.cache_clear()
    yield
    _starts_cuda.cache_clear()


@pytest.mark.parametrize(
    ("room", "device_type"), [(True, "cuda"), (False, fake_device.NAME)], ids=["a free GPU", "a full GPU"]
)
def test_a_gpu_without_room_for_a_context_is_stood_in_for(
    room: bool, device_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def empty(*size: int, device: str) -> None:
        made.append(device)
        if not room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as card:
        card.setattr(torch.cuda, "is_available", lambda: True)
        card.setattr(torch, "empty", empty)
        card.setattr(fake_device, "register", lambda: fake_device.NAME)
        assert [tracing_device_type("cuda") for _ in range(2)] == [device_type] * 2
    assert made == ["cuda"], "the context is made once, before the first fake tensor"
    assert tracing_device_type("cpu") == "cpu"
