"""Situations that a card brings about, made by stand-ins: what torch and the advisor's own code do then."""

from __future__ import annotations

import pytest

from tests.phantom.stage import Theatre
from tools.phantom_gpu.world import GIB, MIB, World, make_card

pytestmark = pytest.mark.phantom


def test_out_of_memory_comes_after_a_retry_and_empty_cache_gives_back(theatre: Theatre) -> None:
    card = make_card("rtx-4090:memory=2GiB,context=256MiB")
    found = theatre.script(
        World((card,)),
        """
        found = {}
        def block(mib):
            return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
        first, second = block(600), block(600)
        found["full"] = torch.cuda.memory_reserved()
        del first
        third = block(900)  # fits only when the cached 600 MiB go back
        found["retries"] = torch.cuda.memory_stats()["num_alloc_retries"]
        found["after_retry"] = torch.cuda.memory_reserved()
        try:
            block(2048)
        except torch.cuda.OutOfMemoryError as error:
            found["message"] = str(error)
        found["ooms"] = torch.cuda.memory_stats()["num_ooms"]
        del second, third
        before = torch.cuda.mem_get_info()[0]
        torch.cuda.empty_cache()
        found["given_back"] = torch.cuda.mem_get_info()[0] - before
        found["left"] = torch.cuda.memory_reserved()
        """,
    )
    assert found["full"] == 1200 * MIB
    assert (found["retries"], found["after_retry"]) == (1, 1500 * MIB)
    assert found["ooms"] == 1
    assert "GPU 0 has a total capacity of 2.00 GiB" in found["message"], "what the advisor's readers of messages expect"
    assert (found["given_back"], found["left"]) == (1500 * MIB, 0)


def test_a_card_that_others_fill(theatre: Theatre) -> None:
    card = make_card("rtx-3090:filled=20GiB")
    found = theatre.script(
        World((card,)),
        """
        from advisor.hardware.nvml import all_gpu_states
        [state] = all_gpu_states().values()
        found = {"before": state["free_bytes"], "processes": len(state["process_bytes"])}
        torch.zeros(1, device="cuda")
        found["free"], found["total"] = torch.cuda.mem_get_info()
        """,
    )
    assert (found["before"], found["total"]) == (card.memory - 20 * GIB, card.memory)
    assert found["processes"] == 0, "who fills it is not in the list, as in a container"
    assert found["free"] == card.memory - 20 * GIB - card.context - 2 * MIB


def test_a_card_without_room_for_a_context(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("rtx-4090:memory=8GiB,filled=7.9GiB"),)),
        """
        from advisor.measurement.child import classify
        try:
            torch.zeros(1, device="cuda:0")
            found = "it worked"
        except RuntimeError as error:
            found = [type(error).__name__, classify(error).outcome]
        """,
    )
    assert found == ["AcceleratorError", "out_of_memory"], "CUDA's own error, not that of torch's allocator"


TWO = World((make_card("t4", 0), make_card("rtx-4090", 1)))
SEEN = "found = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]"


@pytest.mark.parametrize(
    ("visible", "cards"),
    [("1", [1]), ("1,0", [1, 0]), ("0,7,1", [0]), ("", []), (f"GPU-{TWO.cards[1].uuid}", [1])],
)
def test_visible_devices(theatre: Theatre, visible: str, cards: list[int]) -> None:
    found = theatre.script(TWO, SEEN, {"CUDA_VISIBLE_DEVICES": visible})
    assert found == [TWO.cards[card].uuid for card in cards]


def test_two_cards_have_their_own_memory(theatre: Theatre) -> None:
    found = theatre.script(
        TWO,
        """
        from advisor.hardware.nvml import used_bytes_by_gpu
        x = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:1")
        found = {"reserved": [torch.cuda.memory_reserved(i) for i in (0, 1)], "device": x.device.index}
        found["moved"] = x[:4].to("cuda:0").cpu().tolist()
        found["used"] = used_bytes_by_gpu()
        found["uuids"] = [str(torch.cuda.get_device_properties(i).uuid) for i in (0, 1)]
        """,
    )
    assert found["reserved"] == [0, 64 * MIB] and found["device"] == 1
    assert found["uuids"] == [card.uuid for card in TWO.cards]
    kept = [card.nvml_memory - card.memory for card in TWO.cards]
    assert found["used"][TWO.cards[1].uuid] == kept[1] + TWO.cards[1].context + 64 * MIB


