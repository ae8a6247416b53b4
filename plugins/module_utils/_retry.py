# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long to wait before asking again: what the server says, or else a jittered, growing delay."""

from __future__ import annotations

import random
import re

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_BASE_DELAY = 0.5
_MAX_DELAY = 30.0
_MAX_SERVER_DELAY = 3600.0

# 'RateLimit: "api";r=0;t=55': no requests remain, the window starts again in 55 seconds.
_RATE_LIMIT = re.compile(r"r=(\d+).*?t=(\d+)")


def server_delay(retry_after: str, rate_limit: str) -> float | None:
    """Return the seconds that a refusing server asks to wait, or None when it does not say.

    The longer one of both headers counts.

    :param retry_after: The header ``Retry-After``; understood when it holds seconds.
    :param rate_limit: The Hub's header ``RateLimit``.
    """
    delays = []
    if retry_after.strip().isdecimal():
        delays.append(float(retry_after))
    match = _RATE_LIMIT.search(rate_limit)
    if match and int(match.group(1)) == 0:
        delays.append(float(match.group(2)))
    return min(max(delays), _MAX_SERVER_DELAY) if delays else None


def backoff_delay(failures: int) -> float:
    """Return the seconds to wait after that many failures in a row (1 or more): exponential, with full jitter.

    Jitter matters in a fleet: hosts that failed together must not come back together.
    """
    ceiling: float = min(_MAX_DELAY, _BASE_DELAY * 2 ** (failures - 1))
    return ceiling * (0.5 + random.random() / 2)
