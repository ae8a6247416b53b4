# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals are noticed wherever they come."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._signals import cancel_on_signals

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture
def cancelled() -> Iterator[threading.Event]:
    former = {number: signal.getsignal(number) for number in SIGNALS}
    event = threading.Event()
    cancel_on_signals(event)
    yield event
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_event_is_set(cancelled: threading.Event, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert cancelled.wait(10)


def test_while_the_lock_of_the_event_is_held(cancelled: threading.Event) -> None:
    """As it is for a moment whenever somebody waits for the event."""
    done = threading.Event()
    # What hangs here is to fail, not to hang: SIGALRM's handler runs although another one waits for a lock.
    former = signal.signal(signal.SIGALRM, lambda *_arguments: pytest.fail("it hangs"))
    signal.alarm(20)
    try:
        with cancelled._cond:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)
            done.set()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert done.is_set()
    assert cancelled.wait(10)
