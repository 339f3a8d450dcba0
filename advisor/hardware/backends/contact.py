"""What a driver, a build of torch and a card say about each other, before anything is probed or trained."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        state: `problem` where it keeps training from working, on this machine or on its card; `note` where something
            is missing, slower or less exact.
        found: What was found.
        action: What to do; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    action: str = ""


@dataclass(frozen=True)
class Card:
    """A device as its driver lists it; ``None`` is what the driver does not say.

    Attributes:
        name: Of the product.
        total_bytes, free_bytes: Of its memory.
        compute_capability: Of an NVIDIA card.
    """

    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class DriverView:
    """What a driver says.

    Attributes:
        version: Of the loaded driver; empty without one.
        toolkit: The newest version of the toolkit (CUDA) whose programs it runs; ``None`` where it does not say.
        cards: Those that it lists.
        refused: Why it lists none.
        hidden: The setting that hides cards from programs, as the user wrote it; ``None`` where it is not set.
    """

    version: str = ""
    toolkit: tuple[int, int] | None = None
    cards: tuple[Card, ...] = ()
    refused: str = ""
    hidden: str | None = None


@dataclass(frozen=True)
class TorchView:
    """What torch says about one kind of device.

    Attributes:
        version: Of torch; empty where it is not installed.
        built_for: Toolkit and version that it was built for (``"CUDA 13.0"``); empty where it cannot use such devices.
        count: How many it can use; ``None`` where it was not asked.
        architectures: For which its kernels were compiled (``"sm_80"``, ``"compute_90"``).
    """

    version: str = ""
    built_for: str = ""
    count: int | None = None
    architectures: tuple[str, ...] = ()


def torch_build() -> dict[str, Any]:
    """The names in torch's own ``version.py``, which says what it was built for; empty without torch.

    Importing torch takes seconds, reading this file does not.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).with_name("version.py")
    versions = importlib.util.spec_from_file_location("_torch_version", file)
    if versions is None or versions.loader is None or not file.is_file():
        return {}
    module = importlib.util.module_from_spec(versions)
    versions.loader.exec_module(module)
    return vars(module)
