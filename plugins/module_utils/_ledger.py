# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger: append-only JSON lines that say what was verified or changed in a store, when, and with what result.

It records; it proves nothing. Nobody skips hashing a file because of a line in it.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from typing import Any

from ._directory import Directory

_NAME = "ledger.jsonl"
_READ_LIMIT = 1 << 26  # bytes from its end: some hundred thousand lines


class Ledger:
    """The ledger of one store.

    :param root: The store's directory.
    """

    def __init__(self, root: Directory) -> None:
        self._root = root

    def append(self, events: Iterable[dict[str, Any]]) -> None:
        """Add one line for each event; its time is added to it (UTC, ISO 8601)."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        lines = "".join(json.dumps({"at": now, **event}) + "\n" for event in events)
        if not lines:
            return
        descriptor = self._root.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                lines = "\n" + lines  # a crash cut the last line off
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)

    def events(self) -> list[dict[str, Any]]:
        """Return the latest events, the oldest first: in the order of their lines, whatever a clock was set to."""
        try:
            descriptor = self._root.open(_NAME, os.O_RDONLY)
        except FileNotFoundError:
            return []
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(max(0, os.fstat(descriptor).st_size - _READ_LIMIT))
            content = stream.read(_READ_LIMIT)
        events = []
        for line in content.decode("utf-8", "replace").splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def doubtful(self) -> set[str]:
        """Return the blobs that were found damaged, and not whole since then."""
        damaged: set[str] = set()
        for event in self.events():
            if isinstance(event.get("sha256"), str) and event.get("event") in ("corrupt", "verified"):
                change = damaged.add if event["event"] == "corrupt" else damaged.discard
                change(event["sha256"])
        return damaged

    def last_verified(self) -> dict[str, tuple[int, str]]:
        """Return, for each blob that was found whole, the place of its last such line and that line's time."""
        return {
            event["sha256"]: (place, str(event.get("at", "")))
            for place, event in enumerate(self.events())
            if event.get("event") == "verified" and isinstance(event.get("sha256"), str)
        }
