"""``advisor calibrate`` around the measuring: showing, exporting, importing, and what it refuses."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from advisor.calibration.database import database_path, load_calibration, save_calibration
from advisor.calibration.exchange import Exchanged, write_exchange
from advisor.calibration.merging import import_files
from advisor.core.coefficients import Calibration
from advisor.core.device import DeviceProfile
from advisor.hardware import save_profile
from advisor.pipeline.calibrating import calibrate
from advisor.reporting.calibration import print_calibration
from tests.calibration.calibrations import calibration, replays, step_point
from tests.calibration.test_flow import Machine
from tests.cli.conftest import Advisor


@pytest.fixture
def stored(cpu_profile: DeviceProfile) -> Calibration:
    """What this machine measured."""
    found = calibration(device=cpu_profile)
    save_calibration(found)
    return found


@pytest.fixture
def file(advisor: Advisor, stored: Calibration, tmp_path: Path) -> Path:
    """Its export."""
    path = tmp_path / "node-1.json"
    assert advisor("calibrate", "export", path).code == 0
    return path


def test_what_is_stored_is_shown(advisor: Advisor, stored: Calibration) -> None:
    shown = advisor("calibrate", "show")
    assert shown.code == 0
    for text in (
        "Calibration of a pretended CPU (cpu-test)",
        "12 operator calls and steps of 2 configurations, all measured before",
        "bert/sequence-classification/384x6/30522",
        "lora, full",
        "8 x 64 tokens",
        "gemm/float32",
        "whole steps:",
        "repeat noise is 0.00 %",
        "Missing:",
        "qlora",
        "gradient checkpointing",
        "measured in 30 s altogether, stored in",
    ):
        assert text in shown.stdout, text


def test_as_json_it_is_complete(advisor: Advisor, stored: Calibration) -> None:
    shown = advisor("calibrate", "show", "--json").json
    assert len(shown["calibration"]["replays"]) == 12
    assert shown["calibration"]["points"][0]["step_times_s"] == [0.1] * 5
    assert shown["calibration"]["provenance"][0]["replays"] == 12
    assert shown["path"] == str(database_path())
    assert shown["coverage"][0]["methods"] == ["lora", "full"]
    assert shown["unknown"]
    assert shown["differences"] == []


def test_other_versions_are_said(advisor: Advisor, cpu_profile: DeviceProfile) -> None:
    found = calibration(device=cpu_profile)
    save_calibration(dataclasses.replace(found, versions={**found.versions, "torch": "2.0"}))
    shown = advisor("calibrate", "show")
    assert shown.code == 0
    assert "not used as calibrated, because versions differ" in shown.stdout
    assert "torch: calibrated with 2.0" in shown.stdout


@pytest.mark.parametrize("arguments", [("show",), ("export", "there.json"), ("export", "x", "--device", "all")])
def test_without_a_calibration_there_is_nothing_to_show_or_export(
    advisor: Advisor, cpu_profile: DeviceProfile, arguments: tuple[str, ...]
) -> None:
    answer = advisor("calibrate", *arguments)
    assert answer.code == 2
    assert "none is stored" in answer.stderr
    assert "advisor calibrate" in answer.stderr


def test_an_export_says_what_it_holds(advisor: Advisor, stored: Calibration, tmp_path: Path) -> None:
    answer = advisor("calibrate", "export", tmp_path / "a.json", "--device", "cpu-test")
    assert "12 operator calls and steps of 2 configurations" in answer.stdout
    assert "advisor calibrate import a.json" in answer.stdout
    as_json = advisor("calibrate", "export", tmp_path / "b.json", "--device", "all", "--json").json
    assert as_json["calibrations"][0]["device"] == "cpu-test"
    assert as_json["checksum"] == json.loads((tmp_path / "b.json").read_text())["checksum"]


def test_an_export_overwrites_nothing(advisor: Advisor, file: Path) -> None:
    answer = advisor("calibrate", "export", file)
    assert answer.code == 2
    assert "must be a new file" in answer.stderr


def test_an_import_elsewhere_makes_the_device_known(
    advisor: Advisor, file: Path, stored: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "elsewhere"))
    answer = advisor("calibrate", "import", file)
    assert answer.code == 0, answer.stderr
    assert "node-1.json" in answer.stdout
    found = load_calibration("cpu-test")
    assert found is not None
    assert (found.replays, found.points, found.step) == (stored.replays, stored.points, stored.step)
    assert [(e.file, e.replays) for e in found.provenance] == [("node-1.json", 12)]
    assert "cpu-test" in advisor("devices").stdout


def test_importing_ones_own_changes_nothing(advisor: Advisor, file: Path, stored: Calibration) -> None:
    answer = advisor("calibrate", "import", file, file, "--json").json
    assert [share["duplicates"] for share in answer["shares"]] == [0, 14, 14]
    found = load_calibration("cpu-test")
    assert found is not None
    assert (found.replays, found.points, found.provenance) == (stored.replays, stored.points, stored.provenance)


def test_two_files_are_merged(
    advisor: Advisor, file: Path, cpu_profile: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_calibration(calibration([step_point(method="head")], replays(1.3), device=cpu_profile))
    assert advisor("calibrate", "export", tmp_path / "node-2.json").code == 0
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "elsewhere"))
    answer = advisor("calibrate", "import", file, tmp_path / "node-2.json")
    assert answer.code == 0
    assert "from:" in answer.stdout
    assert "12 operator calls and steps of 1 configuration, in node-2.json, measured" in answer.stdout
    found = load_calibration("cpu-test")
    assert found is not None
    assert len(found.replays) == 24
    assert len(found.points) == 3


def test_other_versions_are_not_imported_on_the_machine_at_hand(
    advisor: Advisor, stored: Calibration, cpu_profile: DeviceProfile, tmp_path: Path
) -> None:
    versions = {**stored.versions, "torch": "2.0", "peft": "0.1"}
    write_exchange(tmp_path / "old.json", [Exchanged(cpu_profile, dataclasses.replace(stored, versions=versions))])
    answer = advisor("calibrate", "import", tmp_path / "old.json")
    assert answer.code == 2
    for text in ("torch: calibrated with 2.0", "peft: calibrated with 0.1", "fix:"):
        assert text in answer.stderr
    assert load_calibration("cpu-test") == stored


def test_an_import_is_fitted_with_the_machines_own_profile(
    advisor: Advisor, cpu_profile: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file says of its own machine proves nothing about this one, and does not replace what is known of it."""
    there = dataclasses.replace(cpu_profile, facts={"cores": "8 (affinity)"}, launch_s=1.0)
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "elsewhere"))
    save_profile(there)
    save_calibration(calibration(device=there))
    assert advisor("calibrate", "export", tmp_path / "there.json").code == 0
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    save_profile(dataclasses.replace(cpu_profile, facts={"cores": "2 (affinity)"}))
    refused = advisor("calibrate", "import", tmp_path / "there.json")
    assert refused.code == 2
    assert "cores: calibrated with 8, now 2" in refused.stderr
    save_profile(dataclasses.replace(cpu_profile, facts={"cores": "8 (affinity)"}))
    [imported], _ = import_files([tmp_path / "there.json"], this_device_id="cpu-test")
    assert imported.device.launch_s == cpu_profile.launch_s


