# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hashing blobs: every damage is found, and named by its blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE, BlockRecord
from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._integrity import Finding, check_blobs
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from tests.unit.stores import NEVER, blob_path, flip, listing, overwrite, put_blob, record_path, resize, sha256_of

# Three blocks, the last one of five bytes.
BIG = b"".join(hashlib.sha256(bytes([block])).digest() * (BLOCK_SIZE // 32) for block in range(2)) + b"12345"
MEDIUM = BIG[BLOCK_SIZE:]
SMALL = b"a small file"


def check(store: Store, *contents: bytes) -> dict[str, Finding]:
    """Hash blobs and return the findings by SHA-256."""
    findings = list(check_blobs(store, [(sha256_of(content), len(content)) for content in contents], NEVER))
    assert len(findings) == len(contents)
    return {finding.sha256: finding for finding in findings}


def check_one(store: Store, content: bytes) -> Finding:
    """Hash one blob."""
    return check(store, content)[sha256_of(content)]


@pytest.mark.parametrize("content", [BIG, SMALL, b"", b"x" * BLOCK_SIZE], ids=["big", "small", "empty", "one block"])
def test_whole_blob(store: Store, content: bytes) -> None:
    sha256 = put_blob(store, content)
    before = listing(Path(store.path))
    finding = check_one(store, content)
    assert (finding.damage, finding.blocks, finding.lost) == (None, (), False)
    assert (finding.sha256, finding.size, finding.hashed_bytes) == (sha256, len(content), len(content))
    assert listing(Path(store.path)) == before


@pytest.mark.parametrize(
    ("positions", "blocks"),
    [
        ([0], (0,)),
        ([BLOCK_SIZE - 1], (0,)),
        ([BLOCK_SIZE], (1,)),
        ([2 * BLOCK_SIZE - 1], (1,)),
        ([2 * BLOCK_SIZE], (2,)),
        ([2 * BLOCK_SIZE + 4], (2,)),
        ([2 * BLOCK_SIZE + 1, 5, 6, 7], (0, 2)),
        ([0, BLOCK_SIZE, 2 * BLOCK_SIZE], (0, 1, 2)),
    ],
)
def test_flipped_bits_are_named_by_their_blocks(store: Store, positions: list[int], blocks: tuple[int, ...]) -> None:
    put_blob(store, BIG)
    for position in positions:
        flip(blob_path(store, BIG), position)
    finding = check_one(store, BIG)
    assert finding.blocks == blocks
    assert finding.damage == f"{len(blocks)} of its 3 blocks are not as they were received"
    assert finding.record is not None


def test_blocks_that_changed_places(store: Store) -> None:
    put_blob(store, BIG)
    overwrite(blob_path(store, BIG), 0, BIG[BLOCK_SIZE : 2 * BLOCK_SIZE] + BIG[:BLOCK_SIZE])
    assert check_one(store, BIG).blocks == (0, 1)


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        (2 * BLOCK_SIZE + 4, (2,)),
        (2 * BLOCK_SIZE, (2,)),
        (2 * BLOCK_SIZE - 1, (1, 2)),
        (1, (0, 1, 2)),
        (0, (0, 1, 2)),
        # What is there is right, there only is more of it.
        (2 * BLOCK_SIZE + 6, ()),
        (4 * BLOCK_SIZE, ()),
    ],
)
def test_wrong_size(store: Store, size: int, blocks: tuple[int, ...]) -> None:
    put_blob(store, BIG)
    resize(blob_path(store, BIG), size)
    finding = check_one(store, BIG)
    assert finding.blocks == blocks
    assert finding.damage
    assert not finding.lost
    if size > len(BIG):
        assert finding.damage == f"expected {len(BIG)} bytes, found {size}"
    assert finding.hashed_bytes == min(size, len(BIG))


def test_lost_blob(store: Store) -> None:
    put_blob(store, SMALL)
    blob_path(store, SMALL).unlink()
    for content in (SMALL, b"never there"):
        finding = check_one(store, content)
        assert (finding.lost, finding.damage, finding.blocks, finding.hashed_bytes) == (True, "it is lost", None, 0)


