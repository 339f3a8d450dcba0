"""What lies in a run's output folder, and who may write there."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import OutputError
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, read_json, to_dict, to_json
from advisor.core.store import ensure_writable_dir, file_lock, write_text_atomically
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.training.sources import ADAPTER_CONFIG

if TYPE_CHECKING:
    from torch import nn


BASE = "base"
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
"""Files of a model's weights in the format of transformers."""


class RunFolder:
    """The files of one run.

    ``plan.json``: what was asked for. ``checkpoints/``: the Trainer's. ``model/``: the result, there only when whole;
    beside the adapter of a local model that classifies, ``model/base/`` is that model with the user's labels (links to
    its weights). ``measurement.json``: raw figures, written last. ``step_profile.json``: the profiled step.
    ``run.log``: what libraries said. ``.run.lock``: held by the process that runs it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.measurement = path / "measurement.json"
        self.step_profile = path / "step_profile.json"
        self.log = path / "run.log"
        self.lock = path / ".run.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process runs a plan in this folder meanwhile.

        Raises:
            OutputError: another process does, or the folder cannot be written.
        """
        ensure_writable_dir(self.path)
        busy = OutputError(
            f"one process at a time may run a plan in {self.path}, but another one does",
            fix="wait until it has ended, or name another --output",
        )
        with file_lock(self.lock, busy=busy):
            yield

    def claim(self, plan: Plan, *, resume: bool) -> None:
        """Make the folder this plan's own; nothing that exists is overwritten.

        Raises:
            OutputError: it is occupied, belongs to another plan, is a file, read-only or full.
        """
        ensure_writable_dir(self.path)
        entries = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(self.lock.name))
        if not entries:
            plan.save(self.plan)
            return
        if self.plan.name not in entries:
            raise OutputError(
                f"the output folder must be empty or hold this plan's run, but {self.path} holds {_listed(entries)}",
                fix="name another --output",
            )
        if changed := self._differences(plan):
            raise OutputError(
                f"{self.path} belongs to a run with another plan: {_listed(changed)} differ",
                fix="name another --output, or resume with the plan.json in that folder",
            )
        if self._has_progress() and not resume:
            raise OutputError(
                f"the output folder must be empty, but {self.path} holds a run of this plan",
                fix="continue it with --resume, or name another --output",
            )

    def finished(self) -> Measurement | None:
        """The figures of a run that has come to its end here; one that diverged would diverge again."""
        if not self.measurement.exists():
            return None
        values = read_json(self.measurement, what="the measurement", error=OutputError)
        measurement = from_dict(Measurement, values, what=str(self.measurement), error=OutputError)
        whole = measurement.outcome == "completed" and self.model.is_dir()
        return measurement if whole or measurement.outcome == "diverged" else None

    def keep(self, measurement: Measurement) -> None:
        """Write the figures."""
        write_text_atomically(self.measurement, to_json(measurement))

    def save_result(self, strategy: StrategyConfig, model: nn.Module, tokenizer: Any) -> None:
        """Write adapter or model with its tokenizer beside where they belong, then rename: whole or not at all."""
        partial = self.path / "model.partial"
        for left_over in (partial, self.model):
            shutil.rmtree(left_over, ignore_errors=True)
        get_strategy(strategy.method).save(model, partial)
        tokenizer.save_pretrained(partial)
        if (partial / ADAPTER_CONFIG).is_file() and names_classes(model):
            revision = load_plan(self.plan).model.revision if self.plan.is_file() else None
            base_for_adapter(partial, self.model.absolute() / BASE, model, revision)
        partial.rename(self.model)

    def _has_progress(self) -> bool:
        """Whether there is anything that a fresh start would overwrite; a log and an empty folder are not."""
        return self.model.exists() or self.measurement.exists() or any(self.checkpoints.glob("*"))

    def _differences(self, plan: Plan) -> list[str]:
        there, here = _identity(load_plan(self.plan)), _identity(plan)
        return [name for name in here if here[name] != there[name]]


def name_classes(model: nn.Module, label_names: Sequence[str]) -> None:
    """So that the saved model answers with the user's labels instead of ``LABEL_0``."""
    config = getattr(model, "config", None)
    if label_names and config is not None and len(label_names) == getattr(config, "num_labels", 0):
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}


def names_classes(model: Any) -> bool:
    """Whether the configuration has other classes than the two, ``LABEL_0`` and ``LABEL_1``, that every one has."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return list(names.values()) not in ([], ["LABEL_0", "LABEL_1"])


def base_for_adapter(adapter: Path, base: Path, model: Any, revision: str | None = None) -> None:
    """Let plain PEFT and transformers load an adapter with the user's classes.

    Both build the model that ``adapter_config.json`` names, and take the classes from the configuration of that model:
    of a base model they would be ``LABEL_0`` and ``LABEL_1``, whatever was trained. So the adapter gets a base of its
    own: a configuration with the classes, and links to the weights (of a model on the hub, those in its cache). The
    base's configuration keeps the name of the model, as PEFT's card of the adapter does.

    Args:
        adapter: The folder that holds ``adapter_config.json`` now.
        base: Where the base will be found when the adapter has its final name; a folder in it.
        model: As it was trained.
        revision: That was trained, of a model on the hub.
    """
    values = read_json(adapter / ADAPTER_CONFIG, what="the saved adapter's configuration", error=OutputError)
    name = values.get("base_model_name_or_path") or ""
    original = Path(name).expanduser()
    if name and not original.is_dir():
        original = _cached(name, revision)
    weights = sorted(file for pattern in WEIGHTS for file in original.glob(pattern)) if original.is_dir() else []
    if not weights:
        return
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # the weights that are linked to are not quantised
        del config.quantization_config
    here = adapter / base.name
    config.save_pretrained(here)
    try:
        for file in weights:
            (here / file.name).symlink_to(file.resolve())
    except OSError:  # a file system without links
        shutil.rmtree(here)
        return
    kept = read_json(here / "config.json", what="the base's configuration", error=OutputError)
    write_text_atomically(here / "config.json", json.dumps(kept | {"_name_or_path": name}, indent=2) + "\n")
    values |= {"base_model_name_or_path": str(base), "revision": None}
    write_text_atomically(adapter / ADAPTER_CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")


def _cached(name: str, revision: str | None) -> Path:
    """The folder of a hub model's files in the cache; one that does not exist where there are none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        config = None
    return Path(config).parent if isinstance(config, str) else Path(name)


def _identity(plan: Plan) -> dict[str, Any]:
    """The parts of a plan that decide what a run does; promises, budgets and versions do not."""
    parts = {name: to_dict(getattr(plan, name)) for name in ("model", "data", "strategy", "execution", "seed")}
    return parts | {"data fingerprint": plan.data_profile.fingerprint}


def _listed(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
