"""Predictions against memory that other people measured and published; the figures stand in ``published/``.

Allocated is compared with allocated, reserved with reserved, NVML with reserved plus the context that the source
states. Every row beyond 10 % must name its reason; where the reason has a size, the rest must be small.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.strategies import registry
from tests.costmodel.published import encoders, litgpt, litgpt_figures
from tests.costmodel.published.figures import Figure, Predictor, Row, summary, table, unexplained


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A cost model that also knows LitGPT's architecture and methods, as if its package were installed."""
    folder = tmp_path_factory.mktemp("published")
    info = folder / "litgpt_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: litgpt-methods\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[advisor.strategies]\n" + "\n".join(litgpt.ENTRY_POINTS) + "\n", encoding="utf-8"
    )
    litgpt.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        _forget_strategies()
        yield Predictor(Path(folder) / "traces")
    _forget_strategies()


def _forget_strategies() -> None:
    for function in (registry._entry_points, registry.get_strategy):
        function.cache_clear()


def compare(predictor: Predictor, figures: list[Figure], *, median: float, p90: float, residual: float) -> list[Row]:
    """Predict all rows and hold the source to its bars."""
    rows = [predictor.row(figure) for figure in figures]
    print("\n" + table(rows))
    assert not unexplained(rows)
    total = summary(rows)
    assert total.median <= median, table(rows)
    assert total.p90 <= p90, table(rows)
    for row in rows:
        if row.figure.explained_bytes:
            assert abs(row.residual) <= residual, f"{row.figure.label}: {row.residual:+.1%}"
    return rows


def fast(figures: list[Figure]) -> list[Figure]:
    return [figure for figure in figures if not figure.slow]


def test_litgpt_in_short(predictor: Predictor) -> None:
    compare(predictor, fast(litgpt_figures.TUTORIAL), median=0.02, p90=0.03, residual=0.0)


def test_bert_large_in_short(predictor: Predictor) -> None:
    compare(predictor, fast(encoders.GUIDE), median=0.11, p90=0.12, residual=0.02)


def test_distilbert_on_sst2(predictor: Predictor) -> None:
    compare(predictor, encoders.SST2, median=0.03, p90=0.05, residual=0.0)


@pytest.mark.slow
def test_litgpt_tutorial(predictor: Predictor) -> None:
    compare(predictor, litgpt_figures.TUTORIAL, median=0.02, p90=0.055, residual=0.0)


@pytest.mark.slow
def test_litgpt_config_hub(predictor: Predictor) -> None:
    compare(predictor, litgpt_figures.CONFIG_HUB, median=0.02, p90=0.05, residual=0.0)


@pytest.mark.slow
def test_litgpt_config_hub_in_4_bits(predictor: Predictor) -> None:
    compare(predictor, litgpt_figures.CONFIG_HUB_NF4, median=0.15, p90=0.18, residual=0.0)


@pytest.mark.slow
def test_bert_large(predictor: Predictor) -> None:
    rows = compare(predictor, encoders.GUIDE, median=0.11, p90=0.13, residual=0.06)
    left = sorted(abs(row.residual) for row in rows)
    assert left[len(left) // 2] <= 0.02, "what the softmax does not explain"
