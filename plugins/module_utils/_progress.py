# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress: how far a piece of work is, and how fast it goes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

_WINDOW = 15.0  # seconds; long enough to be steady, short enough to show that the network became slow


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is, in bytes.

    ``kept`` was there before; ``done`` came over the network, or was hashed, in this run. ``what`` is the file that is
    worked on, one of several where there are more.
    """

    total: int
    kept: int
    done: int
    what: str = ""


class Rate:
    """How fast something grows, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, seconds: float, done: int) -> float:
        """Note that so much was done by that time; return bytes per second, 0 while nothing can be told."""
        self._samples.append((seconds, done))
        while len(self._samples) > 2 and self._samples[1][0] <= seconds - _WINDOW:
            self._samples.popleft()
        first_seconds, first_done = self._samples[0]
        return (done - first_done) / (seconds - first_seconds) if seconds > first_seconds else 0.0


class Hashing:
    """Makes progress of what several threads hash.

    :param files: The size in bytes and the name, for people, of each blob that will be hashed.
    """

    def __init__(self, report: Callable[[Progress], None], files: Mapping[str, tuple[int, str]]) -> None:
        self._report = report
        self._files = files
        self._total = sum(size for size, _name in files.values())
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, sha256: str, size: int) -> None:
        """Note that so many bytes of a blob were hashed."""
        with self._lock:
            # What is found damaged is read a second time.
            self._done = min(self._done + size, self._total)
            self._report(Progress(self._total, 0, self._done, self._files[sha256][1]))
