# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have models loaded and run by processes of their own, one for each device, and survive what becomes of those."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import _smoke_openvino, _smoke_worker
from ._errors import ContentError
from ._signals import PATIENCE
from ._smoke_memory import Choice, choices
from ._smoke_model import Subject
from ._smoke_spec import Smoke
from ._worker_process import WorkerProcess, interpreter_of

_NAMED = 5  # processes in a message
_FALLBACKS = 2  # types that are tried after the first one, when memory runs out


@dataclass(frozen=True)
class Device:
    """What one process computes on.

    :ivar uuids: GPUs, or MIG devices; none is the CPU.
    :ivar name: What people call it.
    :ivar free_mib: The memory that is free on all of them together, where that is known.
    :ivar users: The processes that use them, as a message names them.
    """

    uuids: tuple[str, ...] = ()
    name: str = "CPU"
    free_mib: int | None = None
    users: tuple[str, ...] = ()

    def available_mib(self, most: float | None) -> int | None:
        """Return the memory that a model may take.

        :param most: What it may take of each GPU by its limits, in MiB.
        """
        if most is None or not self.uuids:
            return self.free_mib
        bound = int(most) * len(self.uuids)
        return bound if self.free_mib is None else min(self.free_mib, bound)

    def named_users(self) -> str:
        """Return who else uses its memory, to be added to a sentence."""
        if not self.users:
            return ""
        more = f" and {len(self.users) - _NAMED} more" if len(self.users) > _NAMED else ""
        return f"; its memory is used by {', '.join(self.users[:_NAMED])}{more}"


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

    def to_json(self, choice: Choice, device: Device) -> dict[str, Any]:
        """Return the job as its worker takes it."""
        return {
            "engine": self.subject.engine,
            "task": self.subject.task,
            "directory": self.subject.directory,
            "weights": self.subject.weights,
            "inputs": self.smoke.inputs_for(self.subject.task),
            "dtype": choice.dtype,
            "device": "cuda" if device.uuids else "cpu",
            "gpus": len(device.uuids),
            "gpu_memory_mib": self.smoke.limits.get("gpu_memory_mib"),
        }


@dataclass(frozen=True)
class Attempt:
    """One try to load and run a model.

    :ivar measured: What the worker measured, or None.
    :ivar failure: Why it measured nothing.
    :ivar reason: The failure in a word: as a worker's answer has it, or ``too_large`` for what was not even tried.
    """

    choice: Choice
    device: str
    measured: dict[str, Any] | None = None
    failure: str | None = None
    reason: str | None = None


def run_jobs(
    jobs: Sequence[Job], devices: Sequence[Device], venv: str, cancelled: threading.Event
) -> list[list[Attempt]]:
    """Test models, on all devices at once; return the attempts for each, the last of which counts.

    :param devices: What is there; at least one.
    :param venv: The inference environment.
    :raises InvalidInput: When there is no such environment.
    :raises Cancelled: When a signal came; no process is left by then.
    """
    python = interpreter_of(venv)
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
    users = tuple(user for device in devices for user in device.users)
    return Device(uuids, f"{len(devices)} x {devices[0].name}", sum(free) if len(free) == len(devices) else None, users)


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
            with WorkerProcess(_smoke_worker, python, device.uuids, cancelled) as worker:
                while True:
                    index = waiting.get_nowait()
                    attempts[index] = _attempt(jobs[index], device, worker)
        except queue.Empty:
            return
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in devices[: waiting.qsize()]]
    for thread in threads:
        thread.start()
    for thread in threads:
        # A signal that comes just before a wait without an end is not noticed until that ends.
        while thread.is_alive():
            thread.join(PATIENCE)
    if errors:
        raise errors[0]


def _attempt(job: Job, device: Device, worker: WorkerProcess) -> list[Attempt]:
    """Try the types in order of preference: the first that fits, and after it others, if its memory ran out."""
    available = device.available_mib(job.smoke.limits.get("gpu_memory_mib"))
    attempts: list[Attempt] = []
    tried = 0
    try:
        wanted = choices(job.subject, job.dtypes(device), available)
    except ContentError as error:
        return [Attempt(Choice(job.dtypes(device)[0], None, available), device.name, None, str(error), "error")]
    for choice in wanted:
        if not choice.fits:
            failure = f"needs about {choice.predicted_mib} MiB for its weights, of {choice.available_mib} MiB"
            attempts.append(Attempt(choice, device.name, None, failure, "too_large"))
            continue
        answer = worker.ask(job.to_json(choice, device), job.smoke.timeout)
        attempts.append(Attempt(choice, device.name, answer.measured, answer.failure, answer.reason))
        tried += 1
        if attempts[-1].reason != "out_of_memory" or tried > _FALLBACKS:
            break
    # Not where the limit left less than they did.
    if attempts[-1].reason in ("too_large", "out_of_memory") and available == device.free_mib:
        attempts[-1] = replace(attempts[-1], failure=f"{attempts[-1].failure}{device.named_users()}")
    return attempts
