# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress of the work on a store, for whoever looks: a small JSON file that is there while the work goes on."""

from __future__ import annotations

import contextlib
import json
import os
import time

from ._store import Store
from ._transfer import Progress

_NAME = "progress.json"
_INTERVAL = 1.0  # seconds


class ProgressFile:
    """Writes ``progress.json`` into a store about once a second. Use it as a context manager; it removes the file.

    :param operation: What is being done.
    """

    def __init__(self, store: Store, operation: str) -> None:
        self._root = store.root
        self._operation = operation
        self._started = time.monotonic()
        self._next = self._started

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._root.remove(_NAME)

    def __call__(self, progress: Progress) -> None:
        """Note how far the transfer is."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        document = {
            "operation": self._operation,
            "pid": os.getpid(),
            "seconds": round(now - self._started, 1),
            "total_bytes": progress.total,
            "kept_bytes": progress.kept,
            "received_bytes": progress.received,
        }
        with contextlib.suppress(OSError):  # a full disk must not stop a transfer that has its space reserved
            self._root.write(_NAME, json.dumps(document).encode() + b"\n", durable=False)
