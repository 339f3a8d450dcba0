"""Tests here need `make phantom`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.phantom.stage import Theatre
from tools.phantom_gpu.run import default_environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    built = default_environment() / "phantom" / "preload"
    for item in items:
        if item.get_closest_marker("phantom") and not built.exists():
            item.add_marker(pytest.mark.skip(reason=f"needs {built.parent}: run `make phantom`"))


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)
