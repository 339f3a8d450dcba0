"""Files are written whole or not at all, and a folder that cannot take them says why."""

import os
from pathlib import Path

import pytest

from advisor.core import store
from advisor.core.errors import OutputError
from advisor.core.store import ensure_writable_dir, resource_dir, user_data_dir, write_text_atomically


def test_a_write_makes_its_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_text_atomically(path, "first")
    write_text_atomically(path, "second ✓")
    assert path.read_text(encoding="utf-8") == "second ✓"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_text_atomically(path, "precious")

    def disk_is_full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_text_atomically(path, "new")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_text_atomically(path, "precious")

    def interrupted(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomically(path, "new")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_text_atomically(tmp_path / "file" / "plan.json", "x")
    with pytest.raises(OutputError):
        ensure_writable_dir(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="is a file"):
        ensure_writable_dir(tmp_path / "file")


def test_a_file_system_that_takes_no_files_is_refused() -> None:
    # The kernel's own file systems refuse new files to everybody, root included.
    with pytest.raises(OutputError) as refused:
        ensure_writable_dir(Path("/proc/advisor-run"))
    assert refused.value.fix is not None
    with pytest.raises(OutputError):
        write_text_atomically(Path("/proc/plan.json"), "x")


def test_too_little_space_is_found_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="free"):
        ensure_writable_dir(tmp_path / "run", needed_bytes=2**62)
    ensure_writable_dir(tmp_path / "run", needed_bytes=1)
    assert list((tmp_path / "run").iterdir()) == []


def test_user_data_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    assert user_data_dir("profiles") == tmp_path / "home" / "profiles"
    monkeypatch.delenv("ADVISOR_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert user_data_dir() == tmp_path / "xdg" / "finetune-advisor"


def test_shipped_resources_are_found() -> None:
    assert (resource_dir("profiles") / "t4.json").is_file()
    assert any(resource_dir("calibration").iterdir())


def test_a_missing_resource_says_to_reinstall() -> None:
    with pytest.raises(FileNotFoundError, match="reinstall"):
        resource_dir("no-such-folder")


def test_resources_inside_a_wheel_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "advisor"
    (package / "core").mkdir(parents=True)
    (package / "resources" / "profiles").mkdir(parents=True)
    (tmp_path / "site" / "profiles").mkdir()
    monkeypatch.setattr(store, "__file__", str(package / "core" / "store.py"))
    assert resource_dir("profiles") == package / "resources" / "profiles"
