# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have all GPUs of a host work at once, each in a process of its own, and survive what becomes of those."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from . import _gpu_worker
from ._smoke_judge import Check
from ._worker_process import Answer, WorkerProcess

_LOOK = 1.0  # seconds between two looks at the GPUs that work
_COPY_SECONDS = 60.0  # until a copy counts as hanging; the other GPUs wait for their turn

# Beside the memory that is tested: the process's CUDA context, and what is compared with.
_RESERVED_MIB = 1536
_UNKNOWN_MIB = 1024  # tested where nobody tells how much is free

_ADVICE = {
    "out_of_memory": "stop what else uses the GPU",
    "missing_package": "make the environment with the role python_venv",
}


@dataclass(frozen=True)
class Part:
    """What works by itself: a GPU, or a MIG device of one.

    :ivar index: The GPU's index.
    :ivar uuid: What CUDA calls it.
    :ivar free_mib: The memory that is free, where that is known.
    """

    index: int
    uuid: str
    name: str
    free_mib: int | None

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"

    @property
    def whole(self) -> bool:
        """Whether it is a GPU: MIG devices do not exchange data."""
        return not self.uuid.startswith("MIG-")


@dataclass(frozen=True)
class Load:
    """What a GPU is given to do.

    :ivar seconds: How long it multiplies.
    :ivar memory_share: Of its free memory, what is tested.
    :ivar timeout: Seconds for all of it.
    :ivar device: What torch calls the device.
    :ivar rows: Of the matrices of whole numbers, and of those that it multiplies for long.
    :ivar copied_mib: What is copied at once.
    """

    seconds: float
    memory_share: float
    timeout: float
    device: str = "cuda"
    rows: tuple[int, int] = (4096, 8192)
    copied_mib: int = 256

    def jobs(self, part: Part) -> list[dict[str, Any]]:
        """Return the steps of a part, as its worker takes them. It is warm when its arithmetic is tested."""
        exact, sustained = self.rows
        steps: dict[str, dict[str, Any]] = {
            "sustained product": {"size": sustained, "seconds": self.seconds},
            "products": {"size": exact},
            "memory": {"mib": self.memory_mib(part.free_mib)},
            "copies": {"mib": self.copied_mib},
        }
        return [{"step": step, "device": self.device, **arguments} for step, arguments in steps.items()]

    def memory_mib(self, free_mib: int | None) -> int:
        """Return how much memory is tested, in MiB."""
        if free_mib is None:
            return _UNKNOWN_MIB
        return max(0, min(int(free_mib * self.memory_share), free_mib - _RESERVED_MIB))


@dataclass
class Work:
    """What a part has done so far.

    :ivar steps: What each step measured, by its name.
    :ivar broken: The check of the step that did not come to an end.
    """

    steps: dict[str, Any] = field(default_factory=dict)
    broken: Check | None = None


@dataclass(frozen=True)
class Exchange:
    """What came of the copies between GPUs.

    :ivar pairs: What was measured, as the worker tells it; its places are those of ``parts``.
    :ivar broken: The check that failed, where it did not come to an end.
    """

    parts: Sequence[Part] = ()
    pairs: Sequence[Mapping[str, Any]] = ()
    broken: Check | None = None


def load_parts(
    parts: Sequence[Part], load: Load, python: str, cancelled: threading.Event, look: Callable[[], None]
) -> list[Work]:
    """Give all parts their work at once, and return what each of them did.

    :param python: The interpreter of the inference environment.
    :param look: Is called from time to time meanwhile.
    :raises Cancelled: When a signal came; no process is left by then.
    """
    works = [Work() for _part in parts]
    turn = threading.Lock()
    errors: list[BaseException] = []

    def run(part: Part, work: Work) -> None:
        try:
            _run(part, work, load, python, cancelled, turn)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(parts, works)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            look()
            _wait(threads, _LOOK)
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return works


def _run(part: Part, work: Work, load: Load, python: str, cancelled: threading.Event, turn: threading.Lock) -> None:
    deadline = time.monotonic() + load.timeout
    with WorkerProcess(_gpu_worker, python, [part.uuid], cancelled) as worker:
        for job in load.jobs(part):
            step = job["step"]
            # Copies of several GPUs at once would measure the host's memory.
            with turn if step == "copies" else contextlib.nullcontext():
                left = max(0.0, deadline - time.monotonic())
                answer = worker.ask(job, min(left, _COPY_SECONDS) if step == "copies" else left)
            if answer.measured is None:
                work.broken = _broken(step, load, answer)
                return
            work.steps[step] = answer.measured


def exchange(parts: Sequence[Part], load: Load, python: str, cancelled: threading.Event) -> Exchange:
    """Copy from each GPU to each other one.

    :param parts: Those that can: GPUs that did all of their work.
    :raises Cancelled: When a signal came; no process is left by then.
    """
    if len(parts) < 2:
        return Exchange()
    devices = [load.device if load.device == "cpu" else f"{load.device}:{place}" for place in range(len(parts))]
    step = "peer copies"
    with WorkerProcess(_gpu_worker, python, [part.uuid for part in parts], cancelled) as worker:
        answer = worker.ask({"step": step, "devices": devices, "mib": load.copied_mib}, load.timeout)
    if answer.measured is None:
        return Exchange(parts, (), _broken(step, load, answer))
    return Exchange(parts, answer.measured["pairs"])


def _broken(step: str, load: Load, answer: Answer) -> Check:
    advice = f"; {_ADVICE[answer.reason]}" if answer.reason in _ADVICE else ""
    return Check(step, False, f"a result within {load.timeout:g} s", f"{answer.failure}{advice}")


def _wait(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait until all threads have ended, or the time is over."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
