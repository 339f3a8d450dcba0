"""A tiny model, a tiny labelled table, a pretended machine, and the command line called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from advisor.cli.app import app
from advisor.core.device import DeviceProfile, Rate
from tests.training.training_runs import save_model, save_table


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Advisor = Callable[..., Answer]


@pytest.fixture(autouse=True)
def without_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user sees, whatever the shell that runs the tests is set to."""
    monkeypatch.delenv("ADVISOR_DEBUG", raising=False)


@pytest.fixture
def advisor() -> Advisor:
    """Call a command; a traceback anywhere fails the test."""

    def call(*arguments: str | Path) -> Answer:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights, a tokenizer and 64 positions."""
    return save_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 labelled sentences as JSONL with the columns text and label."""
    return save_table(tmp_path_factory.mktemp("cli") / "rows.jsonl")


def pretended_cpu() -> DeviceProfile:
    """The profile of a machine that is not there."""
    return DeviceProfile(
        id="cpu-test",
        name="a pretended CPU",
        type="cpu",
        memory_bytes=8 * 2**30,
        available_bytes=8 * 2**30,
        dtypes=("float32", "bfloat16"),
        attention_kernels=("math", "flash"),
        context_bytes=500 * 2**20,
        flops_per_s={"float32": Rate(5e10, "probed")},
        bytes_per_s={"memory": Rate(1e10, "probed")},
        launch_s=5e-6,
        basis="measured",
    )


@pytest.fixture
def cpu_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    """A home in which this machine has been probed."""
    from advisor.hardware import save_profile

    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    profile = pretended_cpu()
    save_profile(profile)
    return profile
