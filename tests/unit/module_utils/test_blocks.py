# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Blocks and their records: nothing but the record that was written is ever believed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import (
    BLOCK_SIZE,
    CHUNK_SIZE,
    BlockRecord,
    block_count,
    block_range,
    hash_block,
    hash_file,
    in_parallel,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled
from tests.unit.stores import NEVER, sha256_of

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RECORD = BlockRecord(SHA256, 2 * BLOCK_SIZE + 5, 1_700_000_000_123_456_789, ("a" * 64, "b" * 64, "c" * 64))


@given(st.integers(0, 1 << 44))
def test_blocks_cover_a_file_without_gap_or_overlap(size: int) -> None:
    count = block_count(size)
    assert (count == 0) == (size == 0)
    for index in {0, 1, count - 1} & set(range(count)):
        start, end = block_range(index, size)
        assert start == index * BLOCK_SIZE
        assert end == (size if index == count - 1 else start + BLOCK_SIZE)
        assert start < end


def test_record_round_trip() -> None:
    assert BlockRecord.load(RECORD.dump(), SHA256) == RECORD
    empty = BlockRecord(SHA256, 0, 0, ())
    assert BlockRecord.load(empty.dump(), SHA256) == empty


def test_every_flipped_bit_of_a_record_is_noticed() -> None:
    stored = RECORD.dump()
    for position in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            assert BlockRecord.load(bytes(damaged), SHA256) is None, (position, bit)


def test_every_truncation_of_a_record_is_noticed() -> None:
    body = RECORD.dump().rstrip(b"\n")
    for length in range(len(body)):
        assert BlockRecord.load(body[:length], SHA256) is None


def test_foreign_record_is_not_believed() -> None:
    assert BlockRecord.load(RECORD.dump(), "0" * 64) is None


def sealed(body: str) -> bytes:
    """Return a body as a record with the right checksum, as someone with access to the store could write it."""
    return f"gpufleet-blocks 1 {hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode()


def test_record_is_what_someone_else_could_make() -> None:
    assert sealed("\n".join([f"{SHA256} {RECORD.size} {RECORD.mtime_ns}", *RECORD.digests, ""])) == RECORD.dump()


_numbers = st.sampled_from(["0", "5", "-5", "+5", "05", "5.0", "5_0", "\u0665", "", " ", "x", "9" * 5000])
_lines = st.sampled_from(["a" * 64, "A" * 64, "a" * 63, "a" * 65, "g" * 64, "", "é"])


@given(
    _numbers,
    _numbers,
    st.lists(_lines, max_size=3),
    st.sampled_from(["\n", "", "\n\n", "\r\n", "\x0b"]),
)
def test_forged_record_is_one_to_work_with_or_not_believed(size: str, mtime: str, lines: list[str], end: str) -> None:
    record = BlockRecord.load(sealed("\n".join([f"{SHA256} {size} {mtime}", *lines]) + end), SHA256)
    if record is not None:
        assert type(record.size) is type(record.mtime_ns) is int
        assert len(record.digests) == block_count(record.size)
        assert set(record.digests) <= {"a" * 64}


@given(st.text() | st.binary().map(lambda body: body.decode("latin-1")))
def test_any_forged_record_is_not_believed(body: str) -> None:
    assert BlockRecord.load(sealed(body), SHA256) is None
    assert BlockRecord.load(body.encode(), SHA256) is None


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A file of one block and a bit, and its content."""
    content = bytes(range(256)) * (BLOCK_SIZE // 256) + b"the rest"
    path = tmp_path / "file"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor, content
    os.close(descriptor)


def test_digests_are_those_of_hashlib(file: tuple[int, bytes]) -> None:
    descriptor, content = file
    blocks = (sha256_of(content[:BLOCK_SIZE]), sha256_of(content[BLOCK_SIZE:]))
    assert hash_file(descriptor, len(content), NEVER, blocks=True) == (sha256_of(content), blocks)
    assert tuple(hash_block(descriptor, index, len(content)) for index in range(2)) == blocks
    assert hash_file(descriptor, 0, NEVER, blocks=True) == (sha256_of(b""), ())
    # Only as many bytes as asked for, whatever follows.
    assert hash_file(descriptor, CHUNK_SIZE + 1, NEVER, blocks=True)[0] == sha256_of(content[: CHUNK_SIZE + 1])


def test_file_that_ends_early_has_no_digest(file: tuple[int, bytes]) -> None:
    descriptor, content = file
    os.ftruncate(descriptor, len(content) - 1)
    assert hash_file(descriptor, len(content), NEVER, blocks=True) == (None, ())
    assert hash_block(descriptor, 1, len(content)) is None
    assert hash_block(descriptor, 0, len(content)) == sha256_of(content[:BLOCK_SIZE])


def test_hashing_can_be_cancelled(file: tuple[int, bytes]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        hash_file(file[0], len(file[1]), cancelled)


@given(st.lists(st.integers()))
def test_in_parallel_does_every_item_once(items: list[int]) -> None:
    assert sorted(in_parallel(lambda item: item + 1, iter(items))) == sorted((item, item + 1) for item in items)


def test_in_parallel_takes_items_shortly_before_their_turn() -> None:
    """A blob is opened when it is taken: all of them at once would be too many open files."""
    taken = []
    results = in_parallel(lambda item: item, (taken.append(item) or item for item in range(10_000)))  # type: ignore[func-returns-value]
    next(results)
    time.sleep(0.05)
    assert len(taken) <= 4 * (os.cpu_count() or 1)
    results.close()  # type: ignore[attr-defined]


def test_in_parallel_ends_with_the_first_error() -> None:
    taken = []

    def work(item: int) -> None:
        taken.append(item)
        if item == 5:
            raise OSError("the disk failed")

    with pytest.raises(OSError, match="the disk failed"):
        list(in_parallel(work, range(10_000)))
    assert len(taken) < 1_000
