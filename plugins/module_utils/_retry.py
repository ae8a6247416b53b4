# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long to wait before asking again: what the server says, or else a jittered, growing delay."""

from __future__ import annotations

import contextlib
import email.utils
import random
import time

_BASE_DELAY = 0.5
_MAX_DELAY = 30.0
_MAX_SERVER_DELAY = 3600.0


def may_pass(status: int) -> bool:
    """Whether a server that refuses with that status code may answer later."""
    return status in (408, 425, 429) or status >= 500


def server_delay(retry_after: str, rate_limit: str) -> float | None:
    """Return the seconds that a refusing server asks to wait, or None when it does not say.

    The longer one of both headers counts.

    :param retry_after: The header ``Retry-After``: seconds, or a date.
    :param rate_limit: The Hub's header ``RateLimit``.
    """
    delays = []
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if retry_after.strip().isdecimal():
            delays.append(float(retry_after))
        elif retry_after:
            moment = email.utils.parsedate_to_datetime(retry_after)
            delays.append(max(0.0, moment.timestamp() - time.time()))
    for policy in rate_limit.split(","):
        # '"api";r=0;t=55': no requests remain, the window starts again in 55 seconds.
        parameters = dict(part.strip().split("=", 1) for part in policy.split(";") if "=" in part)
        with contextlib.suppress(ValueError, KeyError):
            if int(parameters["r"]) == 0:
                delays.append(max(0.0, float(parameters["t"])))
    return min(max(delays), _MAX_SERVER_DELAY) if delays else None


def next_delay(failures: int, asked: float | None) -> float:
    """Return the seconds to wait after that many failures in a row, when the server asked for ``asked`` of them or not.

    It is never less than what the server asked for, and never nothing.
    """
    return backoff_delay(failures) if asked is None else asked + backoff_delay(1)


def backoff_delay(failures: int) -> float:
    """Return the seconds to wait after that many failures in a row (1 or more): exponential, with full jitter.

    Jitter matters in a fleet: hosts that failed together must not come back together.
    """
    ceiling: float = min(_MAX_DELAY, _BASE_DELAY * 2 ** min(failures - 1, 10))
    return ceiling * (0.5 + random.random() / 2)
