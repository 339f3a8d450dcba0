"""Tables of what the phantom cards showed, from the recorded figures alone (``python tools/generate_docs.py``)."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.phantom_gpu.record import EVALUATION, EXPANDABLE, RECORDS, SAVING, name_of, read_records

PREDICTED = RECORDS / "predicted.jsonl"
EDGES = RECORDS / "edges.jsonl"
CLASSES: dict[str, Callable[[str], bool]] = {
    "full, AdamW": lambda text: bool(re.search(r" full ", text)) and not _other_optimizer(text),
    "full, other optimizers (SGD, Adafactor, 8-bit, paged)": lambda text: " full " in text,
    "partial and head": lambda text: bool(re.search(r" (partial|head) ", text)),
    "QLoRA": lambda text: " qlora " in text,
    "LoRA": lambda text: bool(re.search(r" (high_rank_lora|lora|sparse_lora) ", text)),
    "other adapters (IA3, HiRA, VeRA, DoRA)": lambda text: True,
}
"""Methods and optimizers; a configuration belongs to the first that takes it."""
SITUATIONS: dict[str, Callable[[str], bool]] = {
    "checkpointing": lambda text: bool(re.search(r"checkpointed|reentrant", text)),
    "mixed precision": lambda text: " amp" in text,
    "accumulation": lambda text: "accumulate" in text,
    "mixed lengths": lambda text: "mixed_lengths" in text,
    "k-bit preparation": lambda text: "upcast" in text,
    "expandable segments": lambda text: EXPANDABLE in text,
    "evaluation or saving": lambda text: bool(re.search(f"{EVALUATION}|{SAVING}", text)),
    "eager attention": lambda text: " eager" in text,
}
"""Further cuts through the same records."""


def _other_optimizer(text: str) -> bool:
    return bool(re.search(r"\b(sgd|adafactor|8bit|paged)\b", text))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Records, one JSON object a line; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def class_of(text: str) -> str:
    """The class of a configuration, by its name."""
    return next(name for name, belongs in CLASSES.items() if belongs(f"{text} "))


def differences() -> dict[str, tuple[float, float]]:
    """Predicted over recorded bytes - 1, allocated and reserved, by the record's name."""
    recorded = {name_of(line): line for line in read_records()}
    return {
        line["name"]: (
            line["allocated_bytes"] / recorded[line["name"]]["allocated_bytes"] - 1,
            line["reserved_bytes"] / recorded[line["name"]]["reserved_bytes"] - 1,
        )
        for line in read_lines(PREDICTED)
        if line["name"] in recorded
    }


def accuracy_table() -> str:
    """Markdown: predicted against recorded bytes by class, and by situation."""
    from tools.generate_docs import table

    found, rows = differences(), []
    for name in CLASSES:
        rows.append(_row(name, [pair for text, pair in found.items() if class_of(text) == name]))
    rows.append(_row("**all**", found.values()))
    for name, belongs in SITUATIONS.items():
        rows.append(_row(f"of these: {name}", [pair for text, pair in found.items() if belongs(text)]))
    headings = ("configurations", "n", "allocated, median", "worst", "reserved, median", "worst")
    return table(headings, rows)


def _row(name: str, pairs: Iterable[tuple[float, float]]) -> Sequence[str]:
    pairs = list(pairs)
    cells = [name, str(len(pairs))]
    for figures in zip(*pairs, strict=True):
        sizes = [abs(figure) for figure in figures]
        cells += [f"{statistics.median(sizes):.2%}", f"{max(sizes):.2%}"]
    return cells


def edge_table() -> str:
    """Markdown: what was called fitting near a card's capacity, and what became of it."""
    from tools.generate_docs import table
    from tools.phantom_gpu.edges import false_fit, need_of

    lines, rows = [line for line in read_lines(EDGES) if line["outcome"]], []
    for name in (*CLASSES, "**all**"):
        group = [line for line in lines if name == "**all**" or class_of(f"{line['card']} {line['case']}") == name]
        if not group:
            continue
        needs = [need_of(line) for line in group]
        ran = [line["outcome"] == "completed" for line in group]
        pairs = list(zip(needs, ran, strict=True))
        refused = [completed for need, completed in pairs if not need.fits and not need.surely_too_large]
        beyond = [completed for need, completed in pairs if need.surely_too_large]
        margins = [need.margin for need in needs]
        cells = [
            str(sum(need.fits for need in needs)),
            str(sum(false_fit(line) for line in group)),
            f"{len(refused)}, of which {sum(refused)} ran",
            f"{len(beyond)}, of which {sum(beyond)} ran",
            f"{statistics.median(margins):.1%}",
            f"{max(margins):.1%}",
        ]
        rows.append([name, str(len(group)), *cells])
    headings = ("configurations", "n", "called fitting", "of these ran out", "refused within the margin",
                "refused beyond it", "margin, median", "worst")  # fmt: skip
    return table(headings, rows)
