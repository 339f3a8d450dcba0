"""What bitsandbytes asks when it is imported does not start CUDA in the process that others are forked from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from advisor.measurement import sleeping_gpu as asleep
from advisor.measurement.sleeping_gpu import sleeping_gpu
from tests.hardware.nvml_fake import fake_library


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A torch that sees a GPU and remembers when CUDA is started."""
    from advisor.training.hub import forbid_kernel_downloads

    forbid_kernel_downloads()
    pytest.importorskip("bitsandbytes")  # before it could see the pretended GPU
    started: list[str] = []

    def start() -> None:
        started.append("started")
        raise RuntimeError("this torch has no CUDA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", start)
    return started


def test_the_capability_comes_from_nvml_while_libraries_are_imported(
    pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.cuda_specs import get_compute_capabilities

    monkeypatch.setitem(sys.modules, "pynvml", fake_library())
    with sleeping_gpu():
        assert get_compute_capabilities() == [(9, 0)]
    assert not pretended_gpu
    with pytest.raises(RuntimeError, match="no CUDA"):
        get_compute_capabilities()  # so it would have been started
    assert pretended_gpu


def test_without_nvml_nothing_is_imported_in_advance(pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(init_fails=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(ImportError, match="Driver Not Loaded"), sleeping_gpu():
        pytest.fail("the imports began")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with sleeping_gpu():
        pass  # without bitsandbytes nobody asks
    assert not pretended_gpu


def test_without_a_gpu_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.cuda.get_device_capability
    with sleeping_gpu():
        assert torch.cuda.get_device_capability is before


def test_other_packages_than_bitsandbytes_may_ask(pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with sleeping_gpu():
        assert torch.cuda.get_device_capability() == (9, 0)
    assert not pretended_gpu


def test_a_gpu_that_torch_cannot_count_is_left_to_the_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without NVML torch asks the CUDA runtime, and what is forked afterwards cannot use CUDA."""

    def ask_the_runtime() -> bool:
        pytest.fail("asked the CUDA runtime in the process that others are forked from")

    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1")
    monkeypatch.setattr(asleep, "DRIVER_FILES", (str(driver),))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: -1)
    monkeypatch.setattr(torch.cuda, "is_available", ask_the_runtime)
    with pytest.raises(ImportError, match="no NVML"), sleeping_gpu():
        pytest.fail("the imports began")
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: 1)
    assert not asleep.is_hidden_from_nvml(), "NVML counts it"
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: -1)
    driver.unlink()
    assert not asleep.is_hidden_from_nvml(), "no driver, so no GPU: a torch for CUDA on a machine without one"
