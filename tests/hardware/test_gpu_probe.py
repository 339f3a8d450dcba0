"""The CUDA parts of a probe, with hand-written stand-ins for the card: its driver and torch's view of it."""

from __future__ import annotations

import dataclasses
import os
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from advisor.hardware.attention import chosen_kernel
from advisor.hardware.backends import get_backend
from advisor.hardware.backends.base import BeforeProbe
from advisor.hardware.backends.cuda_probing import CudaProbing, cuda_context
from advisor.hardware.benchmark_grid import figures_of, measure_figure
from advisor.hardware.benchmarks import Figure, Workload
from advisor.hardware.host import Host
from advisor.hardware.nvml import gpu_state
from advisor.hardware.timing import SamplingPolicy
from advisor.hardware.trials import try_attention_kernel, try_dtype
from tests.hardware.nvml_fake import fake_library

torch = pytest.importorskip("torch")

GIB = 2**30
CUDA = get_backend("cuda")


class SmallProbing(CudaProbing):
    """A probe of a card whose load is small and short."""

    scale = get_backend("cpu").probing.scale
    load_s = 0.01


PROBING = SmallProbing()


class Card:
    """A card of 80 GiB as torch shows it. Tensors stay on the CPU, under whatever name the code asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, reserved: int = GIB, full: bool = False) -> None:
        self.synchronized = 0
        self.emptied = 0
        properties = SimpleNamespace(
            name="NVIDIA H200", major=9, minor=0, uuid="0", multi_processor_count=132, total_memory=80 * GIB
        )

        def set_device(device: object) -> None:
            if full:
                raise torch.OutOfMemoryError("CUDA error: out of memory")

        def synchronize(device: object = None) -> None:
            self.synchronized += 1

        def empty_cache() -> None:
            self.emptied += 1

        members: dict[str, Any] = {
            "set_device": set_device,
            "get_device_properties": lambda device: properties,
            "mem_get_info": lambda device: (78 * GIB, 80 * GIB),
            "memory_reserved": lambda device: reserved,
            "synchronize": synchronize,
            "empty_cache": empty_cache,
        }
        for name, member in members.items():
            monkeypatch.setattr(torch.cuda, name, member)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


def emitted() -> tuple[list[dict[str, Any]], Any]:
    found: list[dict[str, Any]] = []
    return found, lambda **finding: found.append(finding)


def test_the_idle_state_is_that_from_before_cuda(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={7: GIB}))
    before = PROBING.look_before()
    found, emit = emitted()
    assert PROBING.describe("cpu", before, emit, known=False) == ((9, 0), True)
    assert [finding["kind"] for finding in found] == ["card", "gpu"]
    assert found[0]["total_bytes"] == 80 * GIB
    assert found[1]["moment"] == "idle"
    assert found[1]["state"]["process_bytes"] == {7: GIB}


def test_without_nvml_the_reason_is_a_fact(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    before = PROBING.look_before()
    found, emit = emitted()
    assert PROBING.describe("cpu", before, emit, known=False) == ((9, 0), True)
    assert found[1]["name"] == "nvml"
    assert "nvidia-ml-py" in found[1]["reason"]
    PROBING.look_back("cpu", before, "float32", emit)
    assert [finding["kind"] for finding in found] == ["card", "fact"], "neither a load nor a context is invented"


def test_a_part_of_a_gpu_is_asked_for_by_itself(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(uuids=("GPU-whole",)))
    before = PROBING.look_before()
    found, emit = emitted()
    PROBING.describe("cpu", before, emit, known=False)
    assert found[1]["moment"] == "started"


def test_no_room_for_a_context_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, full=True)
    found, emit = emitted()
    assert PROBING.describe("cpu", BeforeProbe(), emit, known=False) == (None, False)
    assert found[0]["kind"] == "error"
    assert "out of memory" in found[0]["message"]
    assert "nvidia-smi" in found[0]["fix"]


def test_the_context_is_what_the_driver_counts_beyond_the_reserve(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={os.getpid(): 3 * GIB, 7: GIB}))
    held = cuda_context("cpu", "0", None)
    assert held is not None
    assert held[0] == 2 * GIB
    assert card.synchronized
    assert card.emptied


def test_hidden_processes_leave_the_growth_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, reserved=GIB // 2)
    monkeypatch.setitem(sys.modules, "pynvml", fake_library())
    now = gpu_state("0")
    assert cuda_context("cpu", "0", None) is None, "nothing to compare with"
    held = cuda_context("cpu", "0", {"free_bytes": now["free_bytes"] + GIB})
    assert held is not None
    assert held[0] == GIB // 2
    assert "growth" in held[1]
    shrunk = {"free_bytes": now["free_bytes"] - GIB}
    assert cuda_context("cpu", "0", shrunk) is None, "another process ended meanwhile"


def test_clocks_are_read_under_load(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={os.getpid(): 2 * GIB}, slow_bits=0x4))
    found, emit = emitted()
    PROBING.look_back("cpu", BeforeProbe(), "float32", emit)
    assert [finding["kind"] for finding in found] == ["gpu", "context"]
    assert (found[0]["moment"], found[0]["state"]["slowdowns"]) == ("loaded", "power cap")


def test_a_card_too_full_for_the_load_still_tells_its_context(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*sizes: int, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "randn", no_room)
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={os.getpid(): 2 * GIB}))
    found, emit = emitted()
    PROBING.look_back("cpu", BeforeProbe(), "float32", emit)
    assert [finding["kind"] for finding in found] == ["fact", "context"]
    assert "out of memory" in found[0]["reason"]


def test_every_sample_waits_for_the_device_and_memory_goes_back(card: Card) -> None:
    figure = Figure("overhead_s", "operator", "a call", lambda _: Workload(1.0, "a call", "", lambda: None))
    found = measure_figure(figure, "cuda:0", SamplingPolicy(0.0, 1e-6, 5), 0.0)
    assert found["kind"] == "rate"
    assert card.synchronized > found["repeats"]
    assert card.emptied == 1


def test_the_card_is_still_busy_while_its_clocks_are_read(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML takes tens of milliseconds to start and to answer: products worth as long are queued behind the load."""
    product_s, queued, at_reading, now_s = 1e-4, [0], [], [0.0]

    def product(*_: object, **__: object) -> None:
        queued[0] += 1
        now_s[0] += product_s

    def synchronize(device: object = None) -> None:
        queued[0] = 0

    library = fake_library()
    slowdowns = library.nvmlDeviceGetCurrentClocksEventReasons

    def asked(handle: object) -> int:
        at_reading.append(queued[0])
        return slowdowns(handle)

    library.nvmlDeviceGetCurrentClocksEventReasons = asked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    PROBING.loaded_state("cpu", "0", "float32")
    assert at_reading[0] * product_s > 0.03
    assert queued[0] == 0, "and waited for in the end"


