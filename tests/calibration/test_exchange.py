"""Calibrations that travel: what was written is read; what was changed or does not fit together is refused."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.calibration.database import CalibrationDatabase, load_calibration, save_calibration
from advisor.calibration.exchange import PATH, Exchanged, checksum_of, read_exchange, write_exchange
from advisor.calibration.merging import Imported, import_files
from advisor.core.coefficients import Calibration, Contribution
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, OutputError
from advisor.hardware import load_profile
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
    assert PATH.sub("…", PATH.sub("…", text)) == PATH.sub("…", text)


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


# Files become part of what is stored.


@pytest.fixture
def merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imported]:
    """Import named calibrations into what is stored; at first that is nothing."""
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))

    def call(*parts: tuple[str, Calibration], device: DeviceProfile = DEVICE) -> Imported:
        files = []
        for number, (name, found) in enumerate(parts):
            files.append(tmp_path / str(number) / name)
            files[-1].unlink(missing_ok=True)
            write_exchange(files[-1], [Exchanged(device, found)])
        [imported], _ = import_files(files)
        assert load_calibration(device.id, imported.calibration.versions) == imported.calibration
        return imported

    return call


def other_machine(**changes: object) -> Calibration:
    """The same device elsewhere: a third slower, with a configuration of its own."""
    points = [step_point(), step_point(method="head", step_times_s=(0.05,) * 5)]
    return calibration(points, replays(slower=1.3), measured_at="2026-02-02T00:00:00+00:00", **changes)


def test_merging_keeps_all_points_and_says_where_they_are_from(merge: Callable[..., Imported]) -> None:
    found = merge(("a.json", calibration()), ("b.json", other_machine()))
    both, shares = found.calibration, found.parts
    assert len(both.replays) == 2 * len(replays())
    assert [p.method for p in both.points] == ["lora", "full", "head"]
    assert [(s.name, s.replays, s.points, s.duplicates) for s in shares] == [("a.json", 12, 2, 0), ("b.json", 12, 1, 1)]
    assert [(e.file, e.replays, e.points) for e in both.provenance] == [("a.json", 12, 2), ("b.json", 12, 1)]
    assert {p.origin for p in both.replays} == {0, 1}
    assert both.provenance[1].checksum.startswith("sha256:")
    assert found.new == (24, 3)


def test_the_fits_are_made_again_from_all_points(merge: Callable[..., Imported]) -> None:
    first, both = calibration(), merge(("a", calibration()), ("b", other_machine())).calibration
    large = 600 * 2**20, 2**22
    assert first.classes["gemm/float32"].seconds(*large) < both.classes["gemm/float32"].seconds(*large)
    assert both.classes["gemm/float32"].samples == 24
    assert both.step is not None
    assert both.step.samples == 3
    assert both.seconds == 60.0


def test_importing_the_same_file_twice_changes_nothing(merge: Callable[..., Imported]) -> None:
    once = merge(("a", calibration())).calibration
    found = merge(("copy of a", calibration()))
    again = found.calibration
    assert (again.replays, again.points, again.provenance) == (once.replays, once.points, once.provenance)
    assert [(s.name, s.replays, s.points, s.duplicates) for s in found.parts] == [
        ("what is stored", 12, 2, 0), ("copy of a", 0, 0, 14),
    ]  # fmt: skip
    assert again.seconds == once.seconds


def test_provenance_survives_a_chain_of_merges(merge: Callable[..., Imported], tmp_path: Path) -> None:
    inner = merge(("a", calibration()), ("b", other_machine())).calibration
    third = calibration([step_point(method="ia3")], [], measured_at="2026-03-03T00:00:00+00:00")
    save_calibration(third)
    outer = merge(("ab", inner)).calibration
    assert [(e.file, e.replays, e.points) for e in outer.provenance] == [("", 0, 1), ("a", 12, 2), ("b", 12, 1)]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(["a", "b", "a", "c"]))
def test_counts_add_up_in_any_order(merge: Callable[..., Imported], order: list[str]) -> None:
    with CalibrationDatabase(writing=True) as database, database.transaction():
        database.forget(DEVICE.id)
    made = {"a": calibration(), "b": other_machine(), "c": calibration([step_point(method="ia3")], replays(2.0))}
    found = merge(*((name, made[name]) for name in order))
    merged, shares = found.calibration, found.parts
    assert sum(e.replays for e in merged.provenance) == len(merged.replays) == 36
    assert sum(e.points for e in merged.provenance) == len(merged.points) == 4
    assert sum(s.replays for s in shares) == 36


@pytest.mark.parametrize("name", ["torch", "driver", "cores", "python"])
def test_other_versions_are_refused_with_all_differences(merge: Callable[..., Imported], name: str) -> None:
    odd = other_machine()
    odd = dataclasses.replace(odd, versions={**odd.versions, name: "0.0", "peft": "0.1"})
    with pytest.raises(DeviceError) as failure:
        merge(("a.json", calibration()), ("b.json", odd))
    assert sorted(problem.split(":")[0] for problem in failure.value.problems) == sorted([name, "peft"])
    assert "a.json" in failure.value.problems[0]
    assert "b.json 0" in failure.value.problems[0]
    assert load_calibration(DEVICE.id) is None, "all or none"


def test_a_driver_that_only_one_side_knows_differs(merge: Callable[..., Imported]) -> None:
    known = calibration()
    known = dataclasses.replace(known, versions={**known.versions, "driver": "550.54"})
    with pytest.raises(DeviceError) as failure:
        merge(("a", known), ("b", calibration()))
    assert failure.value.problems == ("driver: a 550.54, b unknown",)


def test_what_has_no_provenance_is_called_unknown(merge: Callable[..., Imported]) -> None:
    old = dataclasses.replace(calibration(), provenance=())
    save_calibration(old)
    merged = merge(("b", other_machine())).calibration
    assert merged.provenance[0] == Contribution(old.created_at, "unknown", {}, 12, 2)


def test_a_partial_part_leaves_its_mark(merge: Callable[..., Imported]) -> None:
    assert not merge(("a", calibration()), ("b", calibration(partial="interrupted"))).calibration.partial, "nothing new"
    assert merge(("c", other_machine(partial="interrupted"))).calibration.partial


def test_what_is_replaced_is_kept_and_can_be_imported_again(merge: Callable[..., Imported], tmp_path: Path) -> None:
    before = merge(("a", calibration())).calibration
    write_exchange(tmp_path / "other.json", [Exchanged(DEVICE, other_machine())])
    [replaced], [note] = import_files([tmp_path / "other.json"], fresh=True)
    assert [p.method for p in replaced.calibration.points] == ["lora", "head"]
    kept = Path(note.rpartition(" ")[2])
    [again], _ = import_files([kept], fresh=True)
    assert again.calibration.points == before.points
    assert again.calibration.classes == before.classes


def test_something_unreadable_can_be_replaced(tmp_path: Path, merge: Callable[..., Imported]) -> None:
    (tmp_path / "home" / "calibration").mkdir(parents=True)
    (tmp_path / "home" / "calibration" / f"{DEVICE.id}.json").write_text("{")
    with pytest.raises(DeviceError, match="must be JSON"):
        merge(("a", calibration()))
    write_exchange(tmp_path / "a.json", [Exchanged(DEVICE, calibration())])
    import_files([tmp_path / "a.json"], fresh=True)
    assert load_calibration(DEVICE.id) is not None


def test_the_device_becomes_known_unless_the_user_has_a_profile_of_it(merge: Callable[..., Imported]) -> None:
    merge(("a", calibration()))
    assert load_profile(DEVICE.id) == DEVICE
