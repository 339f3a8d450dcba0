"""Data tried as a user does: task and columns are found, rows are read; advice is followed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advisor.cli.reading import label_map, read_option
from advisor.core.data import ReadOptions
from advisor.core.errors import InputError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.detection import choose_task

ENCODER, DECODER = "BertForMaskedLM", "LlamaForCausalLM"


@dataclass(frozen=True)
class Attempt:
    """A data file with what is said of it on the command line.

    Attributes:
        path: The file or folder.
        architecture: Of the model that is asked about.
        options: By the name of the command-line option, without dashes.
    """

    path: Path
    architecture: str = ENCODER
    options: dict[str, str] = field(default_factory=dict)

    def task(self) -> str:
        folder = self.path.parent / f"model-{self.architecture}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "x", "architectures": [self.architecture]}))
        return choose_task(
            str(folder),
            str(self.path),
            named=self.options.get("task"),
            columns=self._columns(),
            format=self.options.get("format"),
            reading=self._reading(),
        )

    def rows(self) -> Rows:
        """All of it.

        Raises:
            InputError: as the user sees it.
        """
        task = self.task()
        known: dict[str, Any] = {
            "eval_source": self.options.get("eval-data"),
            "max_train_rows": int(self.options["max-train-rows"]) if "max-train-rows" in self.options else None,
            "label_map": label_map(self.options["label-map"]) if "label-map" in self.options else (),
            "drop_labels": tuple(filter(None, self.options.get("drop-labels", "").split(","))),
            "drop_unlabelled": "drop-unlabelled" in self.options,
        }
        spec = resolve_data(
            str(self.path),
            task=task,
            **self._columns(),
            format=self.options.get("format"),
            reading=self._reading(),
            **known,
        )
        return load_rows(spec, task)

    def _columns(self) -> dict[str, Any]:
        return {
            f"{name}_column": self.options.get(f"{name.replace('_', '-')}-column")
            for name in ("text", "text_pair", "label")
        }

    def _reading(self) -> ReadOptions:
        return ReadOptions(**dict([read_option(self.options["read-option"])] if "read-option" in self.options else []))

    def with_(self, **options: str) -> Attempt:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return Attempt(self.path, self.architecture, self.options | named)


_VALUE = r"(?:'[^']*'|[^\s,;)]+)"
_WITH_VALUE = "task|format|read-option|label-map|drop-labels|eval-data|text-column|text-pair-column|label-column"
_PLACEHOLDERS = re.compile(r"NAME|CHARACTER|\.\.\.")


def followed(attempt: Attempt, error: InputError) -> Attempt | None:
    """The attempt after doing what the fix says; ``None`` where it asks for something that only people can do."""
    fix = error.fix or ""
    if command := re.search(r"(?:mv|iconv) .+$", fix):
        subprocess.run(command[0], shell=True, check=True, cwd=attempt.path.parent)
        made = shlex.split(command[0])[-1]
        return Attempt(attempt.path.parent / made, attempt.architecture, attempt.options)
    if "leave --" in fix:
        gone = re.findall(r"--([a-z-]+)", fix[fix.index("leave --") :])
        return Attempt(attempt.path, attempt.architecture, {k: v for k, v in attempt.options.items() if k not in gone})
    if choice := re.search(r"name one(?: of)? (?P<names>'.+?) with --(?P<option>[a-z-]+)", fix):
        names = re.findall(r"'([^']*)'", choice["names"])
        return attempt.with_(**{choice["option"]: names[0]})
    if choice := re.match(r"did you mean ([a-z-]+)", fix):
        return attempt.with_(format=choice[1])
    if "--drop-unlabelled" in fix:
        return attempt.with_(drop_unlabelled="")
    if choice := re.match(r"choose from '([^']*)'", fix):
        option = next(name for name in ("text-column", "text-pair-column", "label-column", "label-map", "drop-labels")
                      if name in attempt.options)  # fmt: skip
        named = choice[1] + "=joined" if option == "label-map" else choice[1]
        return attempt.with_(**{option: named})
    options = {}
    for name, value in re.findall(rf"--({_WITH_VALUE})[ =]({_VALUE})", fix):
        value = value.strip("'")
        if name == "label-map" and "=NAME" in value:
            pairs = re.findall(r"([^,=]+)=NAME", fix[fix.index("--label-map") + len("--label-map") :])
            value = ",".join(f"{old.strip()}=class {number}" for number, old in enumerate(pairs))
        if not _PLACEHOLDERS.search(value) and not value.startswith("(") and name not in options and value != "to":
            options[name] = value
    return attempt.with_(**options) if options else None
