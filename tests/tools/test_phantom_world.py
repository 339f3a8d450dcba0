"""Cards that are not there: what the launcher tells the stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.phantom_gpu.run import arguments, world_of
from tools.phantom_gpu.world import GIB, HERE, ROOT, Card, Stage, World, WorldError, card_table, make_card, parse_size


@pytest.mark.parametrize("name", card_table())
def test_a_card_takes_memory_context_and_capability_from_its_profile(name: str) -> None:
    card = make_card(name)
    profile = json.loads((ROOT / "profiles" / f"{card_table()[name]['profile']}.json").read_text())
    assert (card.memory, card.context) == (profile["memory_bytes"], profile["context_bytes"])
    assert [card.major, card.minor] == profile["compute_capability"]
    assert card.nvml_memory >= card.memory, "NVML counts what the driver keeps, too"
    assert card_table()[name]["source"]


def test_settings_change_a_card() -> None:
    card = make_card("rtx-4090:memory=8GiB,filled=1.5GiB,temperature_c=81")
    assert (card.memory, card.filled, card.temperature_c) == (8 * GIB, 3 * GIB // 2, 81)
    plain = make_card("rtx-4090")
    assert card.nvml_memory - card.memory == plain.nvml_memory - plain.memory, "what the driver keeps stays the same"


def test_two_cards_of_one_name_have_their_own_uuid() -> None:
    assert make_card("t4", 0).uuid != make_card("t4", 1).uuid
    assert make_card("t4", 0) == make_card("t4", 0)


def test_a_mig_instance_is_a_part_of_its_gpu() -> None:
    whole, part = make_card("a100-40gb"), make_card("a100-40gb:mig=3g.20gb")
    assert (part.parent, part.parent_name) == (whole.uuid, whole.name)
    assert part.uuid != whole.uuid and part.memory < whole.memory / 2 and part.sms == 42


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gtx-1", "must be one of t4"),
        ("t4:colour=red", "must be mig or one of"),
        ("t4:mig=1g.5gb", "must be one of none"),
        ("t4:memory=8gigs", "8GiB or 500MiB"),
    ],
)
def test_what_does_not_exist_is_refused(spec: str, said: str) -> None:
    with pytest.raises(WorldError, match=said):
        make_card(spec)


def test_options_become_a_world() -> None:
    options = arguments(
        ["--card", "t4", "--card", "h100:filled=1GiB", "--nvml", "denied", "--fault", "ecc@7", "--", "true"]
    )
    world = world_of(options)
    assert [card.name for card in world.cards] == ["Tesla T4", "NVIDIA H100 80GB HBM3"]
    assert (world.nvml, world.fault, world.fault_launch) == ("denied", "ecc", 7)
    assert options.command == ["true"]
    with pytest.raises(WorldError, match="ecc@5000"):
        world_of(arguments(["--fault", "ecc", "--", "true"]))


def test_the_world_file_has_a_line_for_every_field_that_the_stand_ins_read() -> None:
    """core.c ends the process at a line that it does not know; every field of a card must be one that it knows."""
    source = (HERE / "src/core.c").read_text()
    text = World((make_card("a100-40gb:mig=3g.20gb"),), fault="lost", fault_launch=3).text()
    before, _, card = text.partition("card\n")
    for line in card.splitlines():
        assert f"OF_CARD({line.split()[0]})" in source or f'"{line.split()[0]}"' in source, line
    for line in before.splitlines():
        assert f'!strcmp(name, "{line.split()[0]}")' in source, line
    assert "fault 719" in text and "fault_launch 3" in text


def test_without_the_stand_ins_the_launcher_says_what_to_do(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "environment", tmp_path, World((make_card("t4"),)))
    with pytest.raises(WorldError, match="make phantom"):
        stage.variables({})


def test_an_absent_nvml_is_not_loaded(tmp_path: Path) -> None:
    built = tmp_path / "environment" / "phantom"
    built.mkdir(parents=True)
    (built / "preload").write_text("libphantom.so\nlibcudart.so.13\nlibnvidia-ml.so.1\n")
    for nvml, there in (("ok", True), ("absent", False)):
        stage = Stage(tmp_path / "environment", tmp_path, World((make_card("t4"),), nvml=nvml))
        loaded = stage.variables({"LD_PRELOAD": "mine.so"})["LD_PRELOAD"].split(":")
        assert loaded[0].endswith("libphantom.so") and loaded[-1] == "mine.so"
        assert any("libnvidia-ml" in name for name in loaded) == there


def test_sizes() -> None:
    assert [parse_size(text) for text in ("12", "1KiB", "1.5GiB", "2GB")] == [12, 1024, 3 * 2**29, 2 * 10**9]
    assert Card.__dataclass_fields__["memory"].type == "int", "settings are parsed by the type's name"
