# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress for people: what hosts tell of their work, as a line or as a table. Pure functions.

What comes from a host is data: nothing of it may reach a terminal but characters that can be printed.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

_DOING = {
    ("stage", "hash"): "hashing",
    ("stage", "receive"): "receiving",
    ("verify", "hash"): "verifying",
    ("repair", "hash"): "verifying",
    ("repair", "receive"): "repairing",
}
_HEADS = ("host", "doing", "%", "MB/s", "left")
_LONGEST_HOST = 30  # columns
_FIGURES = 26  # columns that the three figures take, and what is between them


@dataclass(frozen=True)
class Row:
    """How far a host is. Fractions are 0 to 1, rates are bytes per second, times are seconds; None is not known."""

    doing: str
    fraction: float | None = None
    rate: float | None = None
    left: float | None = None


def row_of(work: Mapping[str, object]) -> Row:
    """Return what a host tells of its work, without believing that it is well formed."""
    operation, part = str(work.get("operation")), str(work.get("doing"))
    what = str(work.get("what") or "")
    if part == "wait":  # what is told then is of that run
        doing = printable(": ".join(filter(None, ["waits for another run", what])))
    else:
        doing = printable(" ".join([_DOING.get((operation, part), operation), what]).strip())
    total, done, rate = (_number(work.get(name)) for name in ("total_bytes", "done_bytes", "bytes_per_second"))
    if total is None or done is None:
        return Row(doing)
    done = min(done, total)
    left = (total - done) / rate if rate else None
    return Row(doing, done / total if total else 1.0, rate, left)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 << 63:
        return None
    return float(value)


def printable(text: str) -> str:
    """Return a text on one line, of 200 characters at most, without anything that a terminal could obey."""
    return "".join(character if character.isprintable() else "?" for character in text[:200])


def duration(seconds: float) -> str:
    """Return a time as ``1:05`` or ``2:00:09``."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _cells(row: Row) -> tuple[str, str, str]:
    """Return per cent, MB/s and time left; what is not known is empty. It is 100 % only when it is all."""
    return (
        "" if row.fraction is None else str(int(row.fraction * 100)),
        "" if row.rate is None else f"{row.rate / 1e6:,.1f}",
        "" if row.left is None else duration(row.left),
    )


def line(host: str, row: Row) -> str:
    """Return a host's progress as one line."""
    percent, rate, left = _cells(row)
    figures = [f"{percent} %" if percent else "", f"{rate} MB/s" if rate else "", f"{left} left" if left else ""]
    return ", ".join([f"{printable(host)}: {row.doing}", *filter(None, figures)])


def table(rows: Mapping[str, Row], width: int, height: int) -> list[str]:
    """Return all hosts' progress as the lines of a table, none wider than ``width``, at most ``height`` of them."""
    shown = sorted(rows)[: max(1, height - 2)]
    hosts = {host: printable(host) for host in shown}
    host_width = min(_LONGEST_HOST, max(map(_width, [*hosts.values(), _HEADS[0]])))
    doing_width = max(len(_HEADS[1]), width - host_width - _FIGURES)
    lines = []
    for host, doing, *cells in [_HEADS, *((hosts[host], rows[host].doing, *_cells(rows[host])) for host in shown)]:
        percent, rate, left = cells
        text = f"{fit(host, host_width)}  {fit(doing, doing_width)}  {percent:>3} {rate:>8} {left:>9}"
        lines.append(fit(text, width).rstrip())
    if len(shown) < len(rows):
        lines.append(fit(f"and {len(rows) - len(shown)} more", width).rstrip())
    return lines


def fit(text: str, width: int) -> str:
    """Return a text cut or filled so that it takes that many columns of a terminal."""
    if _width(text) > width:
        while text and _width(text) > width - 1:
            text = text[:-1]
        text += "~"
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
