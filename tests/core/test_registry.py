"""Built-in objects and entry points by name; broken entry points of other packages are errors of the input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from advisor.core.code_version import code_version
from advisor.core.errors import InputError
from advisor.core.registry import Registry

GROUP = "advisor.things"


@dataclass(frozen=True)
class Thing:
    """What the registry of these tests holds."""

    name: str


OWN = (Thing("own"), Thing("other"))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with entry points of every kind, on the path."""
    info = tmp_path / "things_plugin-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: things-plugin\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nfound=things_plugin:FOUND\nmade=things_plugin:Made\nown=things_plugin:OWN\n"
        "absent=things_plugin:ABSENT\nwrong=things_plugin:WRONG\nnamed=things_plugin:FOUND\nbroken=no_such_module:X\n"
    )
    (tmp_path / "things_plugin.py").write_text(
        "from tests.core.test_registry import Thing\n"
        "FOUND = Thing('found')\nOWN = Thing('own')\nWRONG = 'wrong'\n"
        "class Made(Thing):\n    def __init__(self):\n        super().__init__('made')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "things_plugin", raising=False)
    return tmp_path


def registry() -> Registry[Thing]:
    return Registry(GROUP, "thing", Thing, lambda: OWN)


@pytest.mark.usefixtures("packages")
def test_built_in_objects_come_first_and_keep_their_names() -> None:
    things = registry()
    assert things.names()[:3] == ("own", "other", "found")
    assert things.get("own") is OWN[0]
    assert things.get("found") == Thing("found")
    assert things.get("made").name == "made"
    assert "made" in things and "no" not in things


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "could not be loaded from things_plugin:ABSENT"),
        ("broken", "could not be loaded from no_such_module:X"),
        ("wrong", "must be a tests.core.test_registry.Thing of that name"),
        ("named", "must be a tests.core.test_registry.Thing of that name"),
        ("fund", "there is no thing 'fund'"),
    ],
)
def test_what_cannot_be_used_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        registry().get(name)
    assert refused.value.fix


def test_the_code_version_changes_with_the_code_of_the_package(packages: Path) -> None:
    things = registry()
    before = things.code_version("found")
    assert things.code_version("own") == ""
    with (packages / "things_plugin.py").open("a") as stream:
        stream.write("LATER = True\n")
    code_version.cache_clear()  # as in another process
    assert things.code_version("found") not in ("", before)


def test_forgetting_lets_new_packages_be_found(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    things = registry()
    assert "found" in things.names()
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry != str(packages)])
    things.forget()
    assert things.names() == ("own", "other")
