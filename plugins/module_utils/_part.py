# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A few bytes of a file on the Hub: enough to know that it can be received, or what its header says."""

from __future__ import annotations

import contextlib
import http.client
import threading

from ._blocks import check_cancelled
from ._deadline import within
from ._http import ConnectionLost, HttpClient
from ._retry import backoff_delay
from ._source import Source, Unavailable

_ATTEMPTS = 3
_PATIENCE = 10.0  # seconds for one answer


def receive_part(source: Source, start: int, end: int, cancelled: threading.Event) -> bytes | None:
    """Receive the bytes from ``start`` to ``end`` (exclusive), in several attempts.

    :returns: None where the server asks us to wait, which a look is not worth, or ignores ranges.
    :raises HubError: When the server refuses it.
    :raises TransferError: When there is no way to ask.
    :raises Unavailable: When the server fails.
    :raises ConnectionLost: When nobody answers.
    :raises TimeoutError: When an answer does not come to its end.
    """

    def ask() -> bytes | None:
        client = HttpClient(_PATIENCE)
        try:
            response, exact = source.open(client, start, end, lambda _at_hub: contextlib.nullcontext())
            return response.read(end - start) if exact else None
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(f"the answer was cut off: {error}") from None
        finally:
            client.close()

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return within(_PATIENCE, ask, cancelled)
        except (Unavailable, ConnectionLost) as error:
            if getattr(error, "delay", None) is not None:
                return None
            if attempt == _ATTEMPTS:
                raise
        cancelled.wait(backoff_delay(attempt))
        check_cancelled(cancelled)
    return None
