"""The grid of figures: complete, buildable, within its deadline, and alive on a device that others fill."""

from __future__ import annotations

import dataclasses
import errno
import gc
import io
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advisor.hardware.backends import get_backend
from advisor.hardware.benchmark_grid import (
    DIVISORS,
    figures_of,
    is_out_of_memory,
    measure,
    measure_figure,
)
from advisor.hardware.benchmarks import Figure, Workload
from advisor.hardware.host import Host
from advisor.hardware.overhead import overhead_figures
from advisor.hardware.storage import storage_figures
from advisor.hardware.timing import CFS_PERIOD_S, SamplingPolicy
from advisor.hardware.traffic import CLASSES, class_figures, copy_figures

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """As in the probing process: what is imported is not looked through after each failure."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


CPU, CUDA = get_backend("cpu"), get_backend("cuda")
ONCE = SamplingPolicy(0.0, 1e-6, 2)


def figure(build: Callable[[int], Workload], key: str = "memory") -> Figure:
    return Figure("bytes_per_s", key, f"{key} of a test", build)


def work(amount: float = 8.0) -> Workload:
    return Workload(amount, "a list", "", lambda: sorted(range(100)))


def keys(figures: list[Figure]) -> set[str]:
    return {figure.key for figure in figures}


def test_a_full_probe_covers_what_the_time_model_asks_for() -> None:
    cpu = keys(figures_of(CPU, "cpu", ("float32", "bfloat16"), ("math", "flash"), quick=False))
    per_dtype = {
        f"{dtype}{suffix}" for dtype in ("float32", "bfloat16") for suffix in ("", "/skinny", "/rank64", "/bmm")
    }
    attention = {f"attention{way}/{kernel}" for way in ("", "_backward") for kernel in ("math", "flash")}
    classes = {name + suffix for name in CLASSES for suffix in ("", "/bfloat16")}
    always = {"memory", "cache", "operator", "operator_autograd", "module", "optimizer_foreach", "optimizer_fused"}
    everywhere = per_dtype | attention | classes | always
    assert cpu == everywhere | {"first_touch"}
    copies = {f"{way}{kind}" for way in ("host_to_device", "device_to_host") for kind in ("", "_pageable")}
    cuda = keys(figures_of(CUDA, "cuda:0", ("float32", "bfloat16"), ("math", "flash"), quick=False, capability=(9, 0)))
    assert cuda == everywhere | copies | {"tf32", "kernel"}
    turing = keys(figures_of(CUDA, "cuda:0", ("float32", "float16"), ("math",), quick=False, capability=(7, 5)))
    assert "tf32" not in turing


def test_classes_are_those_of_the_cost_model() -> None:
    from advisor.tracing.ops import MEMBERS

    assert set(CLASSES) <= {*MEMBERS, "norm", "elementwise"}


def test_each_size_class_and_rank_is_measured() -> None:
    figures = figures_of(CPU, "cpu", ("float32",), ("flash",), quick=False)
    assert sum(figure.key == "softmax" for figure in figures) == 3
    assert sum(figure.key == "attention_backward/flash" for figure in figures) == len(CPU.probing.scale.lengths)
    assert {figure.name for figure in figures if figure.key in ("float32/skinny", "float32/rank64")} == {
        "float32/skinny 1024 x 768 x 8",
        "float32/skinny 1024 x 8 x 768",
        "float32/rank64 1024 x 768 x 64",
        "float32/rank64 1024 x 64 x 768",
    }


def test_a_quick_probe_is_a_small_part_that_a_full_one_begins_with() -> None:
    quick = figures_of(CPU, "cpu", ("float32", "bfloat16"), ("math", "flash"), quick=True)
    full = figures_of(CPU, "cpu", ("float32", "bfloat16"), ("math", "flash"), quick=False)
    assert [figure.name for figure in full[: len(quick)]] == [figure.name for figure in quick]
    assert len(quick) < len(full) / 3
    assert {"memory", "operator", "float32", "bfloat16", "float32/skinny", "softmax", "optimizer_fused"} <= keys(quick)


def test_every_figure_of_a_cpu_can_be_timed(tmp_path: Path) -> None:
    small = dataclasses.replace(
        CPU.probing.scale,
        squares=(64,),
        rows=64,
        layers=((32, 64),),
        lengths=(16,),
        stream_bytes=2**16,
        traffic_bytes=(2**13, 2**14),
        embedding_shape=(100, 8),
        optimizer_shapes=((2, 64),),
    )
    from advisor.hardware.attention import attention_figures
    from advisor.hardware.optimizers import optimizer_figures
    from advisor.hardware.products import product_figures
    from advisor.hardware.traffic import memory_figures

    figures = [
        *product_figures("cpu", "bfloat16", small, capability=None),
        *attention_figures("cpu", ("math", "flash"), "float32", small),
        *class_figures("cpu", "bfloat16", small),
        *memory_figures("cpu", small),
        *optimizer_figures("cpu", small),
        *overhead_figures("cpu"),
        *storage_figures(tmp_path),
    ]
    for found in (measure_figure(figure, "cpu", ONCE, 0.0) for figure in figures):
        assert found["kind"] == "rate", found
        assert found["work"] > 0
        assert 0 < found["median_s"] < 10
        assert found["point"].replace("x", "").isdigit() or not found["point"]


def test_files_stay_until_the_disk_is_full(tmp_path: Path) -> None:
    """A disk with room for three: the fourth is written once the others are gone, and none is left at the end."""
    open_files: list[weakref.ref[io.BytesIO]] = []

    def write(folder: Path, data: bytes) -> io.BytesIO:
        if sum(file() is not None for file in open_files) >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        stream = io.BytesIO(data[:1])
        open_files.append(weakref.ref(stream))
        return stream

    work = next(iter(storage_figures(tmp_path, write))).build(1)
    for _ in range(7):
        work.call()
    assert len(open_files) == 7
    del work
    gc.collect()
    assert not any(file() for file in open_files)


def test_weights_are_packed_and_unpacked_on_a_cpu() -> None:
    pytest.importorskip("bitsandbytes")
    from advisor.hardware.optimizers import PACKING, bitsandbytes_figures

    figures = {figure.key: figure for figure in bitsandbytes_figures("cpu", CPU.probing.scale)}
    rows, columns = CPU.probing.scale.nf4_shape
    packed, unpacked = (measure_figure(figures[key], "cpu", ONCE, 0.0) for key in (PACKING, "quantization"))
    assert packed["work"] == 4 * rows * columns
    assert packed["kind"] == unpacked["kind"] == "rate"
    assert packed["median_s"] > unpacked["median_s"] > 0


def test_copies_between_devices_move_what_they_say() -> None:
    small = dataclasses.replace(CPU.probing.scale, copy_bytes=2**16)
    pageable = {figure.key: figure for figure in copy_figures("cpu", small) if figure.key.endswith("pageable")}
    assert set(pageable) == {"host_to_device_pageable", "device_to_host_pageable"}
    for figure in pageable.values():
        found = measure_figure(figure, "cpu", ONCE, 0.0)
        assert found["work"] == 2**16


def test_attention_counts_the_work_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from advisor.hardware.attention import attention_figures

    small = dataclasses.replace(CPU.probing.scale, rows=64, lengths=(32,))
    for figure in attention_figures("cpu", ("math",), "float32", small):
        built = figure.build(1)
        with built.context, FlopCounterMode(display=False) as counter:
            built.call()
        assert counter.get_total_flops() == built.amount, figure.key


def test_a_full_device_gets_smaller_sizes() -> None:
    asked: list[int] = []

    def build(divisor: int) -> Workload:
        asked.append(divisor)
        if divisor < DIVISORS[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return work()

    found = measure_figure(figure(build), "cpu", ONCE, 0.0)
    assert asked == list(DIVISORS)
    assert found["kind"] == "rate"
    assert "the device is full" in found["label"]


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 3),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 3),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), 3),
        (MemoryError(), 3),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 1),
        (NotImplementedError("not on this device"), 1),
        (ImportError("No module named 'bitsandbytes'"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_a_figure_that_cannot_be_had_is_left_out_with_its_reason(failure: Exception, tries: int) -> None:
    asked: list[int] = []

    def build(divisor: int) -> Workload:
        asked.append(divisor)
        raise failure

    found = measure_figure(figure(build), "cpu", ONCE, 0.0)
    assert found["kind"] == "left_out"
    assert type(failure).__name__ in found["reason"]
    assert len(asked) == tries
    assert is_out_of_memory(failure) == (tries > 1)


def test_memory_that_runs_out_while_timing_counts_too() -> None:
    def build(divisor: int) -> Workload:
        def call() -> None:
            if divisor == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return dataclasses.replace(work(), call=call)

    assert measure_figure(figure(build), "cpu", ONCE, 0.0)["kind"] == "rate"


def test_what_comes_after_the_deadline_is_left_out() -> None:
    now = [0.0]

    def build(divisor: int) -> Workload:
        now[0] += 4.0
        return work()

    figures = [figure(build, key) for key in ("memory", "cache", "softmax", "norm")]
    found = list(measure(figures, "cpu", ONCE, deadline=8.0, clock=lambda: now[0]))
    assert [finding["kind"] for finding in found] == ["timing", "rate", "timing", "rate", "left_out", "left_out"]
    assert found[-1]["reason"] == "no time was left"


def test_a_failing_figure_does_not_end_the_grid() -> None:
    def broken(divisor: int) -> Workload:
        raise RuntimeError("CUDA error: out of memory")

    found = list(measure([figure(broken), figure(lambda _: work())], "cpu", ONCE, deadline=1e12))
    assert [finding["kind"] for finding in found] == ["timing", "left_out", "timing", "rate"]


def test_settings_are_as_before_afterwards() -> None:
    before = torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    measure_figure(dataclasses.replace(figure(lambda _: work()), tf32=True), "cpu", ONCE, 0.0)
    assert (torch.get_float32_matmul_precision(), torch.is_grad_enabled()) == before


def test_under_a_quota_samples_span_a_refill_period() -> None:
    free = Host(2, None, 2**34, 2**33, "a processor", (), {})
    throttled = dataclasses.replace(free, core_quota=0.5)
    assert CPU.probing.sampling(throttled, quick=True).target_s >= CFS_PERIOD_S
    assert CPU.probing.sampling(free, quick=True).target_s < CFS_PERIOD_S / 10
