# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker's own side: it takes jobs from its standard input and tells what it measured.

It runs in the host's inference environment, not in Ansible's Python. Whatever happens to it, a hang, a crash, memory
that runs out, is seen by the process that started it (:mod:`_worker_process`), which loses nothing by it.

Each line of input is a job, each line of output an event: ``{"phase": ...}`` while a job is worked on, and at its end
``{"measured": {...}}`` or ``{"failed": {"reason": ..., "error": ...}}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import re
import signal
import socket
import sys
from typing import Any, Callable, TextIO

_PR_SET_PDEATHSIG = 1

# What PyTorch, the operating system and C++ say.
_NO_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|bad_alloc|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)

Tell = Callable[[str], None]


def serve(measure: Callable[[dict[str, Any], Tell], dict[str, Any]]) -> None:
    """Work on jobs until the input ends.

    :param measure: Does a job, and returns what it measured; it tells the phases of its work. A job that has a
        ``directory`` works on what is in there.
    """
    report = begin()
    for line in sys.stdin:
        job = json.loads(line)

        def tell(**event: Any) -> None:
            report.write(json.dumps(event) + "\n")
            report.flush()

        try:
            event = {"measured": measure(job, lambda phase: tell(phase=phase))}
        except BaseException as error:
            event = {"failed": {"reason": reason_of(error), "error": describe(error, job.get("directory"))}}
        free_memory()
        tell(**event)


def begin() -> TextIO:
    """Prepare this process, and return where it reports to: what libraries print goes elsewhere.

    It does not outlive the thread that started it, not even one that is killed, and reaches no network: a model is
    what the store has, and nothing else.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # When the host's memory runs out, it is this process that ends, and not what serves.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # OpenVINO tells its maker of every import otherwise, and leaves files in the home directory for that.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    sys.addaudithook(_refuse_network)
    return report


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        raise PermissionError(f"a model is opened without the network; it tried to reach {arguments[1]}")


def free_memory() -> None:
    """Give back the memory of what is no longer used, the GPU's too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a GPU that is in error tells so at the next job
            torch.cuda.empty_cache()


def reason_of(error: BaseException) -> str:
    """Return ``out_of_memory``, ``disk_full``, ``missing_package`` or ``error``."""
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(text):
        return "out_of_memory"
    return "missing_package" if isinstance(error, ImportError) else "error"


def describe(error: BaseException, directory: str | None) -> str:
    """Return an error on one line; what libraries say is sometimes a page, and full of the job's own directory."""
    text = str(error)
    if directory is not None:
        text = text.replace(directory, os.path.basename(directory))
    return f"{type(error).__name__}: {' '.join(text.split())[:400]}"
