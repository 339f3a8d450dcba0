"""Recorded calls are replayed as the same work: same operator, shapes, strides and data types."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from advisor.calibration.measure import distinct_tasks
from advisor.calibration.profiled_ops import work_of
from advisor.calibration.replay import ReplayTask, materialize, replay_all
from advisor.tracing.ops import TracedOp, encode_signature


class Recorder(TorchDispatchMode):
    """Signatures and results of everything that is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        signature = encode_signature(func, args, kwargs or {})
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.calls.append((signature, out))
        return out


def recorded(work: Any) -> list[tuple[str, Any]]:
    with Recorder() as recorder:
        work()
    return recorder.calls


def a_step() -> None:
    """Forward, backward and update of a small transformer layer, with dropout and an embedding."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(50, 16),
        torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        torch.nn.Linear(16, 3),
    )
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    out = model(torch.randint(0, 50, (2, 8)))
    torch.nn.functional.cross_entropy(out.mean(1), torch.tensor([0, 2])).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def describe(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), tuple(value.stride()), value.dtype
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return type(value).__name__


def test_every_call_of_a_step_can_be_replayed() -> None:
    calls = recorded(a_step)
    names = {json.loads(signature)[0] for signature, _ in calls}
    assert {
        "aten.embedding_dense_backward.default",
        "aten._fused_adamw_.default",
        "aten.native_layer_norm.default",
    } <= names
    for signature, out in calls:
        function, args, kwargs = materialize(signature, "cpu")
        with torch.no_grad():
            again = function(*args, **kwargs)
        assert describe(again) == describe(out), signature


def test_strides_survive() -> None:
    [(signature, _)] = [call for call in recorded(lambda: torch.rand(6, 4).t().contiguous()) if "clone" in call[0]]
    _, args, _ = materialize(signature, "cpu")
    assert args[0].shape == (4, 6)
    assert args[0].stride() == (1, 4)


def test_broadcast_dimensions_take_no_memory() -> None:
    [(signature, _)] = recorded(lambda: None) or [
        call for call in recorded(lambda: torch.rand(3, 1).expand(3, 10**6) + 1) if "add" in call[0]
    ]
    _, args, _ = materialize(signature, "cpu")
    assert args[0].untyped_storage().nbytes() == 3 * 4


def test_row_indices_are_spread_over_the_table() -> None:
    table, ids = torch.rand(1000, 4), torch.zeros(64, dtype=torch.long)
    [(signature, _)] = recorded(lambda: torch.nn.functional.embedding(ids, table))
    _, args, _ = materialize(signature, "cpu")
    assert len(args[1].unique()) > 32
    assert int(args[1].max()) < 1000


def test_values_cannot_slow_an_operator_down() -> None:
    [(signature, _)] = [call for call in recorded(lambda: torch.rand(64) * 2) if "mul" in call[0]]
    _, args, _ = materialize(signature, "cpu")
    assert bool((args[0] > 1e-4).all())
    assert bool(torch.isfinite(args[0]).all())


def test_what_attention_reads_on_the_host_lies_there() -> None:
    """A device's address, read on the host, would end the process."""
    x, mask = torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8)
    state = torch.zeros((), dtype=torch.long)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention_backward.default
    logsumexp, grads = torch.rand(1, 2, 8), [True, True, True, False]
    call = encode_signature(efficient, (x, x, x, x, mask, x, logsumexp, state, state, 0.1, grads), {})
    _, args, _ = materialize(call, "meta")
    assert [value.device.type for value in args[7:9]] == ["cpu", "cpu"]
    assert {value.device.type for value in args[:7]} == {"meta"}
    flash = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
    call = encode_signature(flash, (x, x, x, x, x, logsumexp, None, None, 8, 8, 0.1, False, state, state), {})
    _, args, _ = materialize(call, "meta")
    assert {value.device.type for value in args if isinstance(value, torch.Tensor)} == {"meta"}


