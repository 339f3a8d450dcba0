"""Explanations in the terminal and as a page: bars, tensors, the timeline; names from outside are only text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from advisor.core.errors import OutputError
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, TensorGroup, Timeline
from advisor.reporting.explain import collapsed_layers, print_explanation
from advisor.reporting.timeline import timeline_page, write_timeline
from advisor.search.sensitivity import ChangeComparison, Effect

MIB = 2**20
NASTY = '</script><script>alert("x")</script>[bold]&amp;'


def explanation(module: str = "model.layers.1.mlp") -> PeakExplanation:
    kinds = ("weights", "optimizer states", "gradients", "activations", "temporaries")
    live = ((10 * MIB, 0, 0, 0, 0), (10 * MIB, 5 * MIB, 0, 20 * MIB, 0), (10 * MIB, 5 * MIB, 9 * MIB, 3 * MIB, MIB))
    timeline = Timeline(
        kinds, live, (4, 40, 90), (("weights", 0), ("forward", 1), ("backward", 2)), (module, module, "frees it"), 1
    )
    total = 35 * MIB
    kind_shares = (
        PeakShare("activations", 20 * MIB),
        PeakShare("weights", 10 * MIB),
        PeakShare("optimizer states", 5 * MIB),
    )
    group = TensorGroup(
        module, "Mlp", "MLP intermediate", "activations", "mm", (4, 64, 512), "float32", "forward", True, 3, 15 * MIB
    )
    layers = (PeakShare("layer 0", 5 * MIB), PeakShare("layer 1", 5 * MIB), PeakShare("outside the layers", 25 * MIB))
    return PeakExplanation(
        total,
        "forward",
        module,
        "mm",
        kind_shares,
        kind_shares,
        layers,
        kind_shares,
        kind_shares,
        (group,),
        timeline,
        2,
    )


def comparison(name: str = "checkpointing") -> ChangeComparison:
    saving = Effect(name, "--gradient-checkpointing", 20 * MIB, 15 * MIB, 1.3, False, False)
    return ChangeComparison(
        35 * MIB, (saving,), (name,), None, (), (f"{name}: no",), f"activations dominate: {name} saves"
    )


def printed(explained: PeakExplanation, compared: ChangeComparison) -> str:
    console = Console(width=140, record=True, force_terminal=False)
    print_explanation(console, explained, compared, note="the device's own peak is in loading")
    return console.export_text()


def test_the_terminal_shows_peak_bars_tensors_and_choices():
    text = printed(explanation(), comparison())
    assert "Peak of live tensors: 35.0 MiB in the forward pass, reached by mm of model.layers.1.mlp" in text
    assert re.search(r"activations +20\.0 MiB +57\.1 % +█{32}", text)
    assert re.search(r"weights +10\.0 MiB +28\.6 % +█{16}", text)
    assert "layers 0–1, 5.00 MiB each" in text
    assert re.search(
        r"15\.0 MiB +3 +float32 4x64x512 +MLP intermediate +mm in model\.layers\.1\.mlp \(recomputed\)", text
    )
    assert re.search(r"checkpointing +20\.0 MiB +15\.0 MiB +\+30 % +--gradient-checkpointing", text)
    assert "note: the device's own peak is in loading" in text
    assert "Activations dominate: checkpointing saves." in text


def test_markup_in_names_stays_text():
    text = printed(explanation("[bold]evil[/bold]"), comparison("[red]x[/red]"))
    assert "[bold]evil[/bold]" in text and "[red]x[/red]" in text


def test_layers_keep_their_bytes_when_rows_are_collapsed():
    shares = [PeakShare(f"layer {index}", 7 if index % 5 else 9) for index in range(30)]
    rows = collapsed_layers(shares)
    assert sum(row.live_bytes for row in rows) == sum(share.live_bytes for share in shares)
    assert len(rows) <= 9
    single = collapsed_layers([PeakShare("optimizer states", 4), PeakShare("outside the layers", 4)])
    assert [row.name for row in single] == ["optimizer states", "outside the layers"]


class _Page(HTMLParser):
    """Collects elements, what they refer to, and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def test_the_page_is_self_contained_and_escapes_names():
    page = timeline_page(f"lora on {NASTY}", explanation(NASTY), comparison(NASTY))
    parsed = _Page()
    parsed.feed(page)
    assert parsed.references == []
    assert not re.search(r"https?://|@import|url\(", page)
    assert parsed.tags.count("script") == 2 and "alert" not in parsed.scripts[1]
    assert f"lora on {NASTY}" in parsed.text
    values = json.loads(parsed.scripts[0])
    assert values["places"][0] == NASTY
    assert values["phases"] == ["weights", "forward", "backward"]
    assert values["live"][1] == [10 * MIB, 5 * MIB, 0, 20 * MIB, 0]


def test_the_picture_marks_phases_and_the_peak():
    page = timeline_page("lora on bert", explanation(), None)
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    classes = [element.get("class") for element in svg.iter()]
    assert classes.count("peak") == 1
    assert {"k-weights", "k-states", "k-gradients", "k-activations", "k-temporaries"} <= set(classes)
    assert [element.text for element in svg.iter("text") if element.get("class") == "peak-label"] == ["peak 35.0 MiB"]
    assert classes.count("border") == 2
    for polygon in svg.iter("polygon"):
        points = [tuple(map(float, pair.split(","))) for pair in str(polygon.get("points")).split()]
        assert all(0 <= x <= 1000 and 0 <= y <= 360 for x, y in points)
    assert "prefers-color-scheme:dark" in page


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError):
        write_timeline(blocked / "page.html", "x", explanation(), None)
    write_timeline(tmp_path / "page.html", "x", explanation(), comparison())
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
