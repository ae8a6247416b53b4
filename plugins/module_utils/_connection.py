# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One connection of a transfer: a thread that takes runs of blocks and receives them."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._blocks import BLOCK_SIZE, CHUNK_SIZE, block_range
from ._download import Run
from ._errors import HubError, TransferError
from ._http import ConnectionLost, HttpClient
from ._source import Unavailable

if TYPE_CHECKING:
    from ._transfer import Transfer


class Connection(threading.Thread):
    """Takes runs of blocks and receives them, one after another, until there are none left.

    :param stall_timeout: Seconds in which it must receive 256 KiB, or its request is repeated.
    """

    def __init__(self, transfer: Transfer, stall_timeout: float) -> None:
        super().__init__(daemon=True)
        self.received = 0  # bytes
        self.client = HttpClient(stall_timeout)
        self._transfer = transfer
        self._stall_timeout = stall_timeout
        self._stalls_at: float | None = None  # monotonic seconds; None while no request is under way
        self._stalled = False
        self._buffer = memoryview(bytearray(CHUNK_SIZE))

    def break_stall(self, now: float) -> None:
        """Abort the request under way when it delivers too slowly. Called by the transfer's own thread."""
        if self._stalls_at is not None and now > self._stalls_at:
            self._stalled = True
            self._stalls_at = now + self._stall_timeout
            self.client.abort()

    def run(self) -> None:
        """Receive runs until there are none left."""
        try:
            while True:
                run = self._transfer.next_run()
                if run is None:
                    return
                self._receive_with_retries(run)
                self._transfer.end_run(run)
        except BaseException as error:  # whatever it is, the transfer must end with it
            self._transfer.fail(error)
        finally:
            self.client.close()

    def _receive_with_retries(self, run: Run) -> None:
        failures = 0
        while run.position < run.end and not self._transfer.is_lost(run):
            before = run.position
            try:
                self._receive(run)
            except (ConnectionLost, Unavailable) as error:
                reason = ConnectionLost(f"stalled for {self._stall_timeout:g} s") if self._stalled else error
                # A server that sends a few bytes and breaks off, again and again, must not keep us here for ever.
                failures = 1 if run.position - before >= CHUNK_SIZE else failures + 1
                self._transfer.pause(run, reason, failures)
            except (HubError, TransferError) as error:
                raise type(error)(f"{run.download.label}: {error}") from None

    def _receive(self, run: Run) -> None:
        """Make one request and receive what it brings, up to the run's end."""
        download = run.download
        self._stalled = False
        try:
            response, as_asked = download.source.open(self.client, run.position, run.end, self._turn)
            if not as_asked and download.owner is not run:
                self.client.close()
                self._transfer.claim(run)
                return
            position = run.position if as_asked else 0
            while position < run.position:
                position += len(self._read(response, run.position - position))
            self._receive_blocks(run, response)
            if not response.isclosed():
                self.client.close()
        except ConnectionLost:
            self.client.close()
            raise
        finally:
            self._stalls_at = None

    @contextlib.contextmanager
    def _turn(self, at_hub: bool) -> Iterator[None]:
        """Ask when it is our turn. Waiting for that is no stall."""
        with self._transfer.hub_turn() if at_hub else contextlib.nullcontext():
            self._touch()
            yield

    def _receive_blocks(self, run: Run, response: http.client.HTTPResponse) -> None:
        download = run.download
        while run.position < run.end:
            index = run.position // BLOCK_SIZE
            start, end = block_range(index, download.size)
            wanted = download.digests[index] is None and index in download.wanted
            while run.position < end:
                self._transfer.check()
                if self._transfer.is_lost(run):
                    return
                chunk = self._read(response, end - run.position)
                if wanted:
                    download.partial.write(run.position, chunk)
                    run.digest.update(chunk)
                run.position += len(chunk)
            expected, found = download.expects(index), run.digest.hexdigest()
            if wanted and expected not in (None, found):
                run.start_at(start)
                self.client.close()
                download.source.forget_location()
                raise Unavailable(f"block {index}: expected SHA-256 {expected}, found {found}")
            if wanted:
                self._transfer.stored(run, index)
            run.start_at(end)

    def _read(self, response: http.client.HTTPResponse, length: int) -> memoryview:
        chunk = self._buffer[: min(length, CHUNK_SIZE)]
        try:
            received = response.readinto(chunk)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(f"the connection broke: {error or type(error).__name__}") from None
        if not received:
            raise ConnectionLost("the server closed the connection early")
        self.received += received
        self._touch()
        return chunk[:received]

    def _touch(self) -> None:
        self._stalls_at = time.monotonic() + self._stall_timeout