def _foreign(store: Store) -> bytes:
    put_blob(store, b"another")
    return record_path(store, b"another").read_bytes()


def _of_another_size(store: Store) -> bytes:
    return BlockRecord(sha256_of(MEDIUM), 5, 0, (sha256_of(MEDIUM[:5]),)).dump()


def _flipped(store: Store) -> bytes:
    content = bytearray(record_path(store, MEDIUM).read_bytes())
    content[-10] ^= 1
    return bytes(content)


RECORDS = {
    "lost": lambda _store: None,
    "empty": lambda _store: b"",
    "flipped": _flipped,
    "torn": lambda store: record_path(store, MEDIUM).read_bytes()[:-20],
    "foreign": _foreign,
    "another size": _of_another_size,
    "garbage": lambda _store: b"\xff" * 1000,
}


@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_record_is_rebuilt_for_a_whole_blob(store: Store, kind: str) -> None:
    put_blob(store, MEDIUM)
    path = record_path(store, MEDIUM)
    before = path.read_bytes()
    content = RECORDS[kind](store)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    finding = check_one(store, MEDIUM)
    assert (finding.damage, finding.blocks) == (None, ())
    # It is the caller's to write it.
    assert (path.read_bytes() if path.exists() else None) == content
    assert finding.record == BlockRecord.load(before, sha256_of(MEDIUM))


@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_record_of_a_damaged_blob_is_not_believed(store: Store, kind: str) -> None:
    put_blob(store, MEDIUM)
    flip(blob_path(store, MEDIUM), 7)
    path = record_path(store, MEDIUM)
    content = RECORDS[kind](store)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    finding = check_one(store, MEDIUM)
    assert finding.damage == f"its content is not SHA-256 {sha256_of(MEDIUM)}"
    assert finding.blocks is None
    assert (path.read_bytes() if path.exists() else None) == content


def check_whole(store: Store, content: bytes) -> Finding:
    """Hash one blob by its own SHA-256, which alone decides."""
    (finding,) = check_blobs(store, [(sha256_of(content), len(content))], NEVER, by_blocks=False)
    return finding


@pytest.mark.parametrize(
    ("damage", "blocks"),
    [
        (lambda _path: None, ()),
        (lambda path: flip(path, 0), (0,)),
        (lambda path: flip(path, BLOCK_SIZE), (1,)),
        (lambda path: resize(path, BLOCK_SIZE), (1,)),
        (lambda path: resize(path, 0), (0, 1)),
        (lambda path: resize(path, 2 * BLOCK_SIZE), ()),
    ],
    ids=["none", "first block", "last block", "truncated", "emptied", "extended"],
)
def test_blob_by_its_own_digest(store: Store, damage: Callable[[Path], None], blocks: tuple[int, ...]) -> None:
    put_blob(store, MEDIUM)
    damage(blob_path(store, MEDIUM))
    before = listing(Path(store.path))
    finding = check_whole(store, MEDIUM)
    assert finding.blocks == blocks
    assert (finding.damage is None) is (blob_path(store, MEDIUM).read_bytes() == MEDIUM)
    assert finding.record == store.read_record(finding.sha256)
    assert listing(Path(store.path)) == before


@pytest.mark.parametrize("by_blocks", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_what_the_disk_cannot_read_is_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch, recorded: bool, by_blocks: bool
) -> None:
    put_blob(store, BIG)
    if not recorded:
        record_path(store, BIG).unlink()
    preadv = os.preadv

    def read(descriptor: int, buffers: list[memoryview], position: int) -> int:
        if position >= BLOCK_SIZE and position < 2 * BLOCK_SIZE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", read)
    (finding,) = check_blobs(store, [(sha256_of(BIG), len(BIG))], NEVER, by_blocks=by_blocks)
    assert finding.blocks == ((1,) if recorded else None)
    assert finding.damage
    assert not finding.lost


@pytest.mark.parametrize("recorded", [True, False])
def test_what_cannot_be_read_for_another_reason_ends_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    put_blob(store, SMALL)
    if not recorded:
        record_path(store, SMALL).unlink()

    def read(*_arguments: object) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "preadv", read)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        check_one(store, SMALL)


