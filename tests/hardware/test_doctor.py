"""``advisor doctor``: what is said of pretended machines, and how facts of this one are gathered."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest

from advisor.cli.app import app
from advisor.hardware.backends.contact import Card, Check, DriverView, TorchView, torch_build
from advisor.hardware.doctor import examine
from advisor.hardware.inspection import Folder, Hub, Machine, Trial, asking, hub_state, look_at, read_trial
from advisor.hardware.nvml import driver_report
from advisor.hardware.trials import collect
from tests.docs.test_commands import parse
from tests.hardware.nvml_fake import fake_library

GIB = 2**30
CARD = Card("NVIDIA A100-SXM4-80GB", 80 * GIB, 79 * GIB, (8, 0))
DRIVER = DriverView("580.82.07", (13, 0), (CARD,))
NO_DRIVER = DriverView(refused="NVML must start, but it said: Driver Not Loaded")
BUILD = TorchView("2.11.0+cu130", "CUDA 13.0", 1, ("sm_75", "sm_80", "sm_90", "compute_120"))
CPU_BUILD = TorchView("2.11.0+cpu", "", 0)
TRIED = {
    "torch": ("yes", "imported"),
    "dtype float32": ("yes", "tried"),
    "dtype bfloat16": ("yes", "tried"),
    "dtype float16": ("yes", "tried"),
    "attention flash": ("yes", "tried in bfloat16"),
    "bitsandbytes": ("yes", "bitsandbytes 0.50.0: NF4 round trip within 0.10"),
    "bitsandbytes matmul_4bit": ("yes", "product and gradient"),
    "bitsandbytes adamw_8bit": ("yes", "a step"),
}
FINE = Machine(
    memory_bytes=64 * GIB,
    available_bytes=60 * GIB,
    busy="",
    folders=(Folder("output folder", Path("/data/runs"), 500 * GIB),),
    torch_version="2.11.0+cu130",
    packages={"torch": "2.11.0+cu130", "transformers": "5.17.0", "bitsandbytes": "0.50.0", "flash-attn": ""},
    required=("torch>=2.11", "transformers>=5.17", "bitsandbytes>=0.50"),
    drivers={"cuda": DRIVER},
    torch_views={"cuda": BUILD},
    trial=Trial("cuda", TRIED, counts={"cuda": 1}),
    hub=Hub("https://huggingface.co"),
    profile_name="NVIDIA A100-SXM4-80GB",
    profile_type="cuda",
)
ON_CPU = replace(FINE, trial=replace(FINE.trial, backend="cpu", counts={"cuda": 0}), profile_type="cpu")


def checks_of(machine: Machine) -> dict[str, Check]:
    return {check.name: check for check in examine(machine)}


def built(machine: Machine, torch: TorchView, driver: DriverView) -> Machine:
    return replace(machine, torch_version=torch.version, torch_views={"cuda": torch}, drivers={"cuda": driver})


def without(package: str) -> Machine:
    facts = {name: outcome for name, outcome in TRIED.items() if not name.startswith(package)}
    facts[package] = ("no", f"not importable: No module named '{package}'")
    return replace(FINE, packages={**FINE.packages, package: ""}, trial=replace(FINE.trial, facts=facts))


TOO_OLD = built(ON_CPU, replace(BUILD, count=0), replace(DRIVER, version="535.104.05", toolkit=(12, 2)))
OLD_CARD = replace(DRIVER, cards=(replace(CARD, name="Tesla P40", compute_capability=(6, 1)),))
FULL = replace(DRIVER, cards=(replace(CARD, free_bytes=300 * 2**20),))
MACHINES: dict[str, tuple[Machine, str, str, str]] = {
    "CUDA wheel without driver": (
        built(ON_CPU, replace(BUILD, count=0), NO_DRIVER), "torch, driver and card", "note", "no NVIDIA driver"),
    "driver too old": (TOO_OLD, "torch, driver and card", "problem", "whl/cu126"),
    "CPU wheel with a card": (built(ON_CPU, CPU_BUILD, DRIVER), "torch, driver and card", "problem", "whl/cu130"),
    "torch dropped the card": (built(FINE, BUILD, OLD_CARD), "torch, driver and card", "problem", "6.1"),
    "cards hidden": (
        built(ON_CPU, replace(BUILD, count=0), replace(DRIVER, hidden="")), "torch, driver and card", "note", "unset"),
    "card not usable": (built(ON_CPU, replace(BUILD, count=0), DRIVER), "torch, driver and card", "problem", "smi"),
    "NVML forbidden": (built(FINE, BUILD, replace(NO_DRIVER, version="580.82.07")), "NVML", "note", "power"),
    "full card": (built(FINE, BUILD, FULL), "device memory", "problem", "nvidia-smi"),
    "shared card": (
        built(FINE, BUILD, replace(DRIVER, cards=(replace(CARD, free_bytes=40 * GIB),))),
        "device memory", "note", "40.0 GiB of 80.0 GiB"),
    "busy machine": (replace(FINE, busy="load 9.0 on 2 CPUs"), "load", "note", "load 9.0"),
    "full disk": (
        replace(FINE, folders=(Folder("output folder", Path("/d"), 2**20),)), "output folder", "problem", "1.00 MiB"),
    "read-only disk": (
        replace(FINE, folders=(Folder("output folder", Path("/d"), 500 * GIB, writable=False),)),
        "output folder", "problem", "cannot be written"),
    "lost network folder": (
        replace(FINE, folders=(Folder("model cache", Path("/d"), None),)), "model cache", "note", "not answer"),
    "no RAM": (replace(FINE, available_bytes=GIB // 2), "RAM", "problem", "512 MiB of 64.0 GiB"),
    "bitsandbytes missing": (without("bitsandbytes"), "bitsandbytes", "note", "pip install 'bitsandbytes>=0.50'"),
    "bitsandbytes broken": (
        replace(FINE, trial=replace(FINE.trial, facts={**TRIED, "bitsandbytes adamw_8bit": ("no", "no symbol")})),
        "bitsandbytes", "note", "no symbol"),
    "old transformers": (
        replace(FINE, packages={**FINE.packages, "transformers": "4.57.0"}),
        "packages", "problem", "pip install 'transformers>=5.17'"),
    "torch missing": (
        replace(built(FINE, TorchView(), DRIVER), packages={**FINE.packages, "torch": ""}),
        "torch", "problem", "pip install torch"),
    "torch broken": (
        replace(FINE, trial=Trial(facts={"torch": ("no", "ImportError: libcudart.so.13")})),
        "torch", "problem", "libcudart"),
    "no float32": (
        replace(FINE, trial=replace(FINE.trial, facts={**TRIED, "dtype float32": ("no", "wrong")})),
        "data types", "problem", "wrong"),
    "offline": (replace(FINE, hub=Hub("https://hf.co", offline_by="HF_HUB_OFFLINE=1")), "hub", "ok", "offline by"),
    "no network": (replace(FINE, hub=Hub("https://hf.co", failure="timed out")), "hub", "note", "timed out"),
    "never probed": (replace(FINE, profile_name="", profile_type=""), "probe", "note", "advisor probe"),
    "probed as another device": (replace(FINE, profile_type="cpu"), "probe", "note", "a CPU"),
}  # fmt: skip


def test_a_machine_on_which_everything_works_has_nothing_to_do() -> None:
    checks = examine(FINE)
    assert {check.state for check in checks} == {"ok"}
    assert not [check.action for check in checks if check.action]
    assert len({check.name for check in checks}) == len(checks) == 13


@pytest.mark.parametrize("situation", MACHINES)
def test_a_situation_is_said_with_what_to_do(situation: str) -> None:
    machine, name, state, words = MACHINES[situation]
    check = checks_of(machine)[name]
    assert check.state == state
    assert words in f"{check.found} {check.action}"
    assert check.action or check.state == "ok"


def test_a_situation_changes_no_other_check() -> None:
    fine = checks_of(FINE)
    for situation in ("full card", "busy machine", "full disk", "no RAM", "old transformers", "no network"):
        machine, name, _, _ = MACHINES[situation]
        assert {other for other, check in checks_of(machine).items() if check != fine[other]} == {name}


def test_a_driver_of_the_same_major_version_of_cuda_is_new_enough() -> None:
    torch = replace(BUILD, built_for="CUDA 12.8", architectures=("sm_80",))
    assert checks_of(built(FINE, torch, replace(DRIVER, toolkit=(12, 2))))["torch, driver and card"].state == "ok"


def test_advisor_commands_that_are_named_exist() -> None:
    actions = [check.action for machine, *_ in MACHINES.values() for check in examine(machine)]
    named = {line for action in actions for line in re.findall(r"`(advisor [^`]*)`", action)}
    assert named == {"advisor probe"}
    for line in named:
        parse(app, shlex.split(line)[1:])
    with pytest.raises(click.UsageError):
        parse(app, ["advise"])


def test_what_was_not_tried_is_taken_from_the_last_probe() -> None:
    trial = replace(FINE.trial, facts={"torch": ("yes", "")}, ended="bitsandbytes: trying it took longer than 8 s")
    late = replace(FINE, trial=trial, profile_facts={"bitsandbytes": "yes (bitsandbytes 0.50.0: works)"})
    assert checks_of(late)["bitsandbytes"].state == "ok"
    assert "at the last probe" in checks_of(late)["bitsandbytes"].found
    assert checks_of(replace(late, profile_type="cpu"))["bitsandbytes"].state == "note"


def process(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_trial_that_crashes_or_hangs_says_where() -> None:
    lines = [
        {"kind": "trying", "name": "torch"},
        {"kind": "fact", "name": "torch", "value": "yes", "reason": "imported"},
        {"kind": "devices", "name": "cuda", "count": 1, "architectures": ["sm_80"]},
        {"kind": "device", "name": "cuda"},
        {"kind": "trying", "name": "bitsandbytes"},
    ]
    say = f"import os, time\nprint({chr(10).join(map(json.dumps, lines))!r}, flush=True)\n"
    crashed = read_trial(*collect(process(say + "os.abort()"), 20))
    assert crashed.facts["bitsandbytes"] == ("no", "trying it ended the process: signal SIGABRT")
    assert (crashed.backend, crashed.counts, crashed.architectures) == ("cuda", {"cuda": 1}, {"cuda": ("sm_80",)})
    late = read_trial(*collect(process(say + "time.sleep(60)"), 3))
    assert late.facts["bitsandbytes"][0] == "unknown"
    assert late.facts["torch"][0] == "yes"


def test_the_hub_is_not_asked_where_a_setting_forbids_it() -> None:
    asked: list[str] = []
    assert hub_state({"HF_HUB_OFFLINE": "1"}, asked.append).offline_by == "HF_HUB_OFFLINE=1"
    assert not asked
    assert hub_state({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "https://mirror"}, asked.append) == Hub("https://mirror")
    assert asked == ["https://mirror"]

    def refuse(_: str) -> None:
        raise OSError("no route")

    assert hub_state({}, refuse).failure == "no route"


def test_a_question_is_waited_for_only_so_long() -> None:
    begin = time.monotonic()
    assert asking(lambda: time.sleep(30), 0.1)() is None
    assert time.monotonic() - begin < 5
    assert asking(lambda: 7, 10)() == 7
    assert asking(lambda: 1 // 0, 10)() is None


def test_a_folder_that_will_be_made_has_the_space_of_where_it_will_be(tmp_path: Path) -> None:
    folder = look_at("output folder", tmp_path / "a" / "b")
    assert folder.writable
    assert folder.free_bytes
    assert not (tmp_path / "a").exists()


def test_nvml_tells_driver_and_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_library()
    library.nvmlSystemGetCudaDriverVersion = lambda: 12040  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    card = {"name": "NVIDIA H200", "total_bytes": 80 * GIB, "free_bytes": 79 * GIB, "compute_capability": (9, 0)}
    assert driver_report() == ("570.10", (12, 4), [card])
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(denied=("nvmlDeviceGetMemoryInfo",)))
    version, toolkit, (refused,) = driver_report()
    assert (version, toolkit, refused["free_bytes"], refused["name"]) == ("570.10", None, None, "NVIDIA H200")


def test_what_torch_was_built_for_is_read_without_importing_it() -> None:
    program = (
        "import sys; from advisor.hardware.backends.contact import torch_build;"
        "print(torch_build()['__version__'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [torch_build()["__version__"], "False"]
