"""Calibrations that travel: what was written is read; what was changed or does not fit together is refused."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.exchange import (
    Exchanged,
    checksum_of,
    read_exchange,
    without_paths,
    write_exchange,
)
from advisor.calibration.merge import Part, merge
from advisor.core.coefficients import Calibration, Contribution
from advisor.core.errors import DeviceError, OutputError
from tests.calibration.calibrations import DEVICE, calibration, replays, step_point


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "there.json"


def rewritten(path: Path, change: Any, *, sealed: bool = True) -> Path:
    """The file with its values changed, and the checksum made right again unless it is left as it was."""
    values = json.loads(path.read_text())
    change(values)
    if sealed:
        values["checksum"] = checksum_of(values["calibrations"])
    path.write_text(json.dumps(values, indent=1))
    return path


def test_it_comes_back_as_it_was(path: Path) -> None:
    entry = Exchanged(DEVICE, calibration())
    written = write_exchange(path, [entry])
    assert written.calibrations == (entry,)
    assert read_exchange(path) == written
    assert written.advisor_version


def test_the_layout_may_change_but_not_the_content(path: Path) -> None:
    write_exchange(path, [Exchanged(DEVICE, calibration())])
    rewritten(path, lambda values: None, sealed=False)
    assert read_exchange(path).calibrations

    def faster(values: dict[str, Any]) -> None:
        values["calibrations"][0]["calibration"]["replays"][0]["median_s"] *= 0.5

    with pytest.raises(DeviceError, match="checksum"):
        read_exchange(rewritten(path, faster, sealed=False))


def test_nothing_that_exists_is_overwritten(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_exchange(path, [Exchanged(DEVICE, calibration())])
    assert path.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        write_exchange(tmp_path / "file" / "there.json", [Exchanged(DEVICE, calibration())])


def test_no_host_user_or_path_leaves_the_machine(path: Path) -> None:
    facts = {**DEVICE.facts, "gpu uuid": "GPU-1234", "memory": "8 (cgroup limit at /sys/fs/cgroup/user.slice/u-7)"}
    device = dataclasses.replace(DEVICE, facts=facts, sources={"memory_bytes": "limit of /sys/fs/cgroup/secret"})
    noted = calibration(notes=("steps of /home/somebody/models/m were not measured: 12 GB/s",))
    write_exchange(path, [Exchanged(device, noted)])
    text = path.read_text()
    for private in ("somebody", "GPU-1234", "user.slice", "secret", platform.node() or "no name"):
        assert private not in text
    assert "12 GB/s" in text


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_removing_paths_never_fails_and_is_done_once(text: str) -> None:
    assert without_paths(without_paths(text)) == without_paths(text)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda v: v.update(kind="a shopping list"), "exported calibration"),
        (lambda v: v.update(schema_version=99), "at most 1"),
        (lambda v: v["calibrations"][0]["calibration"].update(schema_version=99), "at most 1"),
        (lambda v: v["calibrations"].clear(), "no calibration"),
        (lambda v: v["calibrations"].append(v["calibrations"][0]), "twice"),
        (lambda v: v["calibrations"][0]["device"].update(id="cpu-y-4c"), "cpu-y-4c"),
        (lambda v: v["calibrations"][0]["device"].update(basis="datasheet"), "datasheet"),
        (lambda v: v["calibrations"][0]["calibration"].update(replays=[], points=[]), "no raw points"),
        (lambda v: v["calibrations"][0]["calibration"]["points"][0].update(step_times_s=[-1.0]), "positive"),
        (lambda v: v["calibrations"][0]["calibration"]["points"][0].update(step_times_s=[]), "positive"),
        (lambda v: v["calibrations"][0]["calibration"]["replays"][0].update(median_s="soon"), "median_s"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.update(calibrations="none"), "calibrations"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_rule(path: Path, change: Any, rule: str) -> None:
    write_exchange(path, [Exchanged(DEVICE, calibration())])
    with pytest.raises(DeviceError) as failure:
        read_exchange(rewritten(path, change))
    assert rule in str(failure.value)
    assert failure.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\x00"])
def test_what_is_no_such_file_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(DeviceError):
        read_exchange(path)
    path.unlink()
    with pytest.raises(DeviceError, match="no file"):
        read_exchange(path)


def part(name: str, found: Calibration) -> Part:
    return Part(name, DEVICE, found, file=name, checksum=f"sha256:{name}")


def other_machine(**changes: object) -> Calibration:
    """The same device elsewhere: a third slower, with a configuration of its own."""
    points = [step_point(), step_point(method="head", step_times_s=(0.05,) * 5)]
    return calibration(points, replays(slower=1.3), measured_at="2026-02-02T00:00:00+00:00", **changes)


def test_merging_keeps_all_points_and_says_where_they_are_from() -> None:
    both, shares = merge([part("a.json", calibration()), part("b.json", other_machine())])
    assert len(both.replays) == 2 * len(replays())
    assert [p.method for p in both.points] == ["lora", "full", "head"]
    assert [(s.name, s.replays, s.points, s.duplicates) for s in shares] == [("a.json", 12, 2, 0), ("b.json", 12, 1, 1)]
    assert [(e.file, e.replays, e.points) for e in both.provenance] == [("a.json", 12, 2), ("b.json", 12, 1)]
    assert {p.origin for p in both.replays} == {0, 1}
    assert both.provenance[1].checksum == "sha256:b.json"


def test_the_fits_are_made_again_from_all_points() -> None:
    first, both = calibration(), merge([part("a", calibration()), part("b", other_machine())])[0]
    large = 600 * 2**20, 2**22
    assert first.classes["gemm/float32"].seconds(*large) < both.classes["gemm/float32"].seconds(*large)
    assert both.classes["gemm/float32"].samples == 24
    assert both.step is not None
    assert both.step.samples == 3
    assert both.seconds == 60.0


def test_merging_the_same_file_twice_changes_nothing() -> None:
    once, _ = merge([part("a", calibration())])
    twice, shares = merge([part("a", calibration()), part("copy of a", calibration())])
    assert (twice.replays, twice.points, twice.provenance) == (once.replays, once.points, once.provenance)
    assert (shares[1].replays, shares[1].points, shares[1].duplicates) == (0, 0, 14)
    assert twice.seconds == once.seconds


def test_provenance_survives_a_chain_of_merges() -> None:
    inner, _ = merge([part("a", calibration()), part("b", other_machine())])
    third = calibration([step_point(method="ia3")], [], measured_at="2026-03-03T00:00:00+00:00")
    outer, _ = merge([Part("what is stored", DEVICE, third), part("ab", inner)])
    assert [(e.file, e.replays, e.points) for e in outer.provenance] == [("", 0, 1), ("a", 12, 2), ("b", 12, 1)]


@settings(max_examples=20)
@given(st.permutations(["a", "b", "a", "c"]))
def test_counts_add_up_in_any_order(order: list[str]) -> None:
    made = {"a": calibration(), "b": other_machine(), "c": calibration([step_point(method="ia3")], replays(2.0))}
    merged, shares = merge([part(name, made[name]) for name in order])
    assert sum(e.replays for e in merged.provenance) == len(merged.replays) == 36
    assert sum(e.points for e in merged.provenance) == len(merged.points) == 4
    assert sum(s.replays for s in shares) == 36


@pytest.mark.parametrize("name", ["torch", "driver", "cores", "python"])
def test_other_versions_are_refused_with_all_differences(name: str) -> None:
    odd = other_machine()
    odd = dataclasses.replace(odd, versions={**odd.versions, name: "0.0", "peft": "0.1"})
    with pytest.raises(DeviceError) as failure:
        merge([part("a.json", calibration()), part("b.json", odd)])
    assert sorted(problem.split(":")[0] for problem in failure.value.problems) == sorted([name, "peft"])
    assert "a.json" in failure.value.problems[0]
    assert "b.json 0" in failure.value.problems[0]


def test_another_device_is_refused() -> None:
    other = dataclasses.replace(DEVICE, id="cpu-y-4c")
    with pytest.raises(DeviceError) as failure:
        merge([part("a", calibration()), Part("b", other, calibration(device=other))])
    assert failure.value.problems == ("device: a cpu-x-2c, b cpu-y-4c",)


def test_a_driver_that_only_one_side_knows_differs() -> None:
    known = calibration()
    known = dataclasses.replace(known, versions={**known.versions, "driver": "550.54"})
    with pytest.raises(DeviceError) as failure:
        merge([part("a", known), part("b", calibration())])
    assert failure.value.problems == ("driver: a 550.54, b unknown",)


def test_what_has_no_provenance_is_called_unknown() -> None:
    old = dataclasses.replace(calibration(), provenance=())
    merged, _ = merge([Part("what is stored", DEVICE, old), part("b", other_machine())])
    assert merged.provenance[0] == Contribution(old.created_at, "unknown", {}, 12, 2)


def test_a_partial_part_leaves_its_mark() -> None:
    assert merge([part("a", calibration()), part("b", other_machine(partial="interrupted"))])[0].partial
    assert not merge([part("a", calibration()), part("b", calibration(partial="interrupted"))])[0].partial, (
        "nothing new"
    )
