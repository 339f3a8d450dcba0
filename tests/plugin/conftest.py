"""The example distribution, built as a wheel and unpacked into a folder of its own, without network or installer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.core.metrics import METRICS
from advisor.core.tasks import TASKS
from advisor.strategies import registry as strategy_registry
from advisor.training.data.named import DATASETS
from tests.cli.conftest import advisor, cpu_profile, model_dir, table, without_debugging  # noqa: F401

DISTRIBUTION = Path(__file__).parent / "distribution"
PACKAGE = "advisor_plugin_example"
REGISTRIES = (strategy_registry, TASKS, METRICS, DATASETS)
"""Modules and registries with a ``forget`` function: what they know of entry points is forgotten when the distribution
comes and goes."""


def install(target: Path, distribution: Path = DISTRIBUTION) -> Path:
    """Build a distribution with its own build back end and unpack the wheel, as an installer would.

    Returns:
        The folder to put on ``sys.path``.
    """
    source = shutil.copytree(distribution, target / "source")
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(target)]
    subprocess.run(command, cwd=source, check=True, timeout=60, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example distribution is installed."""
    return install(tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def plugin(plugin_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example distribution on the path of this process and of those that it starts."""
    monkeypatch.syspath_prepend(str(plugin_site))
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(plugin_site), before])))
    forget()
    yield plugin_site
    forget()


def forget() -> None:
    """Let the registries look for entry points anew, and import the package anew."""
    for registry in REGISTRIES:
        registry.forget()
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
