"""Kinds of devices: the built-in back ends, and those that another package adds with one file and one entry point."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advisor.core.cost import CostEstimate
from advisor.core.errors import AdvisorError, DeviceError, InputError
from advisor.core.plan import ExecutionPlan
from advisor.hardware.backends import (
    BACKENDS,
    backend_names,
    backend_of,
    backend_of_id,
    backend_on,
    get_backend,
    is_host,
)
from advisor.hardware.profiles import load_profile, save_profile

CONFIG = Path(__file__).parents[1] / "fixtures" / "configs" / "distilbert-base-uncased.json"
EXECUTION = ExecutionPlan(4, max_seq_length=32)

THEIRS = '''
from advisor.hardware.backends import Backend
from advisor.hardware.backends.base import MemoryTraits, OverheadTraits, SetupTraits

CARD = SetupTraits(half_precision=True, compared=False, num_threads=False, eight_bit_optimizers=False)


class RocmBackend(Backend):
    """Predicts as for CUDA, whose operators and allocator ROCm's build of torch shares; cannot run yet."""

    name, title, torch_device = "rocm", "an AMD card", "cuda"
    setups = CARD
    memory = MemoryTraits(allocator="caching", round_bytes=512, counted=True, quantizes_on_device=True)
    overhead = OverheadTraits(25e-6, 4, warm_up_s=1.0, packed_item_bytes=2, packed_bytes_per_s=2e9)
    traced_as = "cuda"


class MpsBackend(Backend):
    """Says what it is, and nothing else yet."""

    name, title, torch_device = "mps", "an Apple GPU", "mps"
    setups = CARD


class PagingBackend(RocmBackend):
    """Names an allocator of which there is no model."""

    name = "paging"
    memory = MemoryTraits(allocator="pages", round_bytes=512, counted=True, quantizes_on_device=True)


class Misnamed(MpsBackend):
    name = "another"


class NotOne:
    pass
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a small distribution with entry points on the path; gives the function that does it."""

    def install(entry_points: str) -> None:
        (tmp_path / "their_devices.py").write_text(THEIRS)
        info = tmp_path / "their_devices-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-devices\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[advisor.backends]\n" + entry_points)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
        monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
        BACKENDS.forget()

    yield install
    BACKENDS.forget()


@pytest.fixture
def rocm_and_mps(installed: Callable[[str], None]) -> None:
    """Two further kinds of devices with a profile each: the MI300X's, under other types."""
    installed("rocm = their_devices:RocmBackend\nmps = their_devices:MpsBackend\n")
    for kind in ("rocm", "mps"):
        save_profile(dataclasses.replace(load_profile("mi300x"), id=f"mi300x-{kind}", type=kind))


def predicted(device: str) -> CostEstimate:
    from advisor import predict

    execution = {"micro_batch_size": 4, "max_seq_length": 32}
    return predict(str(CONFIG), method="head", execution=execution, device=device)


