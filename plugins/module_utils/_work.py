# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on a store that the calling process does, told of in a small file of the store while it goes on."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from typing import Any

from ._errors import Cancelled, StoreError
from ._progress import Progress, Rate
from ._store import Store
from ._work_record import Record, directory_of, forget, is_orphan, read_record, this_process, work_of

_INTERVAL = 1.0  # seconds between two notes of how far it is
_WAIT = "wait"


class Work:
    """A piece of work that the calling process does. Use it as a context manager, and call it with the progress.

    :param operation: What is done.
    :param writes: Whether it changes the store.
    :param timeout: Seconds after which it is stopped, None for no limit.
    :param cancelled: What is set then.
    :param name: What to call it, where somebody will ask for it.
    :param hidden: Tell nobody, as in check mode, which leaves everything as it is.
    """

    def __init__(
        self,
        store: Store,
        operation: str,
        writes: bool,
        timeout: float | None,
        cancelled: threading.Event,
        name: str | None = None,
        hidden: bool = False,
    ) -> None:
        self.store = store
        self.name = name or secrets.token_hex(8)
        self.writes = writes
        self.to_detach = name is not None and not hidden
        self.detached = False  # then its record stays until somebody has its result
        self._operation = operation
        self._hidden = hidden
        self._timeout = timeout
        self._cancelled = cancelled
        self._timer: threading.Timer | None = None
        self._expired = False
        self._begun = time.monotonic()
        self._doing = ""
        self.begin("")

    def __enter__(self) -> Work:
        self.register()
        if self._timeout is not None:
            self._timer = threading.Timer(self._timeout, self._expire)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.detached and not self._hidden:
            with contextlib.suppress(OSError, StoreError):
                forget(self.store, self.name)
        if self._expired and isinstance(error, Cancelled):
            if self._doing == _WAIT:
                advice = "another run used the store all that time, try again later"
            elif self.writes:
                advice = "what was received is kept, run it again to go on"
            else:
                advice = "allow more time, or verify a part at a time with budget_seconds"
            raise Cancelled(f"not complete after the timeout of {self._timeout:g} s; {advice}") from None

    def _expire(self) -> None:
        self._expired = True
        self._cancelled.set()

    def begin(self, doing: str) -> Work:
        """Begin with another part of the work, whose progress comes next."""
        waited = self._doing == _WAIT
        self._doing = doing
        self._ahead: Record | None = None
        self._progress: Progress | None = None
        self._rate = Rate()
        self._next = 0.0
        if waited:
            self.register()
        return self

    def __call__(self, progress: Progress) -> None:
        """Note how far it is, about once a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        self._progress = progress
        self.register()

    def wait(self, holder: int | None) -> bool:
        """Note, about once a second, that another process writes to the store, and how far that one is.

        :returns: Whether that is worth any time: its work was left behind, while this one's result is asked for.
        """
        if self._doing != _WAIT:
            self.begin(_WAIT)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._ahead = next((record for record in work_of(self.store) if record.pid == holder), None)
            self.register()
        own = read_record(self.store, self.name) if self.detached else None
        if own is None or self._ahead is None:
            return False
        return is_orphan(self.store, self._ahead) and not is_orphan(self.store, own)

    def register(self) -> None:
        """Tell that it goes on. A full disk, or a store that may only be read, does not stop it."""
        if self._hidden:
            return
        now = time.monotonic()
        document: dict[str, Any] = {
            "operation": self._operation,
            "doing": self._doing,
            "writes": self.writes,
            "process": this_process(),
            "seconds": round(now - self._begun, 1),
        }
        if self._ahead is not None:
            ahead = self._ahead.to_json()
            document.update((name, ahead[name]) for name in ("what", "total_bytes", "done_bytes", "bytes_per_second"))
        if self._progress is not None:
            done = self._progress.kept + self._progress.done
            document["what"] = self._progress.what
            document["total_bytes"] = self._progress.total
            document["done_bytes"] = done
            document["bytes_per_second"] = round(self._rate.add(now, done))
        with contextlib.suppress(OSError, StoreError), directory_of(self.store, create=True) as directory:
            directory.write(f"{self.name}.json", json.dumps(document).encode() + b"\n", durable=False)
