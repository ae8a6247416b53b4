# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One blob on its way into the store: its blocks, and the runs of them that connections have taken."""

from __future__ import annotations

import hashlib
import threading

from ._blocks import block_count, block_range, bytes_in, check_cancelled, hash_block, in_parallel
from ._partial import Partial
from ._source import Source


class Download:
    """One blob on its way: which of its blocks are there, and how far its SHA-256 is computed.

    Its attributes are the transfer's, guarded by the transfer's lock.

    :param label: The file and its model, for messages.
    :param expected: The blocks' digests where they are known, which is so for a repair; then ``wanted`` says which
        blocks to fetch, and the blob as a whole is not hashed.
    """

    def __init__(
        self,
        label: str,
        sha256: str,
        source: Source,
        partial: Partial,
        expected: tuple[str, ...] | None = None,
        wanted: tuple[int, ...] | None = None,
    ) -> None:
        self.label = label
        self.sha256 = sha256
        self.size = partial.size
        self.source = source
        self.partial = partial
        self.expected = expected
        self.wanted = tuple(range(block_count(self.size))) if wanted is None else wanted
        self.restarted = False
        self.finished = False
        self.runs = 0  # that threads have taken
        self.begin()

    def begin(self) -> None:
        """Start with no block there."""
        self.digests: list[str | None] = [None] * block_count(self.size)
        self.missing = len(self.wanted)
        self.pending = list(self.wanted)  # ascending; no thread has taken them yet
        self.owner: Run | None = None  # the run that has the file for itself, as the server ignores ranges
        self.hashing = False
        self.hashed = 0  # blocks that the SHA-256 has seen
        self.whole = hashlib.sha256()

    @property
    def total(self) -> int:
        """The size of all wanted blocks in bytes."""
        return bytes_in(self.wanted, self.size)

    def resume(self, cancelled: threading.Event) -> int:
        """Take over the journalled blocks whose bytes are really there; return their size in bytes."""
        journal = self.partial.journalled
        kept = [index for index in self.wanted if index in journal and self.expects(index) in (None, journal[index])]

        def is_there(index: int) -> bool:
            check_cancelled(cancelled)
            return hash_block(self.partial.descriptor, index, self.size) == journal[index]

        for index, there in in_parallel(is_there, kept) if kept else ():
            if there:
                self.digests[index] = journal[index]
                self.missing -= 1
        self.pending = [index for index in self.wanted if self.digests[index] is None]
        return self.total - bytes_in(self.pending, self.size)

    def expects(self, index: int) -> str | None:
        """The SHA-256 that a block must have, or None while that is not known."""
        return None if self.expected is None else self.expected[index]

    def store(self, index: int, digest: str) -> None:
        """Note a block whose bytes were written."""
        self.partial.record(index, digest)
        self.digests[index] = digest
        self.missing -= 1


class Run:
    """Neighbouring blocks of one file that a connection has taken, and how far it is with them."""

    def __init__(self, download: Download, first: int, last: int) -> None:
        self.download = download
        self.start_at(block_range(first, download.size)[0])
        self.end = block_range(last, download.size)[1]

    def start_at(self, position: int) -> None:
        """Go to the start of a block."""
        self.position = position
        self.digest = hashlib.sha256()  # of the current block, up to the position
