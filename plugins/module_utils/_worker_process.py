# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process of the inference environment that works on jobs, whatever becomes of it; :mod:`_worker` is its own side."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any, cast

from ._blocks import check_cancelled
from ._errors import InvalidInput
from ._process import describe_end
from ._signals import PATIENCE

_DYING = 10.0  # seconds that a killed process has; a driver that hangs keeps hold of it for ever
_START = "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    :ivar measured: What the worker measured, or None.
    :ivar failure: Why it measured nothing.
    :ivar reason: The failure in a word: ``out_of_memory``, ``timeout``, ``crash``, ``missing_package`` or ``error``.
    """

    measured: dict[str, Any] | None = None
    failure: str | None = None
    reason: str | None = None


def interpreter_of(venv: str) -> str:
    """Return the Python of an inference environment.

    :raises InvalidInput: When there is none.
    """
    python = os.path.join(venv, "bin", "python")
    if not os.access(python, os.X_OK):
        raise InvalidInput(f"{python} is not there; make the environment with the role python_venv, or name another")
    return python


def command(python: str, module: ModuleType) -> list[str]:
    """Return the command that runs a module's ``main`` with another interpreter.

    :param module: One of this collection, wherever it was loaded from: a directory or Ansible's archive.
    """
    name = module.__name__
    place = str(module.__file__)[: -len(f"{name.replace('.', '/')}.py") - 1]
    return [python, "-I", "-c", _START.format(module=name), place]


class WorkerProcess:
    """A process that works on jobs; it is started with the first one, and again when it has died.

    A context, after which the process is gone. The kernel ends it with the thread that gave it the first job.
    """

    def __init__(self, module: ModuleType, python: str, uuids: Sequence[str], cancelled: threading.Event) -> None:
        """Describe a worker.

        :param module: Has the ``main()`` that serves the jobs.
        :param python: The interpreter of the inference environment.
        :param uuids: The GPUs, or MIG devices, that it sees.
        """
        self._module = module
        self._python = python
        self._uuids = uuids
        self._cancelled = cancelled
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._heard = 0

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()
        self._said.close()

    def ask(self, job: Mapping[str, Any], timeout: float) -> Answer:
        """Have a job done.

        :param timeout: Seconds after which the process is killed.
        :raises Cancelled: When a signal came.
        """
        phase = "start"
        deadline = time.monotonic() + timeout
        self._send(job)
        while True:
            check_cancelled(self._cancelled)
            if time.monotonic() > deadline:
                self._stop()
                return Answer(None, f"{phase} was not done after {timeout:g} s", "timeout")
            try:
                event = self._events.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if event is None:
                return Answer(None, f"the process {self._death()} during {phase}", "crash")
            if "failed" in event:
                failed = event["failed"]
                answer = Answer(None, f"{phase}: {failed['error']}{self._complaint()}", failed["reason"])
                # Whatever went wrong in there, on a GPU above all, does not reach the next job.
                self._stop()
                return answer
            if "measured" in event:
                return Answer(event["measured"])
            phase = event["phase"]

    def _send(self, job: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        self._heard = os.fstat(self._said.fileno()).st_size
        stdin = cast("IO[str]", process.stdin)
        with contextlib.suppress(BrokenPipeError):  # its end is noticed where its events are read
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()

    def _start(self) -> subprocess.Popen[str]:
        self._stop()
        self._events = queue.SimpleQueue()
        self._process = subprocess.Popen(
            command(self._python, self._module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(self._uuids)},
            encoding="utf-8",
            start_new_session=True,
        )
        threading.Thread(target=_read, args=(self._process.stdout, self._events), daemon=True).start()
        return self._process

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_DYING)
        with contextlib.suppress(BrokenPipeError):
            cast("IO[str]", process.stdin).close()
        self._process = None

    def _death(self) -> str:
        """Return how the process ended, with the last of what it said."""
        process = cast("subprocess.Popen[str]", self._process)
        try:
            status = process.wait(_DYING)
        except subprocess.TimeoutExpired:
            return "does not come to its end"
        how = describe_end(status)
        said = " ".join(self._output().split())
        return f"{how} ({said[-300:]})" if said else how

    def _complaint(self) -> str:
        """Return the first line with an error that libraries printed, for those that raise nothing of use."""
        line = next((line for line in self._output().splitlines() if "error" in line.lower()), "").strip()
        return f" ({line[:300]})" if line else ""

    def _output(self) -> str:
        """Return what was printed since the last job was sent."""
        # Read past the file's position, which is also where the process writes.
        end = os.fstat(self._said.fileno()).st_size
        return os.pread(self._said.fileno(), end - self._heard, self._heard).decode(errors="replace")


def _read(stdout: IO[str], events: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with stdout:
        for line in stdout:
            with contextlib.suppress(ValueError):
                events.put(json.loads(line))
    events.put(None)