def forge(store: Store, content: bytes, *blocks: bytes) -> None:
    """Give a blob a record that says something else of it and seems intact; only someone who may write can do that."""
    record = store.read_record(sha256_of(content))
    assert record is not None
    store.write_record(replace(record, digests=tuple(map(sha256_of, blocks))))


def test_forged_blob_with_its_forged_record_is_seen_by_its_own_digest(store: Store) -> None:
    put_blob(store, SMALL)
    overwrite(blob_path(store, SMALL), 0, b"A")
    forge(store, SMALL, b"A" + SMALL[1:])
    finding = check_whole(store, SMALL)
    assert finding.damage == f"its content is not SHA-256 {sha256_of(SMALL)}"
    assert finding.blocks is None


def test_extended_blob_without_its_record(store: Store) -> None:
    put_blob(store, SMALL)
    record_path(store, SMALL).unlink()
    resize(blob_path(store, SMALL), 1000)
    finding = check_one(store, SMALL)
    assert (finding.damage, finding.blocks) == (f"expected {len(SMALL)} bytes, found 1000", ())


def test_every_blob_has_its_own_finding(store: Store) -> None:
    contents = [b"%d" % number for number in range(300)]
    for content in contents:
        put_blob(store, content)
    damaged, lost = contents[10:20], contents[30:35]
    for content in damaged:
        flip(blob_path(store, content), 0)
    for content in lost:
        blob_path(store, content).unlink()
    findings = check(store, *contents)
    assert {sha256 for sha256, finding in findings.items() if finding.lost} == {sha256_of(content) for content in lost}
    assert {sha256 for sha256, finding in findings.items() if finding.blocks == (0,)} == {
        sha256_of(content) for content in damaged
    }
    assert sum(finding.damage is None for finding in findings.values()) == 285


def test_time_of_the_file_does_not_replace_hashing(store: Store) -> None:
    put_blob(store, SMALL)
    os.utime(blob_path(store, SMALL), (1, 1))
    assert check_one(store, SMALL).damage is None
    flip(blob_path(store, SMALL), 0)
    assert check_one(store, SMALL).blocks == (0,)


def test_cancelled(store: Store) -> None:
    put_blob(store, SMALL)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        list(check_blobs(store, [(sha256_of(SMALL), len(SMALL))], cancelled))


def test_budget_ends_it_between_two_blobs(store: Store) -> None:
    contents = [b"%d" % number for number in range(100)]
    for content in contents:
        put_blob(store, content)

    def blobs() -> object:
        for content in contents:
            yield sha256_of(content), len(content)
            time.sleep(0.02)

    findings = list(check_blobs(store, blobs(), NEVER, budget_seconds=0.2))  # type: ignore[arg-type]
    assert 0 < len(findings) < 50
    assert [finding.damage for finding in findings] == [None] * len(findings)
    assert {finding.sha256 for finding in findings} == {sha256_of(content) for content in contents[: len(findings)]}


@pytest.mark.parametrize("place", ["blob", "record"])
def test_planted_link_is_not_followed(store: Store, tmp_path: Path, place: str) -> None:
    put_blob(store, SMALL)
    path = blob_path(store, SMALL) if place == "blob" else record_path(store, SMALL)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    before = listing(tmp_path / "outside")
    with pytest.raises(StoreError, match=r"is not a regular file; remove it$"):
        check_one(store, SMALL)
    assert listing(tmp_path / "outside") == before


def test_no_descriptor_is_left_open(store: Store) -> None:
    for content in (BIG, SMALL, b""):
        put_blob(store, content)
    flip(blob_path(store, BIG), 0)
    before = sorted(Path("/proc/self/fd").iterdir())
    check(store, BIG, SMALL, b"", b"lost")
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_forged_record_of_a_whole_blob_is_doubted(store: Store) -> None:
    put_blob(store, SMALL)
    former = store.read_record(sha256_of(SMALL))
    forge(store, SMALL, b"something else")
    finding = check_one(store, SMALL)
    assert (finding.damage, finding.record) == (None, former)