def test_other_versions_are_not_mixed_for_a_machine_elsewhere(
    advisor: Advisor,
    file: Path,
    stored: Calibration,
    cpu_profile: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = dataclasses.replace(stored, versions={**stored.versions, "torch": "2.0"})
    write_exchange(tmp_path / "old.json", [Exchanged(cpu_profile, old)])
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "elsewhere"))
    assert advisor("calibrate", "import", file).code == 0
    refused = advisor("calibrate", "import", tmp_path / "old.json", "--json")
    assert refused.code == 2
    [problem] = refused.json["problems"]
    assert problem.startswith("torch: what is stored ")
    assert problem.endswith("old.json 2.0")
    replaced = advisor("calibrate", "import", tmp_path / "old.json", "--fresh")
    assert replaced.code == 0
    assert "is kept as" in replaced.stderr
    found = load_calibration("cpu-test")
    assert found is not None
    assert found.versions["torch"] == "2.0"


def test_damaged_files_are_reported_together_and_nothing_is_imported(
    advisor: Advisor, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.json").write_text(file.read_text()[:-40])
    (tmp_path / "changed.json").write_text(file.read_text().replace('"median_s": 2', '"median_s": 1', 1))
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "elsewhere"))
    names = ("torn.json", "changed.json", "missing.json")
    answer = advisor("calibrate", "import", *(tmp_path / name for name in names), file)
    assert answer.code == 2
    for text in ("3 of 4 are not", "breaks off", "checksum", "no file at"):
        assert text in answer.stderr
    assert load_calibration("cpu-test") is None


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("show", "import", "a.json"), "unexpected extra argument"),
        (("show", "some-model"), "unexpected extra argument"),
        (("export", "a.json", "--quick"), "No such option"),
        (("export",), "Missing argument"),
        (("import",), "Missing argument"),
        (("import", "a.json", "--device", "t4"), "No such option"),
        (("from-steps", "s.json"), "Missing option '--device'"),
        (("from-steps", "--device", "t4"), "at least one file"),
        (("run", "--device", "t4"), "No such option"),
    ],
)
def test_what_a_command_does_not_take_is_refused(
    advisor: Advisor, cpu_profile: DeviceProfile, arguments: tuple[str, ...], rule: str
) -> None:
    answer = advisor("calibrate", *arguments)
    assert answer.code == 2
    assert rule.lower() in answer.stderr.lower()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (("--show",), "advisor calibrate show"),
        (("--show", "--device", "t4"), "advisor calibrate show --device t4"),
        (("--export", "a.json"), "advisor calibrate export a.json"),
        (("--export=a.json", "--device", "all"), "advisor calibrate export a.json --device all"),
        (("--import", "a.json", "--import", "b.json"), "advisor calibrate import a.json b.json"),
        (("--device", "t4", "--steps", "s.json"), "advisor calibrate from-steps --device t4 --steps s.json"),
        (("--device", "t4", "--fresh"), "advisor calibrate reset --device t4"),
        (("no-such-model", "--quick"), "advisor calibrate run no-such-model --quick"),
    ],
)
def test_spellings_of_version_0_1_still_work(
    advisor: Advisor, cpu_profile: DeviceProfile, before: tuple[str, ...], now: str
) -> None:
    answer = advisor("calibrate", *before)
    assert f"this is `{now}`" in answer.stderr
    assert answer.code == 2, "there is nothing of the kind, which is said by the command itself"
    assert "No such option" not in answer.stderr


