# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on a store as its file tells it: whoever looks sees what it is and how far it is, and can stop it.

The store may belong to a less trusted account than the one that maintains it, so such a file counts only if its owner
also owns the process that it names, and that process is the one that wrote it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._directory import Directory
from ._errors import StoreError
from ._store import Store

_DIRECTORY = "work"
_PATIENCE = 3.0  # seconds for a process to end by itself after SIGTERM; it needs less than one
_KILL_PATIENCE = 1.5  # seconds until one that was killed is gone, unless the disk holds it
_TICK = 0.05  # seconds between two looks at a process
_LOST = 10.0  # seconds that a result is not asked for, after which whoever wanted it is taken for gone
_ABANDONED = 86400.0  # seconds after which nobody asks for a result any more

_LONGEST_TEXT = 1000  # characters of what is believed of a file

_NAME = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Record:
    """A piece of work as its file tells it."""

    name: str
    owner: int
    process: tuple[str, int, str]
    content: dict[str, Any]

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process[1]

    @property
    def writes(self) -> bool:
        """Whether it changes the store."""
        return bool(self.content.get("writes"))

    def goes_on(self) -> bool:
        """Whether the very process that wrote the file, and no other with its number, is still there."""
        return _identify(self.pid) == (self.owner, self.process)

    def to_json(self) -> dict[str, Any]:
        """Return what modules tell of it."""
        shown: dict[str, Any] = {"operation": str(self.content.get("operation", "")), "pid": self.pid}
        for name in ("doing", "what"):
            shown[name] = str(self.content.get(name) or "")[:_LONGEST_TEXT]
        for name in ("seconds", "total_bytes", "done_bytes", "bytes_per_second"):
            value = self.content.get(name)
            shown[name] = value if isinstance(value, (int, float)) else None
        return shown


@contextlib.contextmanager
def directory_of(store: Store, create: bool = False) -> Iterator[Directory]:
    """Open the directory of work. What is made in it belongs to whoever makes it, not to the store's owner."""
    with store.root.subdirectory(_DIRECTORY, create) as directory:
        directory.owner = None
        yield directory


def require_name(name: str) -> str:
    """Return the name of a piece of work, which becomes that of a file.

    :raises StoreError: When it is none.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is no name of work, expected hexadecimal digits")
    return name


def read_record(store: Store, name: str) -> Record | None:
    """Return a piece of work, or None when there is none of that name, or its file tells nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError, StoreError):
        with directory_of(store) as directory, os.fdopen(directory.open(f"{name}.json", os.O_RDONLY), "rb") as stream:
            owner = os.fstat(stream.fileno()).st_uid
            content = json.loads(stream.read(1 << 16))
        boot, pid, start = content["process"]
        return Record(name, owner, (str(boot), int(pid), str(start)), content)
    return None


def work_of(store: Store) -> list[Record]:
    """Return all work that goes on in a store."""
    names = []
    with contextlib.suppress(OSError, StoreError), directory_of(store) as directory:
        names = [name[: -len(".json")] for name in directory.names() if name.endswith(".json")]
    records = [read_record(store, name) for name in names if _NAME.fullmatch(name)]
    return [record for record in records if record is not None and record.goes_on()]


def expect(store: Store, name: str, seconds: float) -> None:
    """Note that somebody wants the result of detached work, and will ask again after so many seconds at most."""
    until = time.time() + seconds
    with contextlib.suppress(OSError, StoreError), directory_of(store) as directory:
        descriptor = directory.open(f"{name}.out", os.O_WRONLY)
        try:
            os.utime(descriptor, (until, until))
        finally:
            os.close(descriptor)


def is_orphan(store: Store, record: Record) -> bool:
    """Whether it is detached work whose result nobody asks for: the run that began it, or its connection, is gone."""
    with contextlib.suppress(OSError, StoreError), directory_of(store) as directory:
        status = directory.stat(f"{record.name}.out")
        if status is not None and status.st_uid == record.owner:
            return time.time() > status.st_mtime + _LOST
    return False


def forget(store: Store, name: str) -> None:
    """Remove what there is of a piece of work that has ended."""
    with contextlib.suppress(FileNotFoundError), directory_of(store) as directory:
        for suffix in (".json", ".out"):
            directory.remove(name + suffix)


def forget_abandoned(store: Store) -> None:
    """Remove what nobody has asked for since a day: whoever started it is gone."""
    before = time.time() - _ABANDONED
    with contextlib.suppress(OSError, StoreError), directory_of(store) as directory:
        for entry in directory.names():
            name = entry.partition(".")[0]
            status = directory.stat(entry)
            record = read_record(store, name)
            if status is not None and status.st_mtime < before and not (record is not None and record.goes_on()):
                directory.remove(entry)


def wait_for(records: list[Record], seconds: float) -> None:
    """Wait until all of this work has ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while any(record.goes_on() for record in records) and time.monotonic() < deadline:
        time.sleep(_TICK)


def stop(records: list[Record]) -> None:
    """End work: let it end by itself, so that it keeps what it has, or kill it after some seconds.

    :raises StoreError: When a process belongs to another account, or does not go away.
    """
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _KILL_PATIENCE)):
        for record in records:
            if record.goes_on():
                _send(record, number)
        wait_for(records, patience)
    left = [str(record.pid) for record in records if record.goes_on()]
    if left:
        raise StoreError(f"process {', '.join(left)} does not end although it was killed; the disk may hold it")


def _send(record: Record, number: signal.Signals) -> None:
    try:
        os.kill(record.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise StoreError(f"process {record.pid} belongs to another account; stop it as that one, or as root") from None


def this_process() -> tuple[str, int, str] | None:
    """Return what tells the calling process from any other, or None where the system does not say."""
    found = _identify(os.getpid())
    return None if found is None else found[1]


def _identify(pid: int) -> tuple[int, tuple[str, int, str]] | None:
    """Return a process's owner, and what tells it from any other; None when it has ended.

    That is the boot of the system, the process's number, and when it began: numbers are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # Its second field, in parentheses, is whatever name the process gave itself.
            fields = stream.read().rpartition(")")[2].split()
            owner = os.fstat(stream.fileno()).st_uid
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            boot = stream.read().strip()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else (owner, (boot, pid, fields[19]))
