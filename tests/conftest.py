"""Shared fixtures: demo assets, a home of its own, no network, GPU tests only where there is a GPU."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest

# BOFT has torch build an extension, which imports setuptools; setuptools refuses that after the standard library's
# distutils was imported by anything else, so it comes first.
import setuptools  # noqa: F401
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Set before anything imports transformers or datasets; also inherited by the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ADVISOR_DEMO_DIR", str(REPOSITORY / ".demo"))

# A user data directory of the tests' own, so that nothing learned on this machine leaks in or out: set before any test
# file is imported, because some load device profiles then.
HOME = tempfile.TemporaryDirectory(prefix="advisor-home-")
os.environ["ADVISOR_HOME"] = HOME.name

# Everyday runs draw the same examples on every machine; `make fuzz` draws new ones each time.
settings.register_profile("everyday", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("fuzz", settings.get_profile("default"), deadline=None)
settings.load_profile("everyday")


def pytest_unconfigure() -> None:
    HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def collector_of_what_is_new() -> None:
    """The garbage collector leaves alone what lives before a file's tests begin.

    Libraries are a million objects, and every profiled step collects and searches all of them several times: most of
    its time otherwise.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def advisor_home() -> Path:
    """The user data directory of this test run, empty when it began."""
    return Path(HOME.name)


@pytest.fixture(scope="session")
def trace_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces that the tests of this run make once, whichever worker needs them first; for tests of what follows from
    a trace, not of how one is made.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "traces"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    """Where the demo assets lie; `make assets` fetches them."""
    return Path(os.environ["ADVISOR_DEMO_DIR"])


def _asset(demo_dir: Path, name: str) -> Path:
    from advisor.training.data.asset_catalog import find_asset
    from advisor.training.data.asset_store import asset_folder, is_present
    from advisor.training.data.asset_unpack import ROWS_FILE

    asset = find_asset(name)
    if not is_present(asset, demo_dir):
        pytest.skip(f"{name} is not in {demo_dir}: python -m advisor.training.data.assets fetch {name} --to {demo_dir}")
    folder = asset_folder(asset, demo_dir)
    return folder if asset.kind == "model" else folder / ROWS_FILE


@pytest.fixture(scope="session")
def minilm_dir(demo_dir: Path) -> Path:
    """The pretrained MiniLM-L6 encoder: safetensors and tokenizer."""
    return _asset(demo_dir, "minilm")


@pytest.fixture(scope="session")
def smollm2_dir(demo_dir: Path) -> Path:
    """The pretrained SmolLM2-135M-Instruct decoder: safetensors and tokenizer."""
    return _asset(demo_dir, "smollm2")


@pytest.fixture(scope="session")
def movie_sentences(demo_dir: Path) -> Path:
    """10,072 labelled movie-review sentences as JSONL with the columns text and label."""
    return _asset(demo_dir, "movie-sentences")


@pytest.fixture(scope="session")
def wikipedia(demo_dir: Path) -> Path:
    """97 Wikipedia articles as JSONL with the columns title and text."""
    return _asset(demo_dir, "wikipedia")


@pytest.fixture(scope="session")
def bbc_news(demo_dir: Path) -> Path:
    """2,127 news articles in five classes as JSONL with the columns text and label."""
    return _asset(demo_dir, "bbc-news")
