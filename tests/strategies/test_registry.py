from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.errors import InputError
from advisor.strategies import get_strategy, registry, strategy_names


def test_the_ten_methods_are_there() -> None:
    expected = {
        "full",
        "partial",
        "head",
        "lora",
        "high_rank_lora",
        "hira",
        "sparse_lora",
        "qlora",
        "sparse_qlora",
        "ia3",
        "peft",
    }
    assert expected <= set(strategy_names())


def test_unknown_name_gets_near_matches() -> None:
    with pytest.raises(InputError, match="there is no strategy 'qlorra'") as caught:
        get_strategy("qlorra")
    assert "qlora" in str(caught.value.fix)


def test_far_off_name_lists_all() -> None:
    with pytest.raises(InputError) as caught:
        get_strategy("zzz")
    assert all(name in str(caught.value.fix) for name in ("full", "peft"))


def test_names_and_classes_come_without_torch() -> None:
    code = (
        "import sys\nfrom advisor.strategies import get_strategy, strategy_names\n"
        "[get_strategy(name) for name in strategy_names()]\n"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a small distribution with entry points on the path; returns the function that does it."""

    def install(entry_points: str) -> None:
        (tmp_path / "their_methods.py").write_text(
            "from dataclasses import dataclass\n"
            "from advisor.core.strategy import Knobs\n"
            "from advisor.strategies.own_weights import FullFineTuning\n"
            "class Mine(FullFineTuning):\n    name = 'mine'\n"
            "class NotOne:\n    pass\n"
            "@dataclass(frozen=True)\nclass Odd(Knobs):\n    needed: int\n    learning_rate: float = 1.0\n"
            "@dataclass\nclass Loose:\n    number: int = 1\n"
            "class OddOne(Mine):\n    name, knobs = 'odd', Odd\n"
            "class LooseOne(Mine):\n    name, knobs = 'odd', Loose\n"
        )
        info = tmp_path / "their_methods-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[advisor.strategies]\n" + entry_points)
        monkeypatch.syspath_prepend(str(tmp_path))
        registry.forget()

    yield install
    registry.forget()


def test_another_package_can_add_a_method(installed) -> None:
    installed("mine = their_methods:Mine\n")
    assert get_strategy("mine").name == "mine"
    assert strategy_names()[-1] == "mine"


def test_another_package_cannot_replace_a_built_in(installed) -> None:
    installed("lora = their_methods:Mine\n")
    assert get_strategy("lora").name == "lora"


@pytest.mark.parametrize("target", ["their_methods:Missing", "no_such_module:X", "their_methods:NotOne"])
def test_broken_entry_points_are_named(installed, target: str) -> None:
    installed(f"broken = {target}\n")
    with pytest.raises(InputError, match="broken"):
        get_strategy("broken")


@pytest.mark.parametrize(
    ("target", "words"),
    [("OddOne", ["needed has none", "called learning_rate"]), ("LooseOne", ["frozen dataclass", "Loose is not"])],
)
def test_knobs_that_no_configuration_can_carry_are_named(installed, target: str, words: list[str]) -> None:
    installed(f"odd = their_methods:{target}\n")
    with pytest.raises(InputError) as refused:
        get_strategy("odd")
    assert all(word in str(refused.value) for word in words)