def test_a_mig_instance(theatre: Theatre) -> None:
    card = make_card("a100-40gb:mig=3g.20gb")
    found = theatre.script(
        World((card,)),
        """
        from advisor.hardware.nvml import all_gpu_states, gpu_state
        found = {"before": list(all_gpu_states())}
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "uuid": str(properties.uuid), "bytes": torch.cuda.mem_get_info()[1]}
        found["state"] = gpu_state(found["uuid"])
        """,
    )
    assert found["before"] == [card.parent], "NVML lists the whole GPU"
    assert found["name"] == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert (found["uuid"], found["bytes"]) == (card.uuid, card.memory)
    assert found["state"]["total_bytes"] == card.memory
    assert found["state"]["sm_clock_hz"] is None and "sm_clock_hz" in found["state"]["refused"]


@pytest.mark.parametrize(
    ("nvml", "said"),
    [("absent", "Library Not Found"), ("denied", "Insufficient Permissions"), ("lost", "GPU is lost")],
)
def test_nvml_that_refuses_is_a_typed_error(theatre: Theatre, nvml: str, said: str) -> None:
    found = theatre.script(
        World((make_card("t4"),), nvml=nvml),  # type: ignore[arg-type]
        """
        from advisor.hardware.nvml import NvmlUnavailable, compute_capability
        try:
            found = repr(compute_capability())
        except NvmlUnavailable as error:
            found = error.message
        """,
    )
    assert said in found


def test_hidden_processes_leave_the_growth_of_used_memory(theatre: Theatre) -> None:
    card = make_card("rtx-4090")
    found = theatre.script(
        World((card,), nvml="no-processes"),
        """
        from advisor.experiments.validation.measure import ProcessFigure, current_uuid
        figure = ProcessFigure(current_uuid)
        x = torch.zeros(8 << 20, dtype=torch.uint8, device="cuda")
        found = [figure.read(), figure.reason]
        """,
    )
    assert found[0] == card.context + 20 * MIB, "a tensor of 8 MiB lies in a segment of 20 MiB"
    assert "minus what was used before" in found[1]


ISOLATED = """
from advisor.experiments.validation.measure import look_at_gpu
from advisor.measurement.isolation import isolated
result = isolated(look_at_gpu, timeout_s=500)
found = [result.outcome, result.value, result.reason]
"""


@pytest.mark.parametrize("nvml", ["ok", "absent", "denied", "no-processes"])
def test_isolated_processes_can_use_the_card_whatever_nvml_says(theatre: Theatre, nvml: str) -> None:
    """Without NVML the server that they are forked from must not have started CUDA by asking for the card."""
    card = make_card("rtx-4090")
    found = theatre.script(World((card,), nvml=nvml), ISOLATED)  # type: ignore[arg-type]
    outcome, value, reason = found
    assert (outcome, reason) == ("completed", "")
    assert value[:2] == [card.memory, card.memory - card.context - 2 * MIB]
    assert value[2] == (None if nvml in ("absent", "denied") else card.context + 2 * MIB)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("ecc", "uncorrectable ECC error encountered"), ("lost", "unspecified launch failure")],
)
def test_a_fault_ends_an_isolated_process_with_a_reason(theatre: Theatre, fault: str, said: str) -> None:
    found = theatre.script(World((make_card("t4"),), fault=fault, fault_launch=1), ISOLATED)
    assert found[0] == "failed" and said in found[2]


