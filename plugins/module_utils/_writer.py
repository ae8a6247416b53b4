# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One process writes to a directory at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from ._blocks import check_cancelled
from ._directory import Directory
from ._errors import StoreError

LOCK = ".lock"


@contextlib.contextmanager
def only_writer(
    root: Directory,
    operation: str,
    lock_timeout: float,
    cancelled: threading.Event,
    waiting: Callable[[int | None], bool] = lambda _holder: False,
) -> Iterator[int]:
    """Be a directory's only writer meanwhile; give the descriptor that holds the lock.

    The lock belongs to the open file, so a killed holder blocks nobody. A process that inherits the descriptor holds
    the lock as well.

    :param operation: What is done, for whoever waits.
    :param lock_timeout: Seconds to wait for another writer.
    :param waiting: Called while it waits, several times a second, with the holder's process, None where that is not
        known. The time in which it returns True does not count.
    :raises StoreError: When the other writer is not done by then.
    :raises Cancelled: When ``cancelled`` is set meanwhile.
    """
    descriptor = root.open(LOCK, os.O_RDWR | os.O_CREAT)
    try:
        waited, now = 0.0, time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pid, description = _holder(root)
                before, now = now, time.monotonic()
                if not waiting(pid):
                    waited += now - before
                    if waited >= lock_timeout:
                        raise StoreError(
                            f"{root.path} is in use by {description}; waited {lock_timeout:g} s for it: "
                            "try again later, or with a longer lock_timeout"
                        ) from None
                cancelled.wait(0.1)
                check_cancelled(cancelled)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "operation": operation}
        # On a full disk too, where pruning is what helps.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, os.pwrite(descriptor, json.dumps(holder).encode(), 0))
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(root: Directory) -> tuple[int | None, str]:
    """Return the process that says that it holds the lock, and what to call it."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, OSError):
        holder: dict[str, Any] = json.loads(root.read(LOCK))
        pid, here = holder["pid"], holder["host"] == socket.gethostname()
        return pid if here else None, f"{holder['operation']} (process {pid} on {holder['host']})"
    return None, "another process"