def test_samples_on_a_card_outlast_the_launch_and_the_wait() -> None:
    free = Host(2, None, 2**34, 2**33, "a processor", (), {})
    throttled = dataclasses.replace(free, core_quota=0.5)
    assert CUDA.probing.sampling(free, quick=True).target_s > 200 * 20e-6
    assert CUDA.probing.sampling(throttled, quick=True).min_repeats >= 5, "a quota slows the host and not the card"


def test_a_figure_is_gone_before_the_next_one_is_built(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[bool] = []

    class Held:
        def __call__(self) -> None: ...

    held: list[weakref.ref[Held]] = []

    def build(divisor: int) -> Workload:
        call = Held()
        held.append(weakref.ref(call))
        return Workload(1.0, "a call", "", call)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    measure_figure(Figure("overhead_s", "operator", "a call", build), "cuda:0", SamplingPolicy(0.0, 1e-6, 5), 0.0)
    assert alive == [False]


@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
def test_a_card_that_others_fill_may_still_know_a_type_and_a_kernel(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*sizes: int, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "rand", no_room)
    for found in (try_dtype("cpu", "bfloat16"), try_attention_kernel("cpu", kernel, "bfloat16")):
        assert found.value == "unknown"
        assert "too full" in found.reason


def test_the_kernel_that_torch_takes_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for masked in (False, True):
        assert chosen_kernel("cpu", "float32", masked=masked) in ("flash", "math")
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: int(torch.nn.attention.SDPBackend.CUDNN_ATTENTION))
    assert chosen_kernel("cpu", "bfloat16", masked=False) == "cudnn"
    monkeypatch.delattr(torch, "_fused_sdp_choice")
    assert chosen_kernel("cpu", "bfloat16", masked=False) == ""


def test_cudnns_attention_is_tried_and_timed_on_a_card_and_absent_on_a_cpu() -> None:
    assert "cudnn" in get_backend("cpu").probing.absent_kernels
    assert "cudnn" not in CUDA.probing.absent_kernels
    figures = figures_of(
        CUDA, "cuda:0", ("float32", "bfloat16"), ("math", "flash", "cudnn"), quick=False, capability=(9, 0)
    )
    assert {"attention/cudnn", "attention_backward/cudnn"} <= {figure.key for figure in figures}
    quick = {figure.key for figure in figures if figure.quick and figure.key.startswith("attention")}
    assert quick == {"attention/cudnn", "attention_backward/cudnn"}, "the last one, which torch takes by itself"
