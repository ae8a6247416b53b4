# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Receive many blobs at once over a pool of connections, by blocks.

Connections take runs of neighbouring blocks from one queue over all files, so a big file is as parallel as many small
ones. The thread that received a block hashes it; meanwhile other threads follow each file from its start and hash it as
a whole, so that a file is proven moments after its last byte came.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from ._blocks import block_range, check_cancelled, read_chunks
from ._connection import Connection
from ._download import Download, Run
from ._errors import Cancelled, ContentError, TransferError
from ._progress import Progress
from ._retry import next_delay
from ._source import Unavailable

_LONGEST_RUN = 8  # blocks in one request
_TICK = 0.1  # seconds between two looks at the clock


@dataclass(frozen=True)
class Limits:
    """How a transfer may use the network.

    ``stall_timeout``: seconds in which a connection must deliver at least one chunk of 256 KiB, or its request is
    repeated. ``timeout``: seconds for everything, None for no limit. ``retries``: failures in a row, with less than
    256 KiB received in between, after which a run of blocks is given up.
    """

    connections: int = 8
    stall_timeout: float = 30.0
    timeout: float | None = None
    retries: int = 5


class Transfer:
    """Receives downloads. Make it, then call :meth:`run` once.

    :param started: When the timeout began, in monotonic seconds.
    :param past: How far earlier transfers of the same work came; ``total`` is that of all of them.
    :param finish: Called with each download once it is complete and proven, from one of several threads.
    :param report: Called about ten times a second with the progress.
    """

    def __init__(
        self,
        downloads: list[Download],
        limits: Limits,
        finish: Callable[[Download], None],
        report: Callable[[Progress], None],
        cancelled: threading.Event,
        started: float,
        past: Progress,
    ) -> None:
        self._downloads = sorted(downloads, key=lambda download: -download.size)
        self._limits = limits
        self._finish = finish
        self._report = report
        self._cancelled = cancelled
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ask_hub_after = 0.0  # monotonic seconds; what the Hub asks of one connection holds for all
        self._hashers = concurrent.futures.ThreadPoolExecutor(min(limits.connections, os.cpu_count() or 1))
        self._started = started
        self._past = past

    def run(self) -> Progress:
        """Receive everything; return how far that brought the work.

        :raises ModelsError: The first error of any download. Whatever was received by then is journalled.
        :raises OSError: When the disk fails.
        """
        kept = self._past.kept + sum(download.resume(self._cancelled) for download in self._downloads)
        connections = [Connection(self, self._limits.stall_timeout) for _index in range(self._limits.connections)]
        for download in self._downloads:
            self._follow(download)
        writer = threading.Thread(target=self._write_back, daemon=True)
        for thread in (*connections, writer):
            thread.start()
        try:
            while self._is_running():
                check_cancelled(self._cancelled)
                self._watch(connections)
                self._report(self._progress(kept, connections))
                with self._changed:
                    self._changed.wait(_TICK)
        except BaseException as error:
            self.fail(error)
        finally:
            self._stop(connections)
            writer.join()
        if self._error is not None:
            raise self._error
        return self._progress(kept, connections)

    def _progress(self, kept: int, connections: list[Connection]) -> Progress:
        received = sum(connection.received for connection in connections)
        what = next((download.label for download in self._downloads if not download.finished), "")
        return Progress(self._past.total, kept, self._past.done + received, what)

    def _is_running(self) -> bool:
        return self._error is None and not all(download.finished for download in self._downloads)

    def _watch(self, connections: list[Connection]) -> None:
        now = time.monotonic()
        timeout = self._limits.timeout
        if timeout is not None and now - self._started > timeout:
            raise TransferError(
                f"not complete after the timeout of {timeout:g} s; what was received is kept, run it again to go on"
            )
        for connection in connections:
            connection.break_stall(now)

    def _write_back(self) -> None:
        """Keep the disk writing meanwhile: by itself the system would begin long after the last byte came."""
        try:
            while self._is_running():
                for download in self._downloads:
                    if not download.finished:
                        os.fdatasync(download.partial.descriptor)
                time.sleep(_TICK)
        except OSError as error:
            self.fail(error)

    def _stop(self, connections: list[Connection]) -> None:
        deadline = time.monotonic() + 10
        for connection in connections:
            # A thread that is about to send a request does so after our first abort: repeat it.
            while connection.is_alive() and time.monotonic() < deadline:
                if self._error is not None:
                    connection.client.abort()
                connection.join(_TICK)
        self._hashers.shutdown()

    # What follows is called by the connections' threads.

    def fail(self, error: BaseException) -> None:
        """End the transfer with an error; the first one counts."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def next_run(self) -> Run | None:
        """Take the next run of blocks; wait while other threads may still give some back; None when all is done."""
        with self._changed:
            while self._is_running():
                for download in self._downloads:
                    if download.pending and download.owner is None:
                        return self._take(download)
                self._changed.wait(_TICK)
        return None

    def _take(self, download: Download) -> Run:
        # Long runs hide latency; runs that shrink towards the end keep all connections busy until the last byte.
        left = sum(len(other.pending) for other in self._downloads)
        longest = max(1, min(_LONGEST_RUN, left // (2 * self._limits.connections)))
        first = download.pending[0]
        length = 1
        while length < min(longest, len(download.pending)) and download.pending[length] == first + length:
            length += 1
        del download.pending[:length]
        download.runs += 1
        return Run(download, first, first + length - 1)

    def end_run(self, run: Run) -> None:
        """Note that a thread writes to this file no more."""
        with self._changed:
            run.download.runs -= 1
            self._changed.notify_all()
        self._follow(run.download)

    def is_lost(self, run: Run) -> bool:
        """Whether another run has the file for itself now."""
        return run.download.owner not in (None, run)

    def claim(self, run: Run) -> None:
        """Give the whole file to ``run``, as the server ignores ranges, and wait until no other thread writes to it."""
        download = run.download
        with self._changed:
            if download.owner is not None:
                return
            download.owner = run
            download.pending.clear()
            while download.runs > 1 and self._error is None:
                self._changed.wait(_TICK)
        run.start_at(0)
        run.end = download.size

    def stored(self, run: Run, index: int) -> None:
        """Note that a block was received, and let its file's SHA-256 follow."""
        with self._changed:
            run.download.store(index, run.digest.hexdigest())
        self._follow(run.download)

    def pause(self, run: Run, error: Exception, failures: int) -> None:
        """Wait before the next attempt.

        :raises TransferError: When there were too many, or the server asks for more time than there is.
        """
        label = run.download.label
        if failures > self._limits.retries:
            raise TransferError(
                f"{label}: {error}; gave up after {failures} attempts; what was received is kept, run it again to go on"
            )
        asked = getattr(error, "delay", None)
        delay = next_delay(failures, asked)
        resume_at = time.monotonic() + delay
        timeout = self._limits.timeout
        if timeout is not None and resume_at > self._started + timeout:
            raise TransferError(f"{label}: {error}; the next attempt in {delay:.0f} s would be after the timeout")
        self._sleep_until(resume_at)

    @contextlib.contextmanager
    def hub_turn(self) -> Iterator[None]:
        """Wait as long as the Hub asked for. When it does so again, that holds for all connections at once."""
        self._sleep_until(self._ask_hub_after)
        try:
            yield
        except Unavailable as error:
            if error.of_hub and error.delay is not None:
                self._ask_hub_after = max(self._ask_hub_after, time.monotonic() + error.delay)
            raise

    def _sleep_until(self, moment: float) -> None:
        with self._changed:
            while self._error is None and time.monotonic() < moment:
                self._changed.wait(moment - time.monotonic())
        self.check()

    def check(self) -> None:
        """Raise :class:`Cancelled` when the transfer has ended."""
        if self._error is not None:
            raise Cancelled("stopped")

    # Hashing of whole files.

    def _follow(self, download: Download) -> None:
        with self._changed:
            if not download.hashing and not download.finished and self._next_step(download) is not None:
                download.hashing = True
                self._hashers.submit(self._advance, download)

    def _next_step(self, download: Download) -> Callable[[Download], None] | None:
        if download.expected is None and download.hashed < len(download.digests):
            return self._hash_next if download.digests[download.hashed] is not None else None
        return None if download.missing or download.runs else self._conclude

    def _advance(self, download: Download) -> None:
        try:
            while True:
                with self._changed:
                    step = None if download.finished or self._error is not None else self._next_step(download)
                    if step is None:
                        download.hashing = False
                        return
                step(download)
        except BaseException as error:  # whatever it is, the transfer must end with it
            self.fail(error)

    def _hash_next(self, download: Download) -> None:
        start, end = block_range(download.hashed, download.size)
        try:
            for _position, chunk in read_chunks(download.partial.descriptor, start, end):
                download.whole.update(chunk)
        except EOFError:
            raise ContentError(f"{download.label}: someone else cut its partial file short; run it again") from None
        download.hashed += 1

    def _conclude(self, download: Download) -> None:
        found = download.whole.hexdigest()
        if download.expected is None and found != download.sha256:
            download.partial.forget()
            if download.restarted:
                download.partial.remove()
                raise ContentError(
                    f"{download.label}: expected SHA-256 {download.sha256}, found {found} in two attempts; the server "
                    "does not have the file that the lock names: try another endpoint, or lock again with 'upgrade'"
                )
            download.source.forget_location()
            with self._changed:
                download.restarted = True
                download.begin()
                download.hashing = True  # it is this thread that goes on with it
                self._changed.notify_all()
            return
        self._finish(download)
        with self._changed:
            download.finished = True
            self._changed.notify_all()
