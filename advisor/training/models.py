"""Looking at a model without loading it: a local folder, a bare ``config.json``, a hub id, or a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import ModelError
from advisor.core.memo import files_identity, recall
from advisor.core.model import ModelSpec, SourceKind
from advisor.core.tasks import TASKS, TaskTraits
from advisor.hardware.trials import first_line
from advisor.training.fingerprints import fingerprints
from advisor.training.hub import forbid_kernel_downloads
from advisor.training.tasks import get_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_LABELS = 1_000_000
"""A configuration names every class twice, and is copied while a model is built: a thousand times as many would not fit
into a machine's memory."""


def inspect_model(
    source: str,
    task: str,
    *,
    num_labels: int = 2,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    revision: str | None = None,
) -> ModelSpec:
    """Read a model's configuration, check its weights' files, and count its parameters on the meta device.

    A local model that was looked at before, and whose files have not changed since, is answered from disk.

    Args:
        source: Folder, ``config.json``, hub id or GGUF file. A path that exists is never taken for a hub id; it is kept
            as an absolute one.
        task: What it will be trained for, which decides its head.
        num_labels: Classes of the classification head.
        trust_remote_code: Allow Python code that comes with the model.
        allow_pickle: Allow weights that are only there as pickles, which can execute code when loaded.
        revision: Hub revision.

    Raises:
        InputError: there is no such task.
        ModelError: missing, unreadable, not trusted, damaged, or without a head for the task.
    """
    rules = get_task(task)
    labelled = rules.traits.new_head
    num_labels = rules.traits.num_outputs or num_labels
    if labelled and rules.traits.num_outputs is None and num_labels < 2:
        raise ModelError(f"classification needs at least two labels, but got {num_labels}")
    if labelled and num_labels > MOST_LABELS:
        raise ModelError(f"classification takes at most {MOST_LABELS:,} labels, but got {num_labels:,}")
    kind = source_kind(source)
    if kind != "hub":  # so that a plan can be run from another folder
        source = str(Path(source).expanduser().absolute())

    def look() -> ModelSpec:
        forbid_kernel_downloads()
        from advisor.strategies.skeleton import build_skeleton
        from advisor.training.sources import read_source

        config, has_weights, weights_bytes, commit = read_source(
            source, kind, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, revision=revision
        )
        stored = config
        if labelled:
            config = _with_labels(config, num_labels)
        draft = ModelSpec(
            source=source,
            kind=kind,
            task=task,
            config=config,
            model_type=config["model_type"],
            total_parameters=0,
            hidden_size=0,
            num_hidden_layers=0,
            vocab_size=0,
            max_positions=None,
            num_labels=num_labels,
            has_weights=has_weights,
            weights_bytes=weights_bytes,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            revision=commit or revision,
            fingerprints=fingerprints(source, kind),
        )
        skeleton = build_skeleton(draft)
        rules.check_model(draft, skeleton)
        remark = _head_remark(stored, rules.traits, num_labels, type(skeleton).__name__) if labelled else ""
        return replace(_completed(draft, skeleton), head_remark=remark)

    if kind == "hub" or trust_remote_code:
        return look()
    code = TASKS.code_version(task)
    identity = [source, task, code, num_labels, allow_pickle, files_identity(Path(source).expanduser())]
    return ModelSpec(**recall("model", identity, look))


def _with_labels(config: dict[str, Any], num_labels: int) -> dict[str, Any]:
    """The configuration with this many labels; names of a head that is replaced are dropped."""
    kept = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_labels")}
    names = config.get("id2label")
    if isinstance(names, dict) and len(names) == num_labels:
        kept |= {
            "id2label": names,
            "label2id": config.get("label2id", {name: int(index) for index, name in names.items()}),
        }
        return kept
    return kept | {"num_labels": num_labels}


def _head_remark(stored: dict[str, Any], traits: TaskTraits, num_labels: int, head_class: str) -> str:
    """What becomes of a checkpoint's head of the task's class: other labels need a new one, another loss does not."""
    if head_class not in (stored.get("architectures") or ()):
        return ""
    outputs = len(stored.get("id2label") or ()) or stored.get("num_labels", 2)
    if outputs != num_labels:
        return f"the checkpoint's head for {outputs} labels is replaced by a new one for {num_labels}"
    learned, wanted = stored.get("problem_type"), traits.config_values.get("problem_type")
    if learned and wanted and learned != wanted:
        return f"the checkpoint's head was trained as {learned}; its weights are kept and trained as {wanted}"
    return ""


