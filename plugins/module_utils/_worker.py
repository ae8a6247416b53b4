# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the processes that open models share: how they are started in the inference environment, and how they behave."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import sys
from types import ModuleType
from typing import Any, TextIO

_START = "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"
_PR_SET_PDEATHSIG = 1

# What PyTorch, the operating system and C++ say.
_NO_MEMORY = re.compile("can't allocate memory|cannot allocate memory|bad_alloc", re.IGNORECASE)


def command(python: str, module: ModuleType) -> list[str]:
    """Return the command that runs a module's ``main`` with another interpreter.

    :param module: One of this collection, wherever it was loaded from: a directory or Ansible's archive.
    """
    name = module.__name__
    place = str(module.__file__)[: -len(f"{name.replace('.', '/')}.py") - 1]
    return [python, "-I", "-c", _START.format(module=name), place]


def begin() -> TextIO:
    """Prepare this process, and return where it reports to: what libraries print goes elsewhere.

    It does not outlive the process that started it, not even one that is killed, and reaches no network: a model is
    what the store has, and nothing else.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # OpenVINO tells its maker of every import otherwise, and leaves files in the home directory for that.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    sys.addaudithook(_refuse_network)
    return report


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        raise PermissionError(f"a model is opened without the network; it tried to reach {arguments[1]}")


def reason_of(error: BaseException) -> str:
    """Return ``out_of_memory``, ``disk_full``, ``missing_package`` or ``error``."""
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(text):
        return "out_of_memory"
    return "missing_package" if isinstance(error, ImportError) else "error"


def describe(error: BaseException, directory: str) -> str:
    """Return an error on one line; what libraries say is sometimes a page.

    :param directory: The model's, which is told by its name.
    """
    line = " ".join(str(error).replace(directory, os.path.basename(directory)).split())
    return f"{type(error).__name__}: {line[:400]}"
