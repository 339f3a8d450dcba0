"""Importing, predicting and planning need nothing that only Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "tests" / "fixtures" / "configs" / "distilbert-base-uncased.json"

NO_LINUX = '''
"""This interpreter without fcntl, resource, processor affinity and /proc."""
import builtins, io, os, sys

sys.modules["fcntl"] = None
del os.sched_getaffinity, os.sched_setaffinity
find = builtins.__import__


def without_resource(name, scope=None, *rest, **options):
    """psutil's module for Linux needs it, the advisor must not."""
    if name == "resource" and (scope or {}).get("__name__", "").split(".")[0] in ("advisor", "__main__"):
        raise ModuleNotFoundError("there is no module resource here")
    return find(name, scope, *rest, **options)


builtins.__import__ = without_resource


def without_proc(function):
    def guarded(path, *args, **kwargs):
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(2, "there is no /proc here", path)
        return function(path, *args, **kwargs)

    return guarded


for module, names in ((builtins, ["open"]), (io, ["open"]), (os, ["open", "stat", "listdir", "scandir", "readlink"])):
    for name in names:
        setattr(module, name, without_proc(getattr(module, name)))
try:
    open("/proc/self/status")
except FileNotFoundError:
    pass
else:
    raise AssertionError("/proc is still there")
'''

IMPORTS = """
import importlib, pkgutil, advisor

names = [found.name for found in pkgutil.walk_packages(advisor.__path__, "advisor.") if "__main__" not in found.name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

PREDICTS = """
from advisor import predict
from advisor.hardware.host import inspect_host
from advisor.hardware.host_process import peak_resident_bytes, process_environment, resident_bytes

execution = {"micro_batch_size": 4, "max_seq_length": 32}
answer = predict(sys.argv[1], method="head", execution=execution, device="cpu-xeon-6-207-2c")
assert answer.memory.device_bytes > 2**20 and answer.time.step_s > 0
assert inspect_host().cores >= 1
assert (resident_bytes(), peak_resident_bytes()) == (0, 0), "unknown, not invented"
process_environment()
"""

PLANS = """
from advisor import recommend
from advisor.core.budget import Budget
from advisor.pipeline.fitting import fit

found = recommend(sys.argv[1], sys.argv[2], budget=Budget(memory_bytes=2**32), methods=["head"], device="t4")
assert found.best is not None
assert fit(sys.argv[1], methods=["head"], device="t4").methods
"""


def run(program: str, *arguments: str, home: Path) -> str:
    environment = {**os.environ, "ADVISOR_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", NO_LINUX + program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    assert int(run(IMPORTS, home=tmp_path)) > 250


def test_a_prediction_from_a_stored_profile(tmp_path: Path) -> None:
    run(PREDICTS, str(CONFIG), home=tmp_path)


@pytest.mark.slow
def test_a_recommendation_and_what_fits(tmp_path: Path) -> None:
    rows = [f"{'good' if number % 2 else 'bad'} film number {number},{number % 2}" for number in range(40)]
    (tmp_path / "films.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    run(PLANS, str(CONFIG), str(tmp_path / "films.csv"), home=tmp_path)
