"""The wheel holds the package and its read-only data, and finds the data when it is installed elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(REPOSITORY)], check=True, capture_output=True)
    return next(folder.glob("finetune_advisor-*.whl"))


def test_the_wheel_has_package_data_and_nothing_foreign(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    for folder in ("profiles", "calibration"):
        shipped = {path.name for path in (REPOSITORY / folder).rglob("*") if path.is_file()}
        packed = {name.rsplit("/", 1)[1] for name in names if name.startswith(f"advisor/resources/{folder}/")}
        assert shipped == packed
    assert {name.split("/")[0].split("-")[0] for name in names} == {"advisor", "finetune_advisor"}
    assert "advisor = advisor.__main__:main" in entry_points


def test_an_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import advisor, sys\n"
        "from advisor.core.store import resource_dir\n"
        "from advisor.hardware import load_profile\n"
        "print(advisor.__file__)\n"
        "print(resource_dir('profiles'))\n"
        "print(load_profile('t4').id)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ADVISOR_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    module, profiles, device = done.stdout.splitlines()
    assert module == str(tmp_path / "site" / "advisor" / "__init__.py")
    assert profiles == str(tmp_path / "site" / "advisor" / "resources" / "profiles")
    assert device == "t4"


def test_a_source_tree_finds_its_data() -> None:
    from advisor.core.store import resource_dir

    if (Path(resource_dir("profiles")).parent / "pyproject.toml").exists():
        assert resource_dir("profiles") == REPOSITORY / "profiles"
    assert (resource_dir("calibration")).is_dir()
