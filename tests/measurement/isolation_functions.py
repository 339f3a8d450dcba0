"""What isolated processes are asked to do in tests, and a parent that is meant to be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def environment(names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def loaded(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in sys.modules]


def cuda_is_untouched() -> bool:
    import torch

    return not torch.cuda.is_initialized()


def send(count: int, on_event: Callable[[dict[str, Any]], None]) -> int:
    for index in range(count):
        on_event({"kind": "step", "step": index})
    return count


def raise_memory_error() -> None:
    raise MemoryError("no room for 12 tensors")


def allocate_too_much() -> None:
    import torch

    torch.empty(2**60, dtype=torch.uint8)


def raise_torch_out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def raise_with_traceback() -> None:
    print("some library's chatter")
    raise ValueError("the seventh layer is missing\nand more")


def raise_data_error() -> None:
    from advisor.core.errors import DataError

    raise DataError("the column must exist, but there is none", fix="name one", problems=["a", "b"])


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    os._exit(code)


def unpicklable() -> Any:
    return lambda: None


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def ignore_interrupts(on_event: Callable[[dict[str, Any]], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    on_event({"kind": "ignoring"})
    time.sleep(60)


def tell_and_sleep(on_event: Callable[[dict[str, Any]], None]) -> None:
    on_event({"kind": "sleeping"})
    time.sleep(60)


def tell_pid_and_sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def spin(path: Path) -> None:
    """Busy in Python code, as a data loader is."""
    path.write_text(str(os.getpid()))
    while True:
        pass


if __name__ == "__main__":  # no guard would be needed: isolated processes do not import this again
    from advisor.measurement.isolation import isolated
    from tests.measurement import isolation_functions

    print("parent started", flush=True)
    isolated(getattr(isolation_functions, sys.argv[1]), Path(sys.argv[2]))


def write_predictions_onto_a_full_disk(folder: Path) -> tuple[int | None, list[str]]:
    """The error that the system gave, and what is left in the folder."""
    import resource

    import numpy as np

    from advisor.training.data.predictions import write_predictions

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    items = [f"item {number}" for number in range(1000)]
    try:
        write_predictions(folder / "predictions.parquet", {"score": np.random.rand(1000)}, items=items)
    except OSError as failure:
        return failure.errno, [file.name for file in folder.iterdir()]
    return None, []