def test_tensors_made_from_nothing_are_made_on_the_device() -> None:
    for work in (lambda: torch.full((4, 4), 2.0), lambda: torch.arange(8), lambda: torch.zeros(3)):
        signature, out = recorded(work)[0]
        function, args, kwargs = materialize(signature, "meta")
        assert describe(function(*args, **kwargs)) == describe(out)
        assert function(*args, **kwargs).device.type == "meta"


def test_equal_calls_are_one_task_and_big_ones_come_first() -> None:
    def op(name: str, flops: int, signature: str, phase: str = "forward") -> TracedOp:
        return TracedOp(name, phase, flops, 100, 100, "float32", signature)  # type: ignore[arg-type]

    operators = [
        op("mm.default", 10**9, "big"),
        op("mm.default", 10, "small"),
        op("mm.default", 10, "small"),
        op("tanh.default", 0, "t"),
    ]
    tasks = distinct_tasks(operators)
    assert [(task.signature, task.share) for task in tasks if task.key.startswith("gemm/")] == [("big", 1)]
    assert {task.signature: task.share for task in tasks} == {"big": 1, "small": 2, "t": 1}
    assert distinct_tasks([op("mm.default", 1, "")]) == [], "sizes that were inferred cannot be replayed"
    assert sum(count for _, _, _, count in work_of(operators)) == 4


def test_what_cannot_be_replayed_is_reported_and_the_rest_goes_on() -> None:
    good = encode_signature(torch.ops.aten.add.Tensor, (torch.rand(8), torch.rand(8)), {})
    huge = json.dumps(["aten.neg.default", [{"tensor": [[2**40], [1], "float32"]}], {}])
    unknown = json.dumps(["aten.no_such_operator.default", [], {}])
    tasks = [ReplayTask(text, "x.default", "elementwise/float32/x", 0, 64, 1) for text in (unknown, huge, good)]
    events: list[dict[str, Any]] = []
    reached = replay_all(tasks, device="cpu", num_threads=None, budget_s=5, per_call_s=0.01, on_event=events.append)
    assert reached == 3
    assert [event["index"] for event in events if event["kind"] == "skipped"] == [0, 1]
    [point] = [event["point"] for event in events if event["kind"] == "point"]
    assert 1e-8 < point.median_s < 0.1


def test_the_budget_ends_the_replay() -> None:
    good = encode_signature(torch.ops.aten.add.Tensor, (torch.rand(8), torch.rand(8)), {})
    tasks = [ReplayTask(good, "x.default", "elementwise/float32/x", 0, 64, 1)] * 1000
    reached = replay_all(
        tasks, device="cpu", num_threads=None, budget_s=0.2, per_call_s=0.02, on_event=lambda _event: None
    )
    assert 0 < reached < 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_data_types_survive(dtype: torch.dtype) -> None:
    [(signature, _)] = [call for call in recorded(lambda: torch.zeros(4, 4).to(dtype).clone()) if "clone" in call[0]]
    _, args, _ = materialize(signature, "cpu")
    assert args[0].dtype == dtype


def test_a_lost_gpu_ends_the_process_and_costs_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an assertion in a kernel CUDA answers nothing any more: the calls behind it need another process."""
    good = encode_signature(torch.ops.aten.add.Tensor, (torch.rand(8), torch.rand(8)), {})
    tasks = [ReplayTask(good, "x.default", "elementwise/float32/x", 0, 64, 1)] * 2
    events: list[dict[str, Any]] = []

    def replayed() -> int:
        events.clear()
        return replay_all(tasks, device="cuda:7", num_threads=None, budget_s=5, per_call_s=0.01, on_event=events.append)

    def answer_nothing() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert replayed() == 2
    assert [event["kind"] for event in events] == ["begin", "skipped"] * 2, "no such device, but the process goes on"
    monkeypatch.setattr(torch.cuda, "synchronize", answer_nothing)
    with pytest.raises(Exception):  # noqa: B017 (what the call itself failed with, whatever torch calls it)
        replayed()
    assert [event["kind"] for event in events] == ["begin"], "the second call is not written off"
