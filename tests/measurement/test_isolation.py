"""Isolated calls: typed ends, silent on the screen, gone with their parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from advisor.core.errors import DataError, InterruptedByUser, RunFailed
from advisor.measurement import child
from advisor.measurement.isolation import Result, _meaning_of_exit, isolated
from advisor.measurement.server import server_environment
from tests.measurement import isolation_functions as functions

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_value_comes_back_and_the_next_call_is_cheap() -> None:
    server_pid = isolated(os.getppid).unwrap()
    result = isolated(functions.loaded, ("torch", "transformers", "peft", "advisor.training.trainer", "optuna"))
    assert result.outcome == "completed"
    assert result.unwrap() == ["torch", "transformers", "peft", "advisor.training.trainer"]
    assert isolated(os.getppid).unwrap() == server_pid, "a fork of what has imported them already"


def test_events_arrive_in_order_and_before_the_value() -> None:
    events: list[dict[str, Any]] = []
    assert isolated(functions.send, 100, on_event=events.append).unwrap() == 100
    assert [event["step"] for event in events] == list(range(100))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (functions.raise_memory_error, "no room for 12 tensors"),
        (functions.allocate_too_much, "can't allocate memory"),
        (functions.raise_torch_out_of_memory, "CUDA out of memory"),
        (functions.be_killed, "killed by the system"),
    ],
)
def test_out_of_memory_is_an_outcome_with_advice(function: Any, reason: str) -> None:
    result = isolated(function)
    assert result.outcome == "out_of_memory"
    assert reason in result.reason
    with pytest.raises(RunFailed, match="out of memory") as failure:
        result.unwrap()
    assert "--memory" in str(failure.value)


def test_a_defect_without_a_log_says_how_to_see_more() -> None:
    with pytest.raises(RunFailed) as failure:
        isolated(functions.raise_with_traceback).unwrap()
    assert failure.value.fix is not None and "ADVISOR_DEBUG=1" in failure.value.fix


def test_predictions_on_a_full_disk_leave_no_half_file(tmp_path: Path) -> None:
    assert isolated(functions.write_predictions_onto_a_full_disk, tmp_path).unwrap() == (errno.EFBIG, [])


def test_a_defect_is_one_line_here_and_a_traceback_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "run.log"
    result = isolated(functions.raise_with_traceback, log_path=log)
    assert (result.outcome, result.reason) == ("failed", "ValueError: the seventh layer is missing")
    assert "Traceback" in log.read_text()
    assert "some library's chatter" in log.read_text()
    assert capfd.readouterr() == ("", "")


def test_expected_failures_are_raised_as_they_were() -> None:
    with pytest.raises(DataError) as failure:
        isolated(functions.raise_data_error).unwrap()
    assert failure.value.problems == ("a", "b")
    assert failure.value.fix == "name one"


def test_crashes_and_strange_ends_are_named() -> None:
    assert "SIGSEGV" in isolated(functions.crash).reason
    assert "exit code 3" in isolated(functions.leave, 3).reason
    assert isolated(functions.leave, 137).outcome == "out_of_memory"
    assert "cannot be sent" in isolated(functions.unpicklable).reason
    assert _meaning_of_exit(None)[0] == "failed"


def test_time_out() -> None:
    result = isolated(functions.sleep, 60, timeout_s=0.5)
    assert result.outcome == "over_time"
    assert "500 ms" in result.reason
    assert result.wall_s < 30


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_here_ends_the_call_there(signum: int) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt_soon(event: dict[str, Any]) -> None:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signum)).start()

    result: Result[None] = isolated(functions.tell_and_sleep, on_event=interrupt_soon)
    assert result.outcome == "interrupted"
    assert result.wall_s < 30
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(InterruptedByUser):
        result.unwrap()


def test_a_second_interrupt_kills() -> None:
    def interrupt_twice(event: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    result = isolated(functions.ignore_interrupts, on_event=interrupt_twice)
    assert result.outcome == "interrupted"
    assert result.wall_s < 30


def test_a_failing_listener_does_not_leave_a_process_behind(tmp_path: Path) -> None:
    def fail(event: dict[str, Any]) -> None:
        raise ZeroDivisionError

    began_s = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        isolated(functions.ignore_interrupts, on_event=fail)
    assert time.perf_counter() - began_s < 30


@pytest.mark.parametrize("child", ["tell_pid_and_sleep", "spin"])
def test_children_are_gone_two_seconds_after_their_parent_was_killed(child: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    module = Path(functions.__file__)
    parent = subprocess.Popen(
        [sys.executable, str(module), child, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = wait_for_pid(path)
        server_pid = parent_of(pid)
        assert server_pid != parent.pid
        parent.kill()
        parent.wait()
        deadline_s = time.monotonic() + 2
        while (is_alive(pid) or is_alive(server_pid)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert not is_alive(pid)
        assert not is_alive(server_pid)
        assert parent.stdout is not None
        assert parent.stdout.read() == "parent started\n"  # the script itself ran once
    finally:
        parent.kill()
        parent.wait()


def test_children_go_with_the_server(tmp_path: Path) -> None:
    """The server may be what the out-of-memory killer picks."""
    path = tmp_path / "pid"
    ended: list[Result[None]] = []
    waiting = threading.Thread(target=lambda: ended.append(isolated(functions.tell_pid_and_sleep, path)))
    waiting.start()
    os.kill(parent_of(wait_for_pid(path)), signal.SIGKILL)
    waiting.join(30)
    assert not waiting.is_alive()
    assert ended[0].outcome in ("out_of_memory", "failed")
    assert isolated(functions.loaded, ("torch",)).unwrap() == ["torch"]  # and a new one takes its place


def test_the_servers_environment() -> None:
    names = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "USE_HUB_KERNELS", "CUDA_VISIBLE_DEVICES")
    inside = isolated(functions.environment, names).unwrap()
    assert inside["TOKENIZERS_PARALLELISM"] == "false"
    assert inside["USE_HUB_KERNELS"] == "0"
    assert isolated(functions.cuda_is_untouched).unwrap()
    chosen = server_environment({"TOKENIZERS_PARALLELISM": "true", "CUDA_VISIBLE_DEVICES": "3,4"})
    assert "TOKENIZERS_PARALLELISM" not in chosen  # what the user has set stays
    assert chosen["CUDA_VISIBLE_DEVICES"] == "3"


def wait_for_pid(path: Path) -> int:
    deadline_s = time.monotonic() + 60
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return int(path.read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    """Zombies that nobody has waited for yet are dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_advice_that_torch_adds_to_every_message_is_left_out() -> None:
    """As torch 2.14 writes it on a full card; the reason goes into one line."""
    said = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 230.00 MiB of which 16.00 MiB "
        "is free. Of the allocated memory 47.02 MiB is allocated by PyTorch, and 6.98 MiB is reserved by PyTorch but "
        "unallocated."
    )
    advice = " If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    answer = child.classify(torch.cuda.OutOfMemoryError(said + advice))
    assert (answer.outcome, answer.reason) == ("out_of_memory", said)