def test_what_predicting_needs_comes_without_torch() -> None:
    program = (
        "import sys\n"
        "from advisor.hardware.backends import backend_names, get_backend\n"
        "for name in backend_names():\n"
        "    backend = get_backend(name)\n"
        "    assert backend.name == name and backend.title and backend.torch_device\n"
        "    backend.setups, backend.memory, backend.overhead, backend.traced_as, backend.runtime, backend.probing\n"
        "print(*sorted({'torch', 'transformers', 'numpy', 'psutil', 'pynvml'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="'abacus'") as refused:
        get_backend("abacus")
    assert "cpu, cuda" in str(refused.value.fix)


def test_devices_are_found_by_profile_by_id_and_by_torchs_name() -> None:
    assert backend_of(load_profile("t4")) is backend_on("cuda:1") is backend_of_id("t4") is get_backend("cuda")
    assert backend_on("cpu") is backend_of_id("cpu-intel-xeon-2c") is get_backend("cpu")
    assert backend_on("fakegpu") is get_backend("cuda"), "the stand-in of a trace"
    assert is_host("cpu:0") and not is_host("cuda")


def test_tf32_is_a_matter_of_the_card() -> None:
    found = {name: get_backend("cuda").has_tf32(load_profile(name)) for name in ("t4", "v100-sxm2-16gb", "rtx-3090")}
    assert found == {"t4": False, "v100-sxm2-16gb": False, "rtx-3090": True}
    assert not get_backend("cpu").has_tf32(load_profile("rtx-3090"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PYTORCH_ALLOC_CONF", "expandable_segments:True", True),
        ("PYTORCH_ALLOC_CONF", "roundup_power2_divisions:[256:1,512:2], expandable_segments:true", True),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64,expandable_segments:True", True),
        ("PYTORCH_ALLOC_CONF", "expandable_segments:False", False),
        ("PYTORCH_ALLOC_CONF", "max_split_size_mb:64", False),
        ("PYTORCH_ALLOC_CONF", "", False),
    ],
)
def test_expandable_segments_are_read_from_the_environment(
    name: str, text: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(variable, text if variable == name else "")
    backend = get_backend("cuda")
    assert backend.expandable_segments(None) is expected
    assert (backend.expandable_segments(True), backend.expandable_segments(False)) == (True, False)
    assert not get_backend("cpu").expandable_segments(None)
    backend.runtime.prepare_process(None, expandable_segments=True)
    assert backend.expandable_segments(None)
    assert ("max_split_size_mb:64" in os.environ["PYTORCH_ALLOC_CONF"]) == ("max_split_size_mb" in text)


def test_expandable_segments_reserve_less_on_a_card_and_are_refused_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from advisor.pipeline import predict

    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")

    def memory(**execution: object) -> tuple[int, int]:
        sizes = {"micro_batch_size": 4, "max_seq_length": 32, **execution}
        found = predict(str(CONFIG), method="full", execution=sizes, device="t4").memory
        return found.allocated_bytes, found.reserved_bytes

    usual, expandable = memory(), memory(expandable_segments=True)
    assert expandable[0] <= usual[0] and expandable[1] < usual[1]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert memory() == expandable
    assert memory(expandable_segments=False) == usual
    with pytest.raises(InputError, match="--expandable-segments is a setting of torch's CUDA allocator"):
        predict(str(CONFIG), method="head", execution={"expandable_segments": True}, device="raspberry-pi-5")


def test_a_cpu_refuses_what_only_cards_have() -> None:
    wishes = {"amp": "fp16", "tf32": True, "optim": "paged_adamw_8bit"}
    for name, value in wishes.items():
        execution = dataclasses.replace(EXECUTION, **{name: value})
        [(rule, fix)] = get_backend("cpu").refusals(execution, here=False)
        assert str(value) in rule or name in rule
        assert fix
        assert get_backend("cuda").refusals(execution, here=False) == []
    assert get_backend("cpu").refusals(EXECUTION, here=True) == []


def test_another_package_adds_a_kind_of_device_that_predicts(rocm_and_mps: None) -> None:
    """AMD's card with ROCm's own type costs what it costs where it passes for CUDA."""
    assert backend_names() == ("cpu", "cuda", "rocm", "mps")
    as_rocm, as_cuda = predicted("mi300x-rocm"), predicted("mi300x")
    assert as_rocm.memory == as_cuda.memory
    assert as_rocm.time == as_cuda.time


def test_what_a_back_end_cannot_do_yet_it_says(rocm_and_mps: None) -> None:
    from advisor.training.switches import backend_of_plan
    from tests.core.records import make_plan

    for ask, what in (
        (lambda: predicted("mi300x-mps"), "'mps' cannot yet trace steps"),
        (lambda: get_backend("mps").memory, "'mps' cannot yet predict memory"),
        (lambda: backend_of_plan(dataclasses.replace(make_plan(), device="mi300x-rocm")), "'rocm' cannot yet train"),
    ):
        with pytest.raises(DeviceError, match=what) as refusal:
            ask()
        assert refusal.value.fix
        assert refusal.value.exit_code == 2


def test_a_probe_of_it_is_refused_by_the_probing_process(rocm_and_mps: None) -> None:
    from advisor.hardware import probe_device

    with pytest.raises(DeviceError, match="'rocm' cannot yet be probed"):
        probe_device(quick=True, device="rocm", save=False)


def test_a_built_in_back_end_cannot_be_taken_over(installed: Callable[[str], None]) -> None:
    installed("cpu = their_devices:MpsBackend\n")
    assert backend_names() == ("cpu", "cuda")
    assert get_backend("cpu").is_host


@pytest.mark.parametrize(
    "target", ["their_devices:Missing", "no_such_module:X", "their_devices:NotOne", "their_devices:Misnamed"]
)
def test_a_broken_entry_point_is_named(installed: Callable[[str], None], target: str) -> None:
    installed(f"broken = {target}\n")
    with pytest.raises(AdvisorError, match="broken"):
        get_backend("broken")
    assert backend_on("cuda").name == "cuda", "other devices are not spoilt by it"


def test_an_allocator_without_a_model_is_refused(installed: Callable[[str], None]) -> None:
    installed("paging = their_devices:PagingBackend\n")
    save_profile(dataclasses.replace(load_profile("mi300x"), id="mi300x-paging", type="paging"))
    with pytest.raises(DeviceError, match="allocator must be 'heap' or 'caching', but it is 'pages'") as refused:
        predicted("mi300x-paging")
    assert refused.value.fix
