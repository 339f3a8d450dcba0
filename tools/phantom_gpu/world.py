"""What the stand-ins pretend: cards, their state, what NVML is allowed to say, and a fault that is to happen."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MIB, GIB = 2**20, 2**30

NvmlMode = Literal["ok", "absent", "denied", "no-processes", "lost"]
FAULTS = {"ecc": 214, "illegal-address": 700, "assert": 710, "lost": 719}
"""Errors that a kernel launch can end with, after which CUDA answers nothing else: ``cudaErrorECCUncorrectable``,
``cudaErrorIllegalAddress``, ``cudaErrorAssert``, ``cudaErrorLaunchFailure`` (driver_types.h)."""
UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class WorldError(Exception):
    """A card or a setting that does not exist."""


@dataclass(frozen=True)
class Card:
    """One CUDA device, with the fields of ``card_t`` in ``src/phantom.h``. Sizes are bytes.

    Attributes:
        parent, parent_name: UUID and name of the whole GPU, if this is a MIG instance.
        memory, nvml_memory: As CUDA and as NVML report the total.
        context: What each process takes before its first tensor.
        filled: Held by processes that the ledger does not know.
        slowdowns: Bits of ``nvmlDeviceGetCurrentClocksEventReasons``.
    """

    name: str
    uuid: str
    major: int
    minor: int
    sms: int
    memory: int
    nvml_memory: int
    l2: int
    smem_sm: int
    smem_optin: int
    threads_sm: int
    blocks_sm: int
    bus_bits: int
    context: int
    max_sm_mhz: int
    memory_mhz: int
    power_limit_w: int
    ecc: int
    parent: str = ""
    parent_name: str = ""
    filled: int = 0
    sm_mhz: int = 0
    power_w: int = 0
    temperature_c: int = 45
    utilization: int = 0
    slowdowns: int = 0


@dataclass(frozen=True)
class World:
    """All that the stand-ins of one launch agree on.

    Attributes:
        cards: In the driver's order.
        nvml: ``absent`` has no library, ``denied`` may not start it, ``no-processes`` hides who holds memory (a
            container), ``lost`` answers that the GPU is lost.
        driver: Version of the kernel driver.
        driver_cuda: The newest CUDA that the driver supports, 13000 for 13.0.
        bool_value: What one byte reads that neither the host nor a computed kernel has written. 1 means, for example,
            that no position of an attention mask is padding.
        keep_bytes: Contents of copies to the device up to this size are kept.
        fault: One of ``FAULTS``, at the launch ``fault_launch`` of each process.
        fault_bytes: Device memory beyond this is refused although the card is not full; 0 for no limit.
    """

    cards: tuple[Card, ...]
    nvml: NvmlMode = "ok"
    driver: str = "580.95.05"
    driver_cuda: int = 13000
    bool_value: int = 1
    keep_bytes: int = MIB
    fault: str = ""
    fault_launch: int = 0
    fault_bytes: int = 0

    def text(self) -> str:
        """The world file."""
        lines = [
            f"{name} {value}"
            for name, value in {
                "nvml": self.nvml,
                "driver": self.driver,
                "driver_cuda": self.driver_cuda,
                "bool_value": self.bool_value,
                "keep_bytes": self.keep_bytes,
                "fault": FAULTS[self.fault] if self.fault else 0,
                "fault_launch": self.fault_launch,
                "fault_bytes": self.fault_bytes,
            }.items()
        ]
        for card in self.cards:
            lines.append("card")
            lines += [f"{item.name} {value}" for item in fields(Card) if (value := getattr(card, item.name)) != ""]
        return "\n".join(lines) + "\n"


@cache
def card_table() -> Mapping[str, Mapping[str, Any]]:
    """The cards of ``cards.json``, by name."""
    table: Mapping[str, Mapping[str, Any]] = json.loads((HERE / "cards.json").read_text(encoding="utf-8"))["cards"]
    return table


def make_card(spec: str, index: int = 0) -> Card:
    """A card by name, with changed fields.

    Args:
        spec: ``"rtx-4090"``, or with settings: ``"rtx-4090:memory=8GiB,filled=2GiB"``, ``"a100-40gb:mig=3g.20gb"``.
        index: Its number; cards of one name differ in their UUID.

    Raises:
        WorldError: no such card or setting.
    """
    name, _, settings = spec.partition(":")
    if name not in card_table():
        raise WorldError(f"the card must be one of {', '.join(card_table())}, but got {name!r}")
    row = card_table()[name]
    profile = json.loads((ROOT / "profiles" / f"{row['profile']}.json").read_text(encoding="utf-8"))
    major, minor = profile["compute_capability"]
    same = ("sms", "smem_sm", "smem_optin", "threads_sm", "blocks_sm", "bus_bits", "max_sm_mhz", "memory_mhz")
    card = Card(
        name=row["name"],
        uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"phantom-{name}-{index}")),
        major=major,
        minor=minor,
        memory=int(profile["memory_bytes"]),
        nvml_memory=row["nvml_mib"] * MIB,
        l2=int(row["l2_mib"] * MIB),
        context=int(profile["context_bytes"]),
        power_limit_w=row["power_limit_w"],
        ecc=row["ecc"],
        sm_mhz=row["max_sm_mhz"],
        power_w=row["power_limit_w"] // 2,
        **{key: row[key] for key in same},
    )
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        card = _instance(card, row, value) if key == "mig" else _changed(card, key, value)
    return card


def _instance(card: Card, row: Mapping[str, Any], profile: str) -> Card:
    """A MIG instance of a card."""
    known = row.get("mig", {})
    if profile not in known:
        raise WorldError(f"the MIG profile must be one of {', '.join(known) or 'none'}, but got {profile!r}")
    memory = int(known[profile]["memory_gib"] * GIB)
    return replace(
        card,
        name=f"{card.name} MIG {profile}",
        uuid=str(uuid.uuid5(uuid.UUID(card.uuid), profile)),
        parent=card.uuid,
        parent_name=card.name,
        sms=known[profile]["sms"],
        memory=memory,
        nvml_memory=memory,
        l2=card.l2 * known[profile]["slices"] // 8,
    )


def _changed(card: Card, key: str, value: str) -> Card:
    kept = {item.name: item.type for item in fields(Card)}
    if key not in kept:
        raise WorldError(f"a card's setting must be mig or one of {', '.join(kept)}, but got {key!r}")
    changed = replace(card, **{key: parse_size(value) if kept[key] == "int" else value})
    if key == "memory":  # what the driver keeps stays the same
        changed = replace(changed, nvml_memory=changed.memory + max(0, card.nvml_memory - card.memory))
    return changed


def parse_size(text: str) -> int:
    """``"8GiB"``, ``"500MiB"`` or plain bytes.

    Raises:
        WorldError: not a size.
    """
    matched = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text)
    if matched is None or matched[2] not in UNITS:
        raise WorldError(f"a size must be a number with a unit, 8GiB or 500MiB, but got {text!r}")
    return int(float(matched[1]) * UNITS[matched[2]])


def parse_fault(text: str) -> tuple[str, int]:
    """``"ecc@5000"``: the name, and the launch at which it happens.

    Raises:
        WorldError: no such fault.
    """
    name, _, launch = text.partition("@")
    if name not in FAULTS or not launch.isdigit():
        raise WorldError(f"a fault must be {', '.join(FAULTS)} and a launch, ecc@5000, but got {text!r}")
    return name, int(launch)


@dataclass(frozen=True)
class Stage:
    """Where a world is played: the environment with the stand-ins, and a folder for the world and ledger files.

    Attributes:
        environment: A virtual environment that ``build.py`` has been run for.
        folder: Scratch space of one launch.
        world: What the stand-ins pretend.
        extra: More variables of the process environment.
    """

    environment: Path
    folder: Path
    world: World
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def variables(self, current: Mapping[str, str]) -> dict[str, str]:
        """The process environment that makes a command run on the phantom cards; writes the world file.

        Raises:
            WorldError: the stand-ins are not built.
        """
        built = self.environment / "phantom"
        if not (built / "preload").exists():
            raise WorldError(f"the stand-ins must be built in {built}, but they are not; run `make phantom`")
        names = (built / "preload").read_text().split()
        if self.world.nvml == "absent":
            names = [name for name in names if not name.startswith("libnvidia-ml")]
        file = self.folder / "world"
        file.write_text(self.world.text())
        paths = [str(built / name) for name in names]
        return {
            **current,
            "LD_PRELOAD": ":".join([*paths, *filter(None, [current.get("LD_PRELOAD")])]),
            "PHANTOM_WORLD": str(file),
            "PHANTOM_LEDGER": str(self.folder / "ledger"),
            "PHANTOM_HOOK": str(built / "allocator_hook.so"),
            "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",  # no plan of cuDNN's can be built, which Hopper would prefer
            "VIRTUAL_ENV": str(self.environment),
            "PATH": f"{self.environment / 'bin'}:{current.get('PATH', '')}",
            "PYTHONPATH": ":".join([str(ROOT), *filter(None, [current.get("PYTHONPATH")])]),
            **self.extra,
        }
