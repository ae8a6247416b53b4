# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Blocks: the fixed pieces of a blob in which it is transferred, resumed, verified and repaired."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable, TypeVar

from ._errors import Cancelled

BLOCK_SIZE = 16 * 1024 * 1024  # bytes

CHUNK_SIZE = 256 * 1024  # bytes received at once: they are still in the CPU's cache when they are hashed and written
_READ_SIZE = 1024 * 1024  # bytes read at once: larger, as several threads that hash wait for the interpreter in between

_RECORD_VERSION = "gpufleet-blocks 1"
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")
R = TypeVar("R")


def block_count(size: int) -> int:
    """Return how many blocks a file of ``size`` bytes has. An empty file has none."""
    return -(-size // BLOCK_SIZE)


def block_range(index: int, size: int) -> tuple[int, int]:
    """Return where a block starts and where it ends (exclusive), in bytes."""
    return index * BLOCK_SIZE, min((index + 1) * BLOCK_SIZE, size)


def bytes_in(indexes: Iterable[int], size: int) -> int:
    """Return the size of some blocks of a file of ``size`` bytes."""
    return sum(end - start for start, end in (block_range(index, size) for index in indexes))


@dataclass(frozen=True)
class BlockRecord:
    """The digests of a blob's blocks, taken when the blob's own SHA-256 was proven.

    It is stored beside the blob. It tells which blocks are damaged and lets all cores hash one file; as it carries its
    own checksum and the blob's name, a damaged or foreign record is never believed.
    """

    sha256: str
    size: int
    mtime_ns: int
    digests: tuple[str, ...]

    def dump(self) -> bytes:
        """Return the record as it is stored: a checksum, what it is a record of, and a line for each block."""
        body = "\n".join([f"{self.sha256} {self.size} {self.mtime_ns}", *self.digests, ""])
        return f"{_RECORD_VERSION} {hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode()

    @classmethod
    def load(cls, content: bytes, sha256: str) -> BlockRecord | None:
        """Return the record of the blob with that SHA-256, or None when ``content`` is not exactly that."""
        header, _newline, body = content.partition(b"\n")
        if header != f"{_RECORD_VERSION} {hashlib.sha256(body).hexdigest()}".encode():
            return None
        try:
            first, *digests = body.decode("ascii").splitlines()
            found, size, mtime_ns = first.split(" ")
            record = cls(found, int(size), int(mtime_ns), tuple(digests))
        except ValueError:
            return None
        valid = found == sha256 and len(digests) == block_count(record.size) and all(map(_SHA256.fullmatch, digests))
        return record if valid and record.dump() == content else None


def read_chunks(descriptor: int, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the bytes from ``start`` to ``end`` of an open file in chunks, each with its position.

    A chunk is overwritten by the next one.

    :raises EOFError: When the file ends early.
    """
    buffer = memoryview(bytearray(min(_READ_SIZE, end - start)))
    while start < end:
        received = os.preadv(descriptor, [buffer[: end - start]], start)
        if not received:
            raise EOFError(f"ends at {start}, expected {end}")
        yield start, buffer[:received]
        start += received


def write_chunk(descriptor: int, position: int, chunk: memoryview) -> None:
    """Write bytes at their place in an open file."""
    while chunk:
        written = os.pwrite(descriptor, chunk, position)
        position, chunk = position + written, chunk[written:]


def hash_block(descriptor: int, index: int, size: int) -> str | None:
    """Return the SHA-256 of one block of an open file in hex, or None when the file ends inside it."""
    digest = hashlib.sha256()
    with contextlib.suppress(EOFError):
        for _position, chunk in read_chunks(descriptor, *block_range(index, size)):
            digest.update(chunk)
        return digest.hexdigest()
    return None


def hash_file(
    descriptor: int,
    size: int,
    cancelled: threading.Event,
    blocks: bool = False,
    report: Callable[[int], None] = lambda _size: None,
) -> tuple[str | None, tuple[str, ...]]:
    """Return a file's SHA-256, None when it ends early; with ``blocks`` also its blocks' digests, else none.

    :param report: Called with the size of each block that was hashed.
    :raises Cancelled: When ``cancelled`` is set meanwhile.
    """
    whole = hashlib.sha256()
    digests = []
    with contextlib.suppress(EOFError):
        for index in range(block_count(size)):
            check_cancelled(cancelled)
            block = hashlib.sha256()
            for _position, chunk in read_chunks(descriptor, *block_range(index, size)):
                whole.update(chunk)
                if blocks:
                    block.update(chunk)
            if blocks:
                digests.append(block.hexdigest())
            report(bytes_in([index], size))
        return whole.hexdigest(), tuple(digests)
    return None, ()


def check_cancelled(cancelled: threading.Event) -> None:
    """Raise :class:`Cancelled` when the work shall stop."""
    if cancelled.is_set():
        raise Cancelled("stopped by a signal; run it again to go on")


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Yield each item with the result of ``work``, as they come, computed on all cores.

    Hashing and reading release Python's interpreter lock, so threads are enough. Items are taken from the iterable only
    shortly before their turn. The first error ends it.
    """
    threads = os.cpu_count() or 1
    waiting = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        running: dict[concurrent.futures.Future[R], T] = {}
        while True:
            for item in itertools.islice(waiting, 2 * threads - len(running)):
                running[executor.submit(work, item)] = item
            if not running:
                return
            done, _running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
