# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on a store: it is there to be seen while it goes on, does no harm to it, and only the right process is ended."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._detach import KEY, attend
from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._progress import Progress
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._work import Work
from ansible_collections.gpufleet.models.plugins.module_utils._work_record import (
    expect,
    forget_abandoned,
    is_orphan,
    read_record,
    require_name,
    stop,
    work_of,
)
from tests.unit.stores import NEVER

NAME = "0123456789abcdef"


def work(store: Store, **options: Any) -> Work:
    """Return work that would take its time."""
    return Work(store, **{"operation": "stage", "writes": True, "timeout": None, "cancelled": NEVER, **options})


@contextlib.contextmanager
def running(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program that prints a line when it is ready, and waits then."""
    command = [sys.executable, "-c", f"import signal, time; {program}; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        try:
            yield popen
        finally:
            popen.kill()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the store, and ends at SIGTERM."""
    with running("pass") as popen:
        yield popen


def write_record(store: Store, pid: int, **changes: Any) -> Path:
    """Write what a process would tell of itself, but for the changes."""
    start = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    document = {"operation": "stage", "writes": True, "process": [boot, pid, start], **changes}
    path = Path(store.path, "work", f"{NAME}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_it_says_how_far_it_is(store: Store) -> None:
    with work(store) as going_on:
        (record,) = work_of(store)
        assert record.to_json() == {
            "operation": "stage",
            "doing": "",
            "what": "",
            "pid": os.getpid(),
            "seconds": 0.0,
            "total_bytes": None,
            "done_bytes": None,
            "bytes_per_second": None,
        }
        going_on.begin("receive")(Progress(100, 10, 20, "a of m"))
        (record,) = work_of(store)
        told = record.to_json()
        assert (told["doing"], told["what"]) == ("receive", "a of m")
        assert (told["total_bytes"], told["done_bytes"], told["bytes_per_second"]) == (100, 30, 0)
    assert work_of(store) == []
    assert list(Path(store.path, "work").iterdir()) == []


def test_it_is_written_once_a_second(store: Store) -> None:
    with work(store) as going_on:
        going_on.begin("receive")(Progress(100, 0, 0))
        path = next(Path(store.path, "work").glob("*.json"))
        first = path.stat().st_ino
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            going_on(Progress(100, 0, 50))
        assert path.stat().st_ino == first


def own(store: Store) -> dict[str, Any]:
    """Return what this process tells of its work."""
    (told,) = [record.to_json() for record in work_of(store) if record.pid == os.getpid()]
    return told


def test_it_says_what_it_waits_for(store: Store, process: subprocess.Popen[bytes]) -> None:
    figures = {"what": "a of m", "total_bytes": 100, "done_bytes": 30, "bytes_per_second": 7}
    write_record(store, process.pid, doing="receive", **figures)
    with work(store) as waiting:
        assert not waiting.wait(process.pid)
        assert (own(store)["operation"], own(store)["doing"]) == ("stage", "wait")
        assert {name: own(store)[name] for name in figures} == figures
        # Once it has its turn it says so, before there is any progress.
        waiting.begin("receive")
        assert (own(store)["doing"], own(store)["what"], own(store)["done_bytes"]) == ("receive", "", None)
        # Nothing is told of a holder that tells nothing.
        assert not waiting.wait(None)
        assert (own(store)["doing"], own(store)["what"]) == ("wait", "")


def test_only_what_was_left_behind_is_worth_any_time(store: Store, process: subprocess.Popen[bytes]) -> None:
    """And that only to a run whose own result is asked for."""
    output = write_record(store, process.pid).with_suffix(".out")
    long_ago = time.time() - 60
    with work(store, name="f" * 16) as waiting:
        own_output = Path(store.path, "work", f"{waiting.name}.out")
        own_output.touch()
        assert not waiting.wait(process.pid)  # it has no output: it was not detached
        output.touch()
        assert not waiting.wait(process.pid)
        os.utime(output, (long_ago, long_ago))
        assert not waiting.wait(process.pid)  # this one is not
        waiting.detached = True
        assert waiting.wait(process.pid)
        os.utime(own_output, (long_ago, long_ago))
        assert not waiting.wait(process.pid)
        expect(store, waiting.name, 30)
        assert waiting.wait(process.pid)
        expect(store, NAME, 30)
        assert not waiting.wait(process.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_output_of_another_account_says_nothing(store: Store, process: subprocess.Popen[bytes]) -> None:
    output = write_record(store, process.pid).with_suffix(".out")
    output.touch()
    os.utime(output, (1, 1))
    (record,) = work_of(store)
    assert is_orphan(store, record)
    os.chown(output, 65534, 65534)
    assert not is_orphan(store, record)


def test_output_with_a_second_name_is_left_alone(store: Store, process: subprocess.Popen[bytes]) -> None:
    output = write_record(store, process.pid).with_suffix(".out")
    elsewhere = Path(store.path, "elsewhere")
    elsewhere.touch()
    os.utime(elsewhere, (1, 1))
    os.link(elsewhere, output)
    expect(store, NAME, 30)
    assert elsewhere.stat().st_mtime == 1


def test_what_a_file_tells_has_bounds(store: Store, process: subprocess.Popen[bytes]) -> None:
    write_record(store, process.pid, what="é" * 10000)
    with work(store) as waiting:
        waiting.wait(process.pid)
        assert own(store)["what"] == "é" * 1000


def test_full_disk_does_not_stop_it(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with work(store) as going_on:
            going_on(Progress(100, 0, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(Path(store.path, "work").iterdir()) == []


def test_planted_link_does_not_stop_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path(store.path, "work").symlink_to(tmp_path / "elsewhere")
    with work(store) as going_on:
        going_on(Progress(100, 0, 0))
        assert work_of(store) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_check_mode_tells_nobody(store: Store) -> None:
    with work(store, hidden=True) as going_on:
        going_on(Progress(100, 0, 0))
        assert not Path(store.path, "work").exists()


def test_timeout(store: Store) -> None:
    cancelled = threading.Event()

    def overrun() -> None:
        with work(store, timeout=0.01, cancelled=cancelled):
            assert cancelled.wait(10)
            raise Cancelled("stopped by a signal")

    with pytest.raises(Cancelled, match=r"not complete after the timeout of 0\.01 s; what was received is kept"):
        overrun()


def test_timeout_while_it_waits(store: Store) -> None:
    cancelled = threading.Event()

    def overrun() -> None:
        with work(store, timeout=0.01, cancelled=cancelled) as waiting:
            waiting.wait(None)
            assert cancelled.wait(10)
            raise Cancelled("stopped by a signal")

    with pytest.raises(Cancelled, match=r"not complete after the timeout of 0\.01 s; another run used the store"):
        overrun()


def test_signal_within_the_timeout_is_told_as_one(store: Store) -> None:
    with pytest.raises(Cancelled, match="stopped by a signal"), work(store, timeout=600):
        raise Cancelled("stopped by a signal")


def test_stopping(store: Store, process: subprocess.Popen[bytes]) -> None:
    write_record(store, process.pid)
    stop(work_of(store))
    assert process.wait(10) == -signal.SIGTERM
    assert work_of(store) == []


def test_stopping_what_does_not_listen(store: Store) -> None:
    with running("signal.signal(signal.SIGTERM, signal.SIG_IGN)") as deaf:
        write_record(store, deaf.pid)
        stop(work_of(store))
        assert deaf.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    "changes",
    [
        {"process": ["0" * 36, None, None]},
        {"process": [None, None, "1"]},
        {"process": "nonsense"},
        {"process": []},
        {"process": None},
    ],
    ids=["another boot", "a number that is used again", "text", "nothing in it", "none"],
)
def test_another_process_is_left_alone(store: Store, process: subprocess.Popen[bytes], changes: dict[str, Any]) -> None:
    path = write_record(store, process.pid)
    true = json.loads(path.read_text(encoding="utf-8"))["process"]
    false = changes["process"]
    if isinstance(false, list) and false:
        changes = {"process": [new or old for new, old in zip(false, true)]}
    write_record(store, process.pid, **changes)
    assert work_of(store) == []
    stop([record for record in [read_record(store, NAME)] if record is not None])
    assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_record_of_a_less_trusted_owner_is_not_believed(store: Store, process: subprocess.Popen[bytes]) -> None:
    """Whoever owns the store cannot have root end its processes."""
    os.chown(write_record(store, process.pid), 65534, 65534)
    assert work_of(store) == []
    record = read_record(store, NAME)
    assert record is not None
    stop([record])
    assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_result_of_a_less_trusted_owner_is_not_believed(store: Store, process: subprocess.Popen[bytes]) -> None:
    write_record(store, process.pid)
    output = Path(store.path, "work", f"{NAME}.out")
    output.write_text('{"changed": true, "ansible_facts": {}}\n', encoding="utf-8")
    os.chown(output, 65534, 65534)
    process.kill()
    process.wait()
    ended, answer = attend(store, NAME, 0)
    assert ended
    assert answer["failed"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('\n{"changed": true}\n', {"changed": True}),
        ('a warning\n{"no json\n\n{"changed": false, "msg": "x"}\n', {"changed": False, "msg": "x"}),
    ],
)
def test_result(store: Store, process: subprocess.Popen[bytes], output: str, expected: dict[str, Any]) -> None:
    write_record(store, process.pid)
    Path(store.path, "work", f"{NAME}.out").write_text(output, encoding="utf-8")
    assert attend(store, NAME, 0)[0] is False
    process.kill()
    process.wait()
    ended, answer = attend(store, NAME, 0)
    assert ended
    assert answer == {**expected, KEY: None}


def test_no_result(store: Store, process: subprocess.Popen[bytes]) -> None:
    write_record(store, process.pid)
    Path(store.path, "work", f"{NAME}.out").write_text("Killed\n[1]\n", encoding="utf-8")
    process.kill()
    process.wait()
    message = attend(store, NAME, 0)[1]["msg"]
    assert message == (
        f"process {process.pid}, which worked on {store.path}, was killed or crashed (Killed [1]); what was received "
        "is kept, run it again to go on"
    )
    assert "no record of this work" in attend(store, "f" * 16, 0)[1]["msg"]


def test_what_nobody_asks_for_goes_after_a_day(store: Store, process: subprocess.Popen[bytes]) -> None:
    path = write_record(store, process.pid)
    old = time.time() - 2 * 86400
    os.utime(path, (old, old))
    forget_abandoned(store)
    assert path.exists()
    process.kill()
    process.wait()
    os.utime(path)
    forget_abandoned(store)
    assert path.exists()
    os.utime(path, (old, old))
    forget_abandoned(store)
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "../x", "0123", "0123456789ABCDEF", "0" * 65, "0123456789abcdef\n"])
def test_names(name: str) -> None:
    with pytest.raises(StoreError, match="is no name of work"):
        require_name(name)
