# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A call that must end in time, whatever it waits for."""

from __future__ import annotations

import threading
import time
from typing import Callable, TypeVar

from ._blocks import check_cancelled

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], cancelled: threading.Event) -> T:
    """Return what a call returns, or give up on it: a thread that hangs is left to end with the process.

    :raises TimeoutError: When it took longer.
    :raises Cancelled: When ``cancelled`` is set meanwhile.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.05)
        check_cancelled(cancelled)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"nothing for {seconds:.0f} s")
    return results[0]
