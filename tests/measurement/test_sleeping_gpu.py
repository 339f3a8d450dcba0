"""What bitsandbytes asks when it is imported does not start CUDA in the process that others are forked from."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest
import torch

from advisor.hardware import nvml
from advisor.measurement.sleeping_gpu import AVAILABLE, STARTED, ask_in_a_fork, sleeping_gpu


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

    monkeypatch.setattr(nvml, "compute_capability", lambda: (9, 0))
    with sleeping_gpu():
        assert get_compute_capabilities() == [(9, 0)]
    assert not pretended_gpu
    with pytest.raises(RuntimeError, match="no CUDA"):
        get_compute_capabilities()  # so it would have been started
    assert pretended_gpu


def test_without_nvml_nothing_is_imported_in_advance(pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise nvml.NvmlUnavailable("NVML must start, but it said: no permission")

    monkeypatch.setattr(nvml, "compute_capability", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    with pytest.raises(ImportError, match="no permission"), sleeping_gpu():
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
    monkeypatch.setattr(nvml, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with sleeping_gpu():
        assert torch.cuda.get_device_capability() == (9, 0)
    assert not pretended_gpu


def test_a_gpu_that_torch_cannot_count_is_left_to_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NVML torch asks the CUDA runtime, and what is forked afterwards cannot use CUDA; no driver file is needed
    to find that out."""
    asking_process = os.getpid()

    def ask_the_runtime() -> bool:
        assert os.getpid() != asking_process, "asked in the process that others are forked from"
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
        return True

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", ask_the_runtime)
    with pytest.raises(ImportError, match="no NVML"), sleeping_gpu():
        pytest.fail("the imports began")


@pytest.mark.parametrize(
    ("there", "starts", "code"), [(False, False, 0), (True, False, AVAILABLE), (False, True, STARTED)]
)
def test_the_question_is_asked_in_a_fork(monkeypatch: pytest.MonkeyPatch, there: bool, starts: bool, code: int) -> None:
    def question() -> bool:
        if starts:
            monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
        return there

    assert ask_in_a_fork(question) == code


def test_a_question_that_ends_its_process_counts_as_a_start() -> None:
    def question() -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    assert ask_in_a_fork(question) == AVAILABLE + STARTED


def test_what_starts_cuda_while_it_is_imported_is_not_imported(
    pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "compute_capability", lambda: (9, 0))
    with pytest.raises(ImportError, match="would start CUDA"), sleeping_gpu():
        torch.cuda._lazy_init()
    assert not pretended_gpu
    with pytest.raises(RuntimeError, match="no CUDA"):
        torch.cuda._lazy_init()
