"""What a GPU says about the advisor's predictions: run once, in 15 minutes, and send back one file.

Looks at the machine, probes and calibrates it, and measures memory and step times of the grid ``cuda`` against their
predictions. Every step keeps what it found in one folder; stopped at any time, the same command continues with what is
missing. The file holds the device, versions, names of folders, and figures.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

LIMIT_S = 15 * 60.0
"""Of one call."""
SHARD_LIMIT_S = 8 * 60.0
"""Of one process that measures; the grid is dealt out to as many as it takes."""
SHARDS = 3
LEAST_S = 60.0
"""Less than this is not begun: a shard that starts measures at least one case."""
RESERVE_S = 20.0
"""For the comparison and the file."""

EXIT_FOUND = 1
"""Of ``advisor doctor`` where something does not work, and of a comparison that misses a threshold: also an answer."""

Call = Callable[[Sequence[str], Path | None], int]
"""Runs an advisor command, puts its standard output into a file where one is named, and returns its exit code."""


class Checklist:
    """One call.

    Args:
        folder: Receives what is found; what lies there is not measured again.
        call: Runs a command.
        clock: Monotonic seconds.
        say: Prints a line.
        limit_s: The call ends within this.
    """

    def __init__(
        self,
        folder: Path,
        *,
        call: Call,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], object] = print,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.folder, self.call, self.clock, self.say = folder, call, clock, say
        self.ends_s = clock() + limit_s

    def run(self) -> int:
        """All steps that are missing; the exit code is that of the first that failed, else 0."""
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = (
            ("the machine", ["doctor", "--json"], "doctor.json"),
            ("its speed", ["probe", "--device", "cuda", "--json"], "probe.json"),
            ("its operators", ["calibrate", "run", "--json"], "calibrate.json"),
            ("the calibration as a file", ["calibrate", "export", str(self.folder / "calibration.json")], None),
        )
        for number, (what, command, file) in enumerate(steps, start=1):
            kept = self.folder / (file or Path(command[-1]).name)
            if kept.exists():
                self.say(f"[{number}/6] {what}: measured before")
                continue
            self.say(f"[{number}/6] {what}")
            code = self._step(command, kept if file else None)
            if code and not kept.exists():
                return code
        return self._measure() or self._pack()

    def _step(self, command: Sequence[str], output: Path | None = None) -> int:
        self.say(shlex.join(["advisor", *command]))
        partial = output.with_suffix(".partial") if output is not None else None
        code = self.call(command, partial)
        if partial is not None and output is not None and code in (0, EXIT_FOUND):
            partial.replace(output)
        return code

    def _measure(self) -> int:
        for index in range(1, SHARDS + 1):
            left_s = self.ends_s - self.clock() - RESERVE_S
            if left_s < LEAST_S:
                self.say(f"[5/6] {SHARDS + 1 - index} of {SHARDS} parts are left: the same command continues with them")
                return 0
            limit_s = min(SHARD_LIMIT_S, left_s)
            self.say(f"[5/6] predictions against the GPU, part {index} of {SHARDS}, at most {limit_s / 60:.0f} min")
            limits = ["--shard", f"{index}/{SHARDS}", "--time-limit", f"{limit_s:.0f}s"]
            command = [
                "validate",
                "all",
                "--grid",
                "cuda",
                "--device",
                "cuda",
                *limits,
                "--output",
                str(self.folder),
                "--json",
            ]
            code = self._step(command, self.folder / f"part-{index}.json")
            if code not in (0, EXIT_FOUND):
                return code
        return 0

    def _pack(self) -> int:
        records = sorted(self.folder.glob("*.jsonl"))
        if records:
            self.say("[6/6] the comparison")
            named = [word for file in records for word in ("--records", str(file))]
            self.call(["validate", "all", *named], None)
        archive = self.folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(self.folder.glob("*.json*")):
                packed.write(file, file.name)
        self.say(f"{archive}: the file to send back ({archive.stat().st_size / 1024:.0f} KiB, {_cases(records)} cases)")
        return 0


def _cases(records: Sequence[Path]) -> int:
    return sum('"case"' in line for file in records for line in file.read_text(encoding="utf-8").splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checklist with the advisor of this environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("gpu-checklist"), help="what is found, and the file's name")
    options = parser.parse_args(arguments)

    def call(command: Sequence[str], output: Path | None) -> int:
        words = [sys.executable, "-m", "advisor", *command]
        if output is None:
            return subprocess.run(words, check=False).returncode
        with output.open("wb") as stream:
            return subprocess.run(words, check=False, stdout=stream).returncode

    try:
        return Checklist(options.folder, call=call, say=lambda line: print(line, flush=True)).run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
