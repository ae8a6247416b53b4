# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker for tests: what a job names happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from ansible_collections.gpufleet.models.plugins.module_utils._worker import Tell, serve


def main() -> None:
    serve(measure)


def measure(job: dict[str, Any], phase: Tell) -> dict[str, Any]:
    phase("import")
    phase("work")
    happens = job["happens"]
    if happens == "error":
        print("the library's own ERROR 7", file=sys.stderr)
        raise RuntimeError("a page\nof words")
    if happens == "memory":
        raise MemoryError
    if happens == "import":
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    if happens == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if happens == "exit":
        print("no GPU for you", file=sys.stderr)
        os._exit(3)
    if happens == "hang":
        child = subprocess.Popen(["sleep", "60"])
        with open(job["pids"], "w", encoding="ascii") as stream:  # noqa: PTH123 - as the engine writes
            stream.write(f"{os.getpid()} {child.pid}")
        time.sleep(60)
    print("[1, 2]")  # is no event
    return {"sees": os.environ["CUDA_VISIBLE_DEVICES"], "process": os.getpid()}
