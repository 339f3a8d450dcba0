"""The server that isolated processes are forked from, while it imports."""

from __future__ import annotations

import subprocess
import sys

CTRL_C_AT_TORCH = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)

sys.meta_path.insert(0, Finder())
import advisor.measurement.preload
"""


def test_ctrl_c_while_the_server_imports_prints_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", CTRL_C_AT_TORCH], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (7, "")
