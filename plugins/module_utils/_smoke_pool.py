# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have models loaded and run by processes of their own, one for each device, and survive what becomes of those."""

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import _smoke_openvino, _smoke_worker
from ._blocks import check_cancelled
from ._errors import InvalidInput
from ._smoke_memory import Choice, choices
from ._smoke_model import Subject
from ._smoke_spec import Smoke
from ._worker import command

_PATIENCE = 0.1  # seconds until a signal is noticed
_FALLBACKS = 2  # types that are tried after the first one, when memory runs out


@dataclass(frozen=True)
class Device:
    """What one process computes on.

    :ivar uuids: GPUs, or MIG devices; none is the CPU.
    :ivar name: What people call it.
    :ivar free_mib: The memory that is free on each of them, where that is known.
    """

    uuids: tuple[str, ...] = ()
    name: str = "CPU"
    free_mib: int | None = None


@dataclass(frozen=True)
class Job:
    """A model and how it is to be tested."""

    subject: Subject
    smoke: Smoke
    gpus: int = 1

    def dtypes(self, device: Device) -> tuple[str, ...]:
        """Return the types to try, the preferred one first."""
        if self.subject.engine == "openvino":
            return (_smoke_openvino.DTYPE,)
        own = self.subject.dtype or "float32"
        if own == "float16" and not device.uuids:  # slow there, and not defined for every operation
            own = "float32"
        return self.smoke.dtypes or (own,)


@dataclass(frozen=True)
class Attempt:
    """One try to load and run a model.

    :ivar measured: What the worker measured, or None.
    :ivar failure: Why it measured nothing.
    :ivar reason: The failure in a word: ``out_of_memory``, ``timeout``, ``crash``, ``missing_package``, ``error``, or
        ``too_large`` for what was not even tried.
    """

    choice: Choice
    device: str
    measured: dict[str, Any] | None = None
    failure: str | None = None
    reason: str | None = None


def run_jobs(
    jobs: Sequence[Job], devices: Sequence[Device], python: str, cancelled: threading.Event
) -> list[list[Attempt]]:
    """Test models, on all devices at once; return the attempts for each, the last of which counts.

    :param devices: What is there; at least one.
    :param python: The interpreter of the inference environment.
    :raises InvalidInput: When there is no such interpreter.
    :raises Cancelled: When a signal came; no process is left by then.
    """
    if not os.access(python, os.X_OK):
        raise InvalidInput(f"{python} is not there; make the environment with the role python_venv, or name another")
    attempts: list[list[Attempt]] = [[] for _job in jobs]
    converted = [index for index, job in enumerate(jobs) if job.subject.engine == "openvino"]
    others = [index for index in range(len(jobs)) if index not in converted]
    single = [index for index in others if jobs[index].gpus <= 1 or not devices[0].uuids]
    _share_out(single, jobs, devices, python, attempts, cancelled)
    for index in sorted(set(others) - set(single)):
        _share_out([index], jobs, [_joined(devices[: jobs[index].gpus])], python, attempts, cancelled)
    # They run on the CPU wherever they are, and after the others, so that no figure is of both.
    _share_out(converted, jobs, [Device()], python, attempts, cancelled)
    return attempts


def _joined(devices: Sequence[Device]) -> Device:
    free = [device.free_mib for device in devices if device.free_mib is not None]
    uuids = tuple(uuid for device in devices for uuid in device.uuids)
    return Device(uuids, f"{len(devices)} x {devices[0].name}", sum(free) if len(free) == len(devices) else None)


def _share_out(
    indexes: Iterable[int],
    jobs: Sequence[Job],
    devices: Sequence[Device],
    python: str,
    attempts: list[list[Attempt]],
    cancelled: threading.Event,
) -> None:
    """Have each device take the next job when it is done with one."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    errors: list[BaseException] = []
    for index in indexes:
        waiting.put(index)

    def work(device: Device) -> None:
        try:
            with Worker(device, python, cancelled) as worker:
                while True:
                    index = waiting.get_nowait()
                    attempts[index] = _attempt(jobs[index], worker)
        except queue.Empty:
            return
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in devices[: waiting.qsize()]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _attempt(job: Job, worker: Worker) -> list[Attempt]:
    """Try the types in order of preference: the first that fits, and after it others, if its memory ran out."""
    available = worker.device.free_mib
    bound = job.smoke.limits.get("gpu_memory_mib")
    if worker.device.uuids and bound is not None:
        available = int(bound) if available is None else min(available, int(bound))
    attempts: list[Attempt] = []
    tried = 0
    for choice in choices(job.subject, job.dtypes(worker.device), available):
        if not choice.fits:
            failure = f"needs about {choice.predicted_mib} MiB for its weights, of {choice.available_mib} MiB"
            attempts.append(Attempt(choice, worker.device.name, None, failure, "too_large"))
            continue
        attempts.append(worker.run(job, choice))
        tried += 1
        if attempts[-1].reason != "out_of_memory" or tried > _FALLBACKS:
            break
    return attempts


class Worker:
    """A process that works on jobs for one device; it is started again when it has died."""

    def __init__(self, device: Device, python: str, cancelled: threading.Event) -> None:
        self.device = device
        self._python = python
        self._cancelled = cancelled
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._heard = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()
        self._said.close()

    def run(self, job: Job, choice: Choice) -> Attempt:
        """Have a model loaded with a type, and run.

        :raises Cancelled: When a signal came.
        """
        name = self.device.name
        phase = "start"
        deadline = time.monotonic() + job.smoke.timeout
        self._send(job, choice)
        while True:
            check_cancelled(self._cancelled)
            if time.monotonic() > deadline:
                self._stop()
                failure = f"{phase} was not done after {job.smoke.timeout:g} s"
                return Attempt(choice, name, None, failure, "timeout")
            try:
                event = self._events.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if event is None:
                return Attempt(choice, name, None, f"the process {self._death()} during {phase}", "crash")
            if "failed" in event:
                failed = event["failed"]
                return Attempt(choice, name, None, f"{phase}: {failed['error']}{self._complaint()}", failed["reason"])
            if "measured" in event:
                return Attempt(choice, name, event["measured"])
            phase = event["phase"]

    def _send(self, job: Job, choice: Choice) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._heard = os.fstat(self._said.fileno()).st_size
        subject = job.subject
        document = {
            "engine": subject.engine,
            "task": subject.task,
            "directory": subject.directory,
            "weights": subject.weights,
            "inputs": job.smoke.inputs_for(subject.task),
            "dtype": choice.dtype,
            "device": "cuda" if self.device.uuids else "cpu",
            "gpus": len(self.device.uuids),
        }
        with contextlib.suppress(BrokenPipeError):  # its end is noticed where its events are read
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()

    def _start(self) -> None:
        self._stop()
        self._events = queue.SimpleQueue()
        self._process = subprocess.Popen(
            command(self._python, _smoke_worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(self.device.uuids)},
            encoding="utf-8",
            start_new_session=True,
        )
        threading.Thread(target=_read, args=(self._process, self._events), daemon=True).start()

    def _stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process = None

    def _death(self) -> str:
        """Return how the process ended, with the last of what it said."""
        assert self._process is not None
        status = self._process.wait()
        how = f"ended with status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-status).name}"
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


def _read(process: subprocess.Popen[str], events: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                events.put(json.loads(line))
    events.put(None)
