# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where progress is shown: a table that is drawn again and again on a terminal, else a line for each host.

Each host is served by a process of its own, and these have no terminal: what they show goes through Ansible's display.
They leave what they know of their hosts in the run's temporary directory, and whoever has news draws all of it. The
cursor stays above the table, so that clearing to the end of the screen removes it, whoever drew it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ansible import constants as C  # noqa: N812
from ansible.utils.display import Display

from ._progress_text import Row, line, table

# The process that serves a host is cut off from standard error when it begins; this is loaded before.
_STDERR = os.dup(2)

_CLEAR = "\r\x1b[J"
_QUIET = 1.0  # seconds after a host is done, in which its result is printed and nobody draws
_STALE = 120.0  # seconds after which a host whose process died is shown no more


class Screen:
    """Shows how far one host is, beside the others.

    :param host: Its name in the inventory.
    """

    def __init__(self, display: Display, host: str) -> None:
        self._display = display
        self._host = host
        # At higher verbosity each command is printed, which leaves no place for a table.
        self.is_table = os.isatty(_STDERR) and os.environ.get("TERM", "dumb") != "dumb" and display.verbosity < 2
        self._directory = Path(C.DEFAULT_LOCAL_TMP) / "gpufleet-progress"
        self._own = self._directory / f"{hashlib.sha256(host.encode()).hexdigest()[:32]}.json"
        self._shown = False

    def show(self, row: Row) -> None:
        """Show how far the host is."""
        if not self.is_table:
            self._display.display(line(self._host, row), stderr=True)
            return
        with self._shared():
            # From now on others may draw it, even where this process never does.
            self._shown = True
            self._own.write_text(json.dumps({"host": self._host, "row": asdict(row)}), encoding="utf-8")
            if time.time() < self._quiet_until():
                return
            size = os.get_terminal_size(_STDERR)
            # The first line stays empty for whatever somebody else prints.
            lines = ["", *table(self._rows(), size.columns - 1, size.lines - 2)]
            text = "\n".join(lines)
            self._display.display(
                f"{_CLEAR}{text}\x1b[{len(lines) - 1}A\r", stderr=True, screen_only=True, newline=False
            )

    def close(self) -> None:
        """Show this host no more, and leave the place to its result."""
        if not self._shown:
            return
        with self._shared():
            self._own.unlink(missing_ok=True)
            (self._directory / "quiet").touch()
            self._display.display(_CLEAR, stderr=True, screen_only=True, newline=False)

    def last_word(self, text: str) -> None:
        """Say something while the run is being ended, when Ansible's display takes nothing any more."""
        with contextlib.suppress(OSError):
            os.write(_STDERR, f"{_CLEAR if self.is_table else ''}{self._host}: {text}\n".encode())

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _quiet_until(self) -> float:
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / "quiet").stat().st_mtime + _QUIET
        return 0.0

    def _rows(self) -> dict[str, Row]:
        rows = {}
        for path in self._directory.glob("*.json"):
            if time.time() - path.stat().st_mtime < _STALE:
                with contextlib.suppress(ValueError):  # a full disk leaves it empty
                    content = json.loads(path.read_text(encoding="utf-8"))
                    rows[content["host"]] = Row(**content["row"])
        return rows