def test_after_a_fault_cuda_is_lost(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("t4"),), fault="illegal-address", fault_launch=2),
        """
        from advisor.hardware.backends import get_backend
        runtime = get_backend("cuda").runtime
        torch.ones(1, device="cuda")
        found = [runtime.is_lost()]
        try:
            torch.ones(1, device="cuda")
        except RuntimeError as error:
            found.append(str(error).splitlines()[0])
        found.append(runtime.is_lost())
        """,
    )
    assert found == [False, "CUDA error: an illegal memory access was encountered", True]


def test_an_old_driver_is_no_card(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("t4"),), driver_cuda=12040),
        """
        import warnings
        from advisor.hardware.backends import get_backend
        warnings.simplefilter("ignore")
        found = [torch.cuda.is_available(), get_backend("cuda").runtime.count()]
        """,
    )
    assert found == [False, 0]


def test_expandable_segments_grow_and_are_given_back(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("rtx-4090"),)),
        """
        free = lambda: torch.cuda.mem_get_info()[0]
        torch.cuda.init()
        start = free()
        x = torch.empty(100 << 20, dtype=torch.uint8, device="cuda")
        y = torch.empty(50 << 20, dtype=torch.uint8, device="cuda")
        found = {"segments": [s["is_expandable"] for s in torch.cuda.memory_snapshot()]}
        found["held"] = start - free()
        del x, y
        torch.cuda.empty_cache()
        found["left"] = start - free()
        """,
        {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    )
    assert found["segments"] == [True], "one segment that has grown"
    assert (found["held"], found["left"]) == (160 * MIB, 0), "pages of 20 MiB"


def test_a_plan_decides_on_expandable_segments(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("rtx-4090"),)),
        """
        from advisor.hardware.backends import get_backend
        get_backend("cuda").runtime.prepare_process(1, expandable_segments=True)
        x = torch.empty(100 << 20, dtype=torch.uint8, device="cuda")
        found = {"segments": [s["is_expandable"] for s in torch.cuda.memory_snapshot()]}
        """,
        {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"},
    )
    assert found["segments"] == [True]


def test_small_values_are_those_that_the_host_wrote(theatre: Theatre) -> None:
    found = theatre.script(
        World((make_card("rtx-4090"),)),
        """
        mask = torch.ones(4, 16, dtype=torch.long)
        mask[1, 8:] = 0
        there = mask.cuda()
        found = {
            "back": there.cpu().equal(mask),
            "all": [bool(there.bool().all()), bool(torch.ones(3, 3, device="cuda").bool().all())],
            "sums": [int(there.sum()), int(there.ne(0).sum()), int(there.max()), int(there.min())],
            "moved": there[1].clone().cpu().tolist(),
            "unknown": torch.randn(4, device="cuda").sum().item(),
        }
        address = there.data_ptr()
        del there
        fresh = torch.empty(4, 16, dtype=torch.long, device="cuda")
        found["inherited"] = [fresh.data_ptr() == address, fresh.cpu().sum().item()]
        """,
    )
    assert found["back"] and found["all"] == [False, True]
    assert found["sums"] == [56, 56, 1, 0]
    assert found["moved"] == [1] * 8 + [0] * 8
    assert found["unknown"] == 0
    assert found["inherited"] == [True, 0], "a block that is handed out again holds nothing of its last tensor"


def test_processes_share_a_card(theatre: Theatre) -> None:
    """What a child holds its parent cannot have, and what a dead child held is free again."""
    card = make_card("rtx-4090:memory=2GiB,context=256MiB")
    found = theatre.script(
        World((card,)),
        """
        import subprocess, sys
        child = '''
        import sys, torch
        x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        print("ready", flush=True); sys.stdin.read()
        '''.replace("\\n        ", "\\n")
        process = subprocess.Popen([sys.executable, "-c", child], stdin=-1, stdout=-1, text=True)
        process.stdout.readline()
        found = []
        try:
            torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError as error:
            found.append(str(error))
        process.kill(); process.wait()
        found.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda").numel())
        """,
    )
    assert "Process " in found[0] and "has 1.25 GiB memory in use" in found[0]
    assert found[1] == GIB
