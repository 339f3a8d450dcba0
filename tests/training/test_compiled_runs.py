"""A compiled model that fails costs the run its compilation and nothing else.

Dynamo and AOTAutograd really compile; in inductor's place stands a compiler that runs graphs as they were captured, and
that fails where it is told to once a graph is larger than that of the trial before the run. So no C++ compiler is
needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.hardware.backends import get_backend
from advisor.training import trainer
from advisor.training.compilation import described, forget_compiled_code, raised_by_compiled_code
from advisor.training.trainer import train
from tests.training import training_runs

WEIGHTS = "model/adapter_model.safetensors"
STEPS = 10
TRIAL_NODES = 30
"""More than the graphs of the small model that is tried first have, and fewer than those of the real one."""

Compile = Callable[[torch.fx.GraphModule, list[torch.Tensor]], Callable[..., Any]]


class Defect(RuntimeError):
    """What the compiler raises."""


def as_captured(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    from functorch.compile import make_boxed_func

    return make_boxed_func(graph.forward)


def cannot_compile(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    if len(graph.graph.nodes) > TRIAL_NODES:
        raise Defect("no kernel for this graph\nand more")
    return as_captured(graph, inputs)


class FailsWhenRun:
    """Compiles anything; what it compiled fails from its ``call``-th call on."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        from functorch.compile import make_boxed_func

        def run(*args: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                raise Defect("the kernel is wrong")
            return graph.forward(*args)

        return make_boxed_func(run) if len(graph.graph.nodes) > TRIAL_NODES else as_captured(graph, inputs)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts compilers of the forward and of the backward graph in inductor's place."""
    import torch._inductor.compile_fx as inductor
    from torch._dynamo.backends.common import aot_autograd

    def use(forward: Compile = as_captured, backward: Compile = as_captured) -> None:
        backend = aot_autograd(fw_compiler=forward, bw_compiler=backward)
        monkeypatch.setattr(inductor, "compile_fx", lambda model, inputs, **options: backend(model, inputs))

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    yield use
    forget_compiled_code(get_backend("cpu").runtime)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    strategy = training_runs.lora_strategy(num_train_epochs=0.5)
    return training_runs.tiny_plan(tmp_path_factory.mktemp("tiny"), strategy=strategy, gradient_accumulation_steps=2)


@pytest.fixture(scope="module")
def as_written(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement]:
    output = tmp_path_factory.mktemp("as-written") / "run"
    return output, train(plan, output)


def compiled(plan: Plan) -> Plan:
    return dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, torch_compile=True))


def notes(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["kind"] == "note"]


@pytest.mark.slow
def test_a_compiled_run_learns_what_the_model_as_written_learns(
    plan: Plan, compiler: Callable[..., None], as_written: tuple[Path, Measurement], tmp_path: Path
) -> None:
    compiler()
    events: list[dict[str, Any]] = []
    measurement = train(compiled(plan), tmp_path / "run", on_event=events.append)
    assert not notes(events)
    assert "earlier" not in measurement.parts_s
    expected = [loss for _, loss in as_written[1].train_losses]
    assert [loss for _, loss in measurement.train_losses] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("forward", "backward", "why"),
    [
        pytest.param(
            cannot_compile, as_captured, "Defect: no kernel for this graph", id="forward graph", marks=pytest.mark.slow
        ),
        pytest.param(as_captured, cannot_compile, "Defect: no kernel for this graph", id="backward graph"),
        pytest.param(
            as_captured, FailsWhenRun(1), "Defect: the kernel is wrong", id="backward pass", marks=pytest.mark.slow
        ),
    ],
)
def test_a_failing_compiled_model_is_told_and_trained_as_written_from_the_beginning(
    plan: Plan,
    compiler: Callable[..., None],
    as_written: tuple[Path, Measurement],
    tmp_path: Path,
    forward: Compile,
    backward: Compile,
    why: str,
) -> None:
    compiler(forward, backward)
    events: list[dict[str, Any]] = []
    measurement = train(compiled(plan), tmp_path / "run", on_event=events.append)
    assert notes(events) == [f"the compiled model fails, training continues without torch.compile: {why}"]
    output, expected = as_written
    assert measurement.outcome == "completed"
    assert measurement.metrics == expected.metrics
    assert measurement.train_losses == expected.train_losses
    assert len(measurement.step_times_s) == STEPS
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (output / WEIGHTS).read_bytes()
    assert measurement.parts_s["earlier"] > 0
    assert sum(measurement.parts_s.values()) == pytest.approx(measurement.total_s)


@pytest.mark.slow
def test_a_model_that_fails_later_goes_on_from_its_checkpoint(
    plan: Plan, compiler: Callable[..., None], as_written: tuple[Path, Measurement], tmp_path: Path
) -> None:
    compiler(backward=FailsWhenRun(2 * 7))
    events: list[dict[str, Any]] = []
    measurement = train(compiled(plan), tmp_path / "run", on_event=events.append, save_every_s=0.0)
    assert len(notes(events)) == 1
    assert next(event["step"] for event in events if event["kind"] == "resumed") > 0
    assert measurement.outcome == "completed"
    assert len(measurement.step_times_s) == STEPS
    steps = [step for step, _ in measurement.train_losses]
    assert steps == [step for step, _ in as_written[1].train_losses]
    expected = [loss for _, loss in as_written[1].train_losses]
    assert [loss for _, loss in measurement.train_losses] == pytest.approx(expected, rel=1e-3)


def test_an_error_of_the_users_own_comes_back_from_the_model_as_written(
    plan: Plan, compiler: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token beyond the vocabulary fails in the compiled model, and again in the one that is as written."""

    def spoil(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**batch, "input_ids": batch["input_ids"] + 1000}

    change_batches(monkeypatch, spoil)
    compiler()
    events: list[dict[str, Any]] = []
    with pytest.raises(IndexError) as failure:
        train(compiled(plan), tmp_path / "run", on_event=events.append)
    assert len(notes(events)) == 1
    assert not raised_by_compiled_code(failure.value)


def test_an_error_outside_the_compiled_model_ends_the_run_at_once(
    plan: Plan, compiler: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise ValueError("an odd row")

    change_batches(monkeypatch, refuse)
    compiler()
    events: list[dict[str, Any]] = []
    with pytest.raises(ValueError, match="an odd row"):
        train(compiled(plan), tmp_path / "run", on_event=events.append)
    assert not notes(events)


def change_batches(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    original = trainer.prepare_data

    def changed(*args: Any, **options: Any) -> Any:
        data = original(*args, **options)
        return dataclasses.replace(data, collator=lambda rows: change(data.collator(rows)))

    monkeypatch.setattr(trainer, "prepare_data", changed)


def test_the_compilers_wrapper_does_not_hide_what_went_wrong() -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    wrapped = BackendCompilerFailed(as_captured, Defect("no kernel\nand more"), None)
    assert described(wrapped) == "Defect: no kernel"
    assert described(Defect()) == "Defect"
    assert raised_by_compiled_code(wrapped)
    assert not raised_by_compiled_code(Defect("of somebody else"))
