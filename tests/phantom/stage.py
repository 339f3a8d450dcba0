"""Running scripts and commands on cards that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.phantom_gpu.run import default_environment
from tools.phantom_gpu.world import Stage, World

SCRIPT_S, COMMAND_S = 600.0, 1500.0
"""Imports take most of it: some 15 CPU seconds, on a busy machine minutes."""
NO_TRACE = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Theatre:
    """A place for worlds: a folder for their files and a home for the advisor."""

    folder: Path

    def stage(self, world: World, variables: Mapping[str, str] | None = None) -> Stage:
        home = {"ADVISOR_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}
        return Stage(default_environment().resolve(), self.folder, world, {**home, **(variables or {})})

    def script(self, world: World, text: str, variables: Mapping[str, str] | None = None) -> Any:
        """Run Python on the world's cards; the script's ``found`` comes back."""
        stage = self.stage(world, variables)
        out = self.folder / "found.json"
        code = f"import json, torch\n{textwrap.dedent(text)}\njson.dump(found, open({str(out)!r}, 'w'))\n"
        ended = subprocess.run(
            [stage.python, "-c", code],
            env=stage.variables(os.environ),
            capture_output=True,
            text=True,
            timeout=SCRIPT_S,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return json.loads(out.read_text())

    def advisor(self, world: World, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of the project's commands; it may end with an error but not with a traceback."""
        stage = self.stage(world)
        command = [str(stage.python), "-m", "advisor", *map(str, arguments)]
        ended = subprocess.run(
            command, env=stage.variables(os.environ), capture_output=True, text=True, timeout=COMMAND_S
        )
        assert NO_TRACE not in ended.stderr, ended.stderr[-3000:]
        assert ended.returncode in (0, 1, 2), (ended.returncode, ended.stderr[-3000:])
        return ended
