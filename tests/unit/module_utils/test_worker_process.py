# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker that does its jobs, and everything that can become of one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled, InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._worker_process import (
    Answer,
    WorkerProcess,
    interpreter_of,
)
from ansible_collections.gpufleet.models.tests.unit import jobs


@pytest.fixture
def cancelled() -> threading.Event:
    return threading.Event()


@pytest.fixture
def worker(cancelled: threading.Event) -> Iterator[WorkerProcess]:
    with WorkerProcess(jobs, sys.executable, ["GPU-1", "GPU-2"], cancelled) as worker:
        yield worker


def process_of(worker: WorkerProcess) -> int:
    answer = worker.ask({"happens": "nothing"}, 20)
    assert answer.measured is not None, answer
    assert answer.measured["sees"] == "GPU-1,GPU-2"
    pid: int = answer.measured["process"]
    return pid


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_one_process_does_all_jobs(worker: WorkerProcess) -> None:
    assert process_of(worker) == process_of(worker)


@pytest.mark.parametrize(
    ("happens", "reason", "failure"),
    [
        ("error", "error", "work: RuntimeError: a page of words (the library's own ERROR 7)"),
        ("memory", "out_of_memory", "work: MemoryError: "),
        ("import", "missing_package", "work: ModuleNotFoundError: No module named 'no_such_package'"),
        ("signal", "crash", "the process was ended by SIGSEGV during work"),
        ("exit", "crash", "the process ended with status 3 (no GPU for you) during work"),
    ],
)
def test_a_job_that_fails_does_not_take_the_next_one_along(
    worker: WorkerProcess, happens: str, reason: str, failure: str
) -> None:
    answer = worker.ask({"happens": happens}, 20)
    assert answer == Answer(None, failure, reason)
    process_of(worker)


def test_a_job_that_hangs_is_stopped_with_all_that_it_started(worker: WorkerProcess, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    process_of(worker)  # it has started
    answer = worker.ask({"happens": "hang", "pids": str(pids)}, 3)
    assert answer == Answer(None, "work was not done after 3 s", "timeout")
    left = {int(pid) for pid in pids.read_text(encoding="ascii").split()}
    end = time.monotonic() + 20  # the kernel takes its time
    while left and time.monotonic() < end:
        left = {pid for pid in left if not ended(pid)}
        time.sleep(0.01)
    assert not left
    process_of(worker)


def test_a_signal_stops_it(worker: WorkerProcess, cancelled: threading.Event, tmp_path: Path) -> None:
    threading.Timer(1, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        worker.ask({"happens": "hang", "pids": str(tmp_path / "pids")}, 60)
    assert time.monotonic() - start < 20


def test_nothing_is_left_of_it(cancelled: threading.Event) -> None:
    with WorkerProcess(jobs, sys.executable, ["GPU-1", "GPU-2"], cancelled) as worker:
        pid = process_of(worker)
        assert not ended(pid)
    assert ended(pid)


def test_an_environment_without_python(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"^{tmp_path}/bin/python is not there; make the environment"):
        interpreter_of(str(tmp_path))
