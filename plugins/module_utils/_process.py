# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Other programs: run to their end, to a deadline, or until the work is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ._blocks import check_cancelled
from ._errors import Cancelled
from ._signals import PATIENCE


@dataclass(frozen=True)
class Limit:
    """How long all programs of one piece of work may take together. ``deadline`` is a monotonic time."""

    deadline: float
    seconds: float
    cancelled: threading.Event

    @classmethod
    def of(cls, seconds: float, cancelled: threading.Event) -> Limit:
        """Return the limit that begins now."""
        return cls(time.monotonic() + seconds, seconds, cancelled)

    def left(self, program: str) -> float:
        """Return the seconds that are left, more than none.

        :raises Cancelled: When there are none, or a signal came.
        """
        check_cancelled(self.cancelled)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Cancelled(f"{program} was stopped: the timeout of {self.seconds:g} s is over; allow more time")
        return left


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, negative for a signal, and what it printed."""

    status: int
    output: str
    errors: str


def status_name(status: int) -> str:
    """Return the name of the signal that ended a program, or ``status 3`` for one that ended by itself."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
    return f"status {status}"


def describe_end(status: int) -> str:
    """Return how a process ended: ``was ended by SIGSEGV``, or ``ended with status 3``."""
    name = status_name(status)
    return f"was ended by {name}" if name.startswith("SIG") else f"ended with {name}"


def run_program(
    command: Sequence[str],
    environ: Mapping[str, str],
    directory: str,
    limit: Limit,
    content: str | None = None,
    inherit: Iterable[int] = (),
) -> Ended:
    """Run a program and all that it starts.

    :param directory: Where it runs.
    :param content: What it reads from its standard input.
    :param inherit: Descriptors that it gets.
    :raises Cancelled: When the limit is reached or a signal came; the program has ended by then.
    """
    name = os.path.basename(command[0])
    with contextlib.ExitStack() as stack:
        stdin: IO[bytes] | int = subprocess.DEVNULL
        if content is not None:
            # A file: what is sent through a pipe is lost where communicate() is called again.
            stdin = stack.enter_context(tempfile.TemporaryFile())
            stdin.write(content.encode())
            stdin.seek(0)
        process = subprocess.Popen(
            list(command),
            cwd=directory,
            env=dict(environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
    try:
        while True:
            try:
                output, errors = process.communicate(timeout=min(PATIENCE, limit.left(name)))
            except subprocess.TimeoutExpired:
                continue
            return Ended(process.returncode, output, errors)
    except BaseException:
        # Nothing of it may write any more.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
