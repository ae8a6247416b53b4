# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that goes on in a process of its own, whatever becomes of the connection through which it was started."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, NoReturn

from ._errors import StoreError
from ._store import Store
from ._work import Work
from ._work_record import Record, directory_of, expect, forget, forget_abandoned, read_record, wait_for

START_PATIENCE = 2.0  # seconds in which short work tells its result at once

# Under this key stands how far the work is; null where it is a result that somebody has asked for.
KEY = "gpufleet_work"


def detach(work: Work) -> None:
    """Go on in a process of its own; this returns in that process alone.

    The process that called it tells how far the work is, or its result when that comes soon, and ends. Called again
    with the same name it starts nothing, and tells of what was started before.

    Where nobody will ask for the result, or nothing can be written into the store, the work is done where it is.
    """
    if not work.to_detach:
        return
    if read_record(work.store, work.name) is not None:
        tell(attend(work.store, work.name, START_PATIENCE)[1])
    forget_abandoned(work.store)
    try:
        with directory_of(work.store, create=True) as directory:
            output = directory.open(f"{work.name}.out", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        begun, begins = os.pipe()
        child = os.fork()
    except (OSError, StoreError):
        return
    if child:
        os.close(begins)
        if not os.read(begun, 1):  # nobody would find it, on a full disk for example
            forget(work.store, work.name)
            return
        ended, answer = attend(work.store, work.name, START_PATIENCE)
        if ended:
            forget(work.store, work.name)
        _print(answer)
        # At once: what the module lies in is removed by the process that does the work.
        os._exit(0)
    # A connection that is closed sends a signal to its session, and waits until nobody has its pipes.
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in (nothing, output, begun):
        os.close(descriptor)
    work.detached = True
    work.register()
    if read_record(work.store, work.name) is None:
        os._exit(1)
    os.write(begins, b"1")
    os.close(begins)


def attend(store: Store, name: str, seconds: float) -> tuple[bool, dict[str, Any]]:
    """Wait for a piece of work; return whether it has ended, and its result, or else how far it is."""
    record = read_record(store, name)
    if record is None or record.owner != os.geteuid():
        return True, _failure(f"there is no record of this work in {store.path} any more; run it again")
    expect(store, name, seconds)
    wait_for([record], seconds)
    record = read_record(store, name) or record
    if record.goes_on():
        return False, {"changed": False, KEY: record.to_json()}
    return True, _result(store, record)


def tell(answer: dict[str, Any]) -> NoReturn:
    """Print what a module has to say, as it is: it was another process of a module that made it. End the module."""
    _print(answer)
    raise SystemExit


def _print(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    sys.stdout.flush()


def _result(store: Store, record: Record) -> dict[str, Any]:
    """Return what the process that did the work printed at its end."""
    content = b""
    with contextlib.suppress(OSError, StoreError), directory_of(store) as directory:
        descriptor = directory.open(f"{record.name}.out", os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as stream:
            # Whoever owns the store could put another file here.
            if os.fstat(descriptor).st_uid == os.geteuid():
                content = stream.read()
    for line in reversed(content.decode("utf-8", "replace").splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            result = json.loads(line)
            if isinstance(result, dict):
                return {**result, KEY: None}
    said = " ".join(content.decode("utf-8", "replace").split())[-300:]
    return _failure(
        f"process {record.pid}, which worked on {store.path}, was killed or crashed ({said or 'it said nothing'}); "
        "what was received is kept, run it again to go on"
    )


def _failure(message: str) -> dict[str, Any]:
    return {"failed": True, "changed": False, "msg": message, KEY: None}
