# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Being stopped from outside."""

from __future__ import annotations

import _thread
import signal
import threading

PATIENCE = 0.1  # seconds until a signal is noticed where something else is waited for


def cancel_on_signals(cancelled: threading.Event) -> None:
    """Set an event when a signal asks this process to end."""

    def cancel(_number: int, _frame: object) -> None:
        # In a thread of its own: what was interrupted may hold the event's lock, and would never give it back. That
        # thread is not one of the module threading, whose start takes locks as well.
        _thread.start_new_thread(cancelled.set, ())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, cancel)