def test_measuring_ends_with_the_report(cpu_profile: DeviceProfile) -> None:
    """The measuring itself is made up: it is tested where it is done."""
    report = calibrate(measurer=Machine(), fresh=True, quick=True)
    assert report.device_name == cpu_profile.name
    page = io.StringIO()
    print_calibration(Console(file=page, width=160), report)
    assert "new: 8 operator calls and steps of 2 configurations" in page.getvalue()
    assert "took " in page.getvalue()


@pytest.mark.parametrize("arguments", [("show",), ("export", "x.json"), ("run",)])
def test_a_database_that_cannot_be_used_is_no_traceback(
    advisor: Advisor, stored: Calibration, arguments: tuple[str, ...]
) -> None:
    database_path().write_bytes(b"no database" * 999)
    answer = advisor("calibrate", *arguments)
    assert answer.code == 2
    assert "it is damaged" in answer.stderr
    assert "move it away" in answer.stderr
    database_path().unlink()
    database_path().mkdir()
    answer = advisor("calibrate")
    assert answer.code == 2
    assert "cannot be opened" in answer.stderr


def test_a_home_that_is_a_file_is_no_traceback(
    advisor: Advisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    for arguments in (("show",), ("export", tmp_path / "x.json"), ("run",)):
        answer = advisor("calibrate", *arguments)
        assert answer.code == 2
        assert "writable" in answer.stderr


def test_the_help_has_examples_and_exit_codes(advisor: Advisor) -> None:
    text = "".join(advisor("calibrate", *command, "--help").stdout for command in ((), ("run",), ("export",)))
    for part in ("advisor calibrate import node-1.json node-2.json", "130", "Exit codes", "checksum"):
        assert part in text