def model_path(source: str) -> str:
    """The folder of a demo model, when one is named and nothing of that name lies here; else the source itself."""
    from advisor.training.data.asset_catalog import ASSETS
    from advisor.training.data.asset_store import asset_path

    if source in ASSETS and ASSETS[source].kind == "model" and not Path(source).exists():
        return str(asset_path(source))
    return source


def source_kind(source: str) -> SourceKind:
    """What ``source`` is, by what lies on disk.

    Raises:
        ModelError: it looks like a path, but nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_symlink() and not path.exists():
        raise ModelError(
            f"a link must lead to a model, but {source} leads nowhere, or round in a circle",
            fix="name the folder that holds config.json and the weights",
        )
    if source and path.is_dir():
        return "folder"
    if path.is_file():
        if path.suffix == ".gguf":
            return "gguf"
        if path.suffix == ".json":
            return "config"
        raise ModelError(
            f"a model file must be a config.json or a .gguf file, but got {source}",
            fix="name the folder that holds config.json and the weights",
        )
    if (
        source.count("/") > 1
        or source.startswith((".", "/", "~"))
        or path.suffix in (".gguf", ".json", ".safetensors")
        or not source
    ):
        raise ModelError(f"there is no model at {source!r}", fix="check the path")
    return "hub"


def _completed(draft: ModelSpec, skeleton: Any) -> ModelSpec:
    text = skeleton.config.get_text_config()
    return replace(
        draft,
        total_parameters=sum(parameter.numel() for parameter in skeleton.parameters()),
        hidden_size=int(getattr(text, "hidden_size", 0) or 0),
        num_hidden_layers=int(getattr(text, "num_hidden_layers", 0) or 0),
        vocab_size=int(getattr(text, "vocab_size", 0) or 0),
        max_positions=_max_positions(text),
    )


def _max_positions(config: Any) -> int | None:
    """Longest sequence the configuration allows; ``None`` for architectures that state none (T5's relative positions).

    RoBERTa's position table starts behind the padding index: 514 rows hold 512 tokens.
    """
    rows = getattr(config, "max_position_embeddings", None)
    if not isinstance(rows, int) or rows <= 0:
        return None
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return rows - offset


_OFFSET_POSITIONS = frozenset(
    [
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "longformer",
        "mpnet",
        "xmod",
        "data2vec-text",
        "roberta-prelayernorm",
        "ibert",
    ]
)


SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece*.model", "spm*.model")
"""What T5, DeBERTa-v3, XLM-RoBERTa and Llama-2 call it in their original repositories."""

TOKENIZER_PACKAGES = ("sentencepiece", "protobuf")
"""Distributions that transformers reads a SentencePiece model with."""


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with a pad token (the end-of-text token where it has none).

    Raises:
        ModelError: the source has none.
    """
    forbid_kernel_downloads()
    from transformers import AutoTokenizer

    if spec.kind == "config":
        raise ModelError(
            f"a tokenizer is needed to measure token lengths, but {spec.source} is a bare configuration",
            fix="name the model's folder or hub id, or give the lengths",
        )
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code, "revision": spec.revision or "main"}
    folder = spec.source
    if spec.kind == "gguf":
        path = Path(spec.source).expanduser()
        folder, options["gguf_file"] = str(path.parent), path.name
    _check_tokenizer_packages(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder if spec.kind == "hub" else Path(folder).expanduser(), **options
        )
    except Exception as failure:
        raise _no_tokenizer(spec, first_line(failure)) from failure
    # Without vocabulary files transformers makes up a tokenizer that knows its special tokens and nothing else.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise _no_tokenizer(spec, "there is no vocabulary")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {spec.source} has neither a pad token nor an end-of-text token to pad with")
    return tokenizer


def _check_tokenizer_packages(spec: ModelSpec) -> None:
    """A folder with nothing but a SentencePiece model needs that package to convert it."""
    folder = Path(spec.source).expanduser()
    if spec.kind != "folder" or (folder / "tokenizer.json").is_file():
        return
    found = next((path for name in SENTENCEPIECE_FILES for path in folder.glob(name)), None)
    missing = [name for name in TOKENIZER_PACKAGES if not list(distributions(name=name))]
    if found is not None and missing:
        raise ModelError(
            f"the tokenizer {found.name} of {spec.source} is a SentencePiece model, and reading it needs "
            f"{' and '.join(missing)}",
            fix=f"pip install {' '.join(missing)}, or put a tokenizer.json into the folder",
        )


def _no_tokenizer(spec: ModelSpec, reason: str) -> ModelError:
    return ModelError(
        f"the model needs its tokenizer, but {spec.source} has none that can be loaded: {reason}",
        fix="put tokenizer.json and tokenizer_config.json into the model's folder",
    )
