# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Is every blob what its name says? Reads and hashes blobs on all cores and names the damaged blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

from ._blocks import BlockRecord, block_count, bytes_in, check_cancelled, hash_block, hash_file, in_parallel
from ._store import Store


@dataclass(frozen=True)
class Finding:
    """What hashing a blob showed.

    ``damage`` is None for a blob that is whole, else it says what is wrong. ``blocks`` are the damaged blocks, or None
    when the blob must be fetched as a whole: it is lost, or nothing trustworthy tells its blocks apart.
    """

    sha256: str
    size: int
    hashed_bytes: int = 0
    damage: str | None = None
    blocks: tuple[int, ...] | None = None
    record: BlockRecord | None = None

    @property
    def patch(self) -> tuple[BlockRecord, tuple[int, ...]] | None:
        """The digests of all blocks and the damaged ones, or None when that is not known."""
        return None if self.record is None or self.blocks is None else (self.record, self.blocks)

    @property
    def lost(self) -> bool:
        """Whether there is no such blob at all."""
        return self.damage == _LOST


_LOST = "it is lost"


@contextlib.contextmanager
def _unreadable_is_wrong() -> Iterator[None]:
    """Go on after what the disk itself says that it cannot read."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class _Blob:
    """A blob while it is hashed: block by block where the blocks' record is believed, else in one piece."""

    def __init__(
        self, store: Store, sha256: str, size: int, by_blocks: bool, report: Callable[[str, int], None]
    ) -> None:
        self._sha256 = sha256
        self._report = report
        self._size = size
        self._record = store.read_record(sha256)
        self._descriptor = store.open_blob(sha256)
        self._found_size = os.fstat(self._descriptor).st_size
        self._bad: list[int] = []
        self._located = True
        self._digests = self._record.digests if self._record is not None and self._record.size == size else ()
        self.pieces: list[int | None] = (list(range(len(self._digests))) if by_blocks else []) or [None]
        self._left = len(self.pieces)

    def check(self, piece: int | None, cancelled: threading.Event) -> bool:
        """Hash a block, or the whole file; return whether it is right."""
        check_cancelled(cancelled)
        if piece is None:
            return self._check_whole(cancelled)
        digest = None
        with _unreadable_is_wrong():
            digest = hash_block(self._descriptor, piece, self._size)
        self._report(self._sha256, bytes_in([piece], self._size))
        return digest == self._digests[piece]

    def _check_whole(self, cancelled: threading.Event) -> bool:
        sha256: str | None = None
        digests: tuple[str, ...] = ()
        with _unreadable_is_wrong():
            sha256, digests = hash_file(
                self._descriptor,
                self._size,
                cancelled,
                blocks=not self._digests,
                report=lambda size: self._report(self._sha256, size),
            )
        if sha256 == self._sha256:
            if not self._digests:
                self._record = BlockRecord(self._sha256, self._size, os.fstat(self._descriptor).st_mtime_ns, digests)
            return True
        self._bad = [index for index in range(len(self._digests)) if not self.check(index, cancelled)]
        self._located = bool(self._bad)
        return False

    def _doubt_record(self, cancelled: threading.Event) -> None:
        """Let the whole file's SHA-256 decide whether it is the blob that is damaged, or the record of its blocks."""
        with _unreadable_is_wrong():
            sha256, digests = hash_file(self._descriptor, self._size, cancelled, blocks=True)
            if sha256 == self._sha256:
                self._bad = []
                self._record = BlockRecord(self._sha256, self._size, os.fstat(self._descriptor).st_mtime_ns, digests)

    def conclude(self, piece: int | None, right: bool, cancelled: threading.Event) -> Finding | None:
        """Note the result for a piece; return the finding after the last one."""
        if not right and piece is not None:
            self._bad.append(piece)
        self._left -= 1
        if self._left:
            return None
        if self._bad and piece is not None:
            self._doubt_record(cancelled)
        os.close(self._descriptor)
        if not self._located:
            damage, blocks = f"its content is not SHA-256 {self._sha256}", None
        elif self._bad:
            damage = f"{len(self._bad)} of its {block_count(self._size)} blocks are not as they were received"
            blocks = tuple(sorted(self._bad))
        elif self._found_size != self._size:
            damage, blocks = f"expected {self._size} bytes, found {self._found_size}", ()
        else:
            damage, blocks = None, ()
        return Finding(self._sha256, self._size, min(self._found_size, self._size), damage, blocks, self._record)


def check_blobs(
    store: Store,
    blobs: Iterable[tuple[str, int]],
    cancelled: threading.Event,
    budget_seconds: float | None = None,
    by_blocks: bool = True,
    report: Callable[[str, int], None] = lambda _sha256, _size: None,
) -> Iterator[Finding]:
    """Hash blobs and yield a finding for each, as they come. Nothing is written.

    A blob without block digests, or with a damaged record of them, is hashed as a whole; when it proves to be right,
    the finding has a new record.

    :param blobs: SHA-256 and size in bytes of each, in the order in which they shall be taken.
    :param budget_seconds: Begin with no further blob after that time.
    :param by_blocks: Compare with the blocks' recorded digests, so that all cores hash one file. Without it a blob's
        own SHA-256 decides, and the record only tells which blocks are damaged.
    :param report: Called from several threads with a blob and how many bytes of it were hashed.
    :raises Cancelled: When ``cancelled`` is set meanwhile.
    """
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    lost = []

    def pieces() -> Iterator[tuple[_Blob, int | None]]:
        for sha256, size in blobs:
            if deadline is not None and time.monotonic() > deadline:
                return
            try:
                blob = _Blob(store, sha256, size, by_blocks, report)
            except FileNotFoundError:
                lost.append(Finding(sha256, size, damage=_LOST))
                continue
            for piece in blob.pieces:
                yield blob, piece

    for (blob, piece), right in in_parallel(lambda item: item[0].check(item[1], cancelled), pieces()):
        finding = blob.conclude(piece, right, cancelled)
        if finding is not None:
            yield finding
    yield from lost
