# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: one writer at a time, and blobs that are what was received."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE, BlockRecord
from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from tests.unit.stores import NEVER, blob_path, listing, put_blob, record_path, sha256_of

# Another process, as another Ansible task would be: it holds the lock until its input ends.
HOLDER = """
import sys, threading
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store

with Store.open(sys.argv[1]) as store, store.writer("model_generation", float(sys.argv[2]), threading.Event()):
    print("holding", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(store: Store, collections: Path, lock_timeout: float = 0) -> Iterator[subprocess.Popen[str]]:
    """Run another process that is, or wants to be, the store's writer."""
    command = [sys.executable, "-c", HOLDER, store.path, str(lock_timeout)]
    environment = {**os.environ, "PYTHONPATH": str(collections)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def collections(pytestconfig: pytest.Config) -> Path:
    """Where the collection can be imported from."""
    return pytestconfig.rootpath / ".collections"


def holds(process: subprocess.Popen[str]) -> bool:
    """Wait until a process says that it is the writer."""
    assert process.stdout is not None
    return process.stdout.readline() == "holding\n"


def test_second_writer_waits_then_names_the_holder(store: Store, collections: Path) -> None:
    with holder(store, collections) as process:
        assert holds(process)
        start = time.monotonic()
        with pytest.raises(StoreError) as caught, store.writer("model_prune", 0.5, NEVER):
            pass
        assert 0.5 <= time.monotonic() - start < 5
        message = str(caught.value)
    assert f"{store.path} is in use by model_generation (process {process.pid} on {os.uname().nodename})" in message
    assert "waited 0.5 s" in message


def test_limit_does_not_count_while_it_is_worth_waiting(store: Store, collections: Path) -> None:
    answers = iter([True] * 5)
    holders = set()

    def wait(pid: int | None) -> bool:
        holders.add(pid)
        return next(answers, False)

    with holder(store, collections) as process:
        assert holds(process)
        start = time.monotonic()
        with (
            pytest.raises(StoreError, match=r"waited 0\.2 s"),
            store.writer("model_prune", 0.2, NEVER, wait),
        ):
            pass
    # Five looks were free, a tenth of a second each.
    assert time.monotonic() - start > 0.6
    assert holders == {process.pid}


def test_second_writer_gets_the_lock_once_the_first_is_done(store: Store, collections: Path) -> None:
    with ExitStack() as stack:
        with store.writer("model_prune", 0, NEVER):
            process = stack.enter_context(holder(store, collections, 30))
            assert select.select([process.stdout], [], [], 0.5)[0] == []
        assert holds(process)


def test_killed_holder_blocks_nobody(store: Store, collections: Path) -> None:
    with holder(store, collections) as process:
        assert holds(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with store.writer("model_prune", 0, NEVER):
            pass


def test_full_disk_keeps_nobody_from_writing(store: Store) -> None:
    """Pruning, for example, is what helps there; only its name for others has no place."""
    with store.writer("model_generation", 0, NEVER):
        pass
    lock = Path(store.path, ".lock")
    lock.write_bytes(b"")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with store.writer("model_prune", 0, NEVER):
            assert lock.read_bytes() == b""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with store.writer("model_generation", 0, NEVER):
        pass
    with store.writer("m", 0, NEVER):
        assert json.loads(lock.read_bytes())["operation"] == "m"


def test_waiting_can_be_cancelled(store: Store) -> None:
    cancelled = threading.Event()
    with Store.create(store.path) as other, other.writer("model_prune", 0, NEVER):
        timer = threading.Timer(0.2, cancelled.set)
        timer.start()
        start = time.monotonic()
        with pytest.raises(Cancelled), store.writer("model_verify", 60, cancelled):
            pass
        assert time.monotonic() - start < 10
        timer.join()


def test_failed_holder_blocks_nobody(store: Store) -> None:
    with pytest.raises(KeyError), store.writer("model_prune", 0, NEVER):
        raise KeyError
    with store.writer("model_prune", 0, NEVER):
        pass


def test_children_of_the_holder_do_not_inherit_the_lock(store: Store) -> None:
    with store.writer("model_prune", 0, NEVER):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child, store.writer("model_prune", 0, NEVER):
        pass


@pytest.mark.parametrize(
    "contents",
    [
        [b"", b"{}", b"{", b"\xff", b'{"operation": 1}'],
        [b"[]", b"null", b"5", b'"text"'],
        [b"[" * 100_000, b"9" * 5_000],
    ],
    ids=["damaged", "foreign", "hostile"],
)
def test_whatever_the_lock_file_says_the_message_is_one_sentence(store: Store, contents: list[bytes]) -> None:
    with Store.create(store.path) as other, other.writer("model_prune", 0, NEVER):
        for content in contents:
            Path(store.path, ".lock").write_bytes(content)
            with pytest.raises(StoreError, match="is in use by another process; waited 0 s"):
                store.writer("model_verify", 0, NEVER).__enter__()


def test_planted_lock_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    Path(store.path, ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="not a regular file"), store.writer("x", 0, NEVER):
        pass
    assert (tmp_path / "victim").read_bytes() == b"precious"


# Opening and making.


def test_store_that_does_not_exist(tmp_path: Path) -> None:
    assert Store.open(str(tmp_path / "absent")) is None
    assert Store.open(str(tmp_path / "absent" / "store")) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [Store.open, Store.create])
@pytest.mark.parametrize("path", ["file", "file/store"])
def test_store_in_the_place_of_a_file(tmp_path: Path, call: Any, path: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(StoreError, match=r"is not a directory; choose another root$"):
        call(str(tmp_path / path))
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_made_store_can_be_read_by_those_who_serve(tmp_path: Path, umask: int) -> None:
    """Whatever serves the models runs in another account than Ansible does."""
    former = os.umask(umask)
    try:
        with Store.create(str(tmp_path / "opt" / "models")) as store:
            put_blob(store, b"model")
    finally:
        os.umask(former)
    paths = [tmp_path / "opt", *(tmp_path / "opt").rglob("*")]
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in paths}
    blob = f"opt/models/blobs/{sha256_of(b'model')[:2]}"
    assert modes == {
        **dict.fromkeys(["opt", "opt/models", "opt/models/partial", "opt/models/blobs", blob], 0o755),
        f"{blob}/{sha256_of(b'model')}": 0o444,
        f"{blob}/{sha256_of(b'model')}.blocks": 0o444,
    }


def test_mode_of_a_store_that_exists_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    Store.create(str(tmp_path)).root.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_everything_that_is_made_gets_its_owner(tmp_path: Path) -> None:
    with Store.create(str(tmp_path / "store"), (12345, 23456)) as store, store.writer("test", 0, NEVER):
        put_blob(store, b"model")
    for path in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (12345, 23456), path


# Blobs.


def test_blob_round_trip(store: Store) -> None:
    content = b"1" * BLOCK_SIZE + b"2"
    sha256 = put_blob(store, content)
    assert blob_path(store, content).read_bytes() == content
    record = store.read_record(sha256)
    assert record == BlockRecord(
        sha256,
        len(content),
        blob_path(store, content).stat().st_mtime_ns,
        (sha256_of(b"1" * BLOCK_SIZE), sha256_of(b"2")),
    )
    descriptor = store.open_blob(sha256)
    assert os.read(descriptor, 3) == b"111"
    os.close(descriptor)
    status = store.blob_status(sha256)
    assert status is not None
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert set(store.blobs()) == {sha256, f"{sha256}.blocks"}
    with store.partials() as partials:
        assert partials.names() == []


def test_blob_that_is_absent(store: Store) -> None:
    sha256 = sha256_of(b"absent")
    assert store.blob_status(sha256) is None
    assert store.read_record(sha256) is None
    assert store.blobs() == {}
    with pytest.raises(FileNotFoundError):
        store.open_blob(sha256)


def test_removed_blob_is_gone_with_its_record(store: Store) -> None:
    sha256 = put_blob(store, b"model")
    put_blob(store, b"other")
    store.remove_blob(sha256)
    assert set(store.blobs()) == {sha256_of(b"other"), f"{sha256_of(b'other')}.blocks"}


def test_adopted_blob_replaces_a_damaged_one(store: Store) -> None:
    """Its generations keep the damaged one until they are linked again; it is never changed under their feet."""
    sha256 = put_blob(store, b"model")
    damaged = blob_path(store, b"model")
    os.link(damaged, Path(store.path, "served"))
    damaged.chmod(0o644)
    damaged.write_bytes(b"MODEL")
    put_blob(store, b"model")
    assert damaged.read_bytes() == b"model"
    assert Path(store.path, "served").read_bytes() == b"MODEL"
    record = store.read_record(sha256)
    assert record is not None
    assert record.mtime_ns == damaged.stat().st_mtime_ns


@pytest.mark.parametrize("place", ["blobs", "blobs/xx", "blob", "record", "partial"])
@pytest.mark.parametrize("target", ["the real thing", "a file", "nothing"])
def test_planted_link_leads_nobody_out(store: Store, tmp_path: Path, place: str, target: str) -> None:
    sha256 = put_blob(store, b"model")
    blob = blob_path(store, b"model")
    paths = {
        "blobs": blob.parent.parent,
        "blobs/xx": blob.parent,
        "blob": blob,
        "record": record_path(store, b"model"),
        "partial": Path(store.path, "partial"),
    }
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a file").write_bytes(b"precious")
    paths[place].rename(outside / "the real thing")
    paths[place].symlink_to(outside / target)
    before = listing(outside)

    def open_partial() -> None:
        with store.partials(create=True) as partials:
            Partial(partials, sha256, 5)

    reads = {"blob": lambda: store.open_blob(sha256), "record": lambda: store.read_record(sha256)}
    writes = {
        "new record": lambda: store.write_record(BlockRecord(sha256, 5, 0, ("a" * 64,))),
        "partial": open_partial,
        "remove": lambda: store.remove_blob(sha256),
    }
    refused = {
        "blobs": {"blob", "record", "new record", "remove"},
        "blobs/xx": {"blob", "record", "new record", "remove"},
        "blob": {"blob"},
        "record": {"record"},
        "partial": {"partial"},
    }[place]
    for name, call in {**reads, **writes}.items():
        if name in refused:
            with pytest.raises(StoreError, match=r"; remove it$"):
                call()
        else:
            call()
    assert listing(outside) == before


def test_free_bytes_are_those_of_the_filesystem(store: Store) -> None:
    disk = os.statvfs(store.path)
    free, total = store.free_bytes()
    assert total == disk.f_blocks * disk.f_frsize
    assert abs(free - disk.f_bavail * disk.f_frsize) < 1 << 30
