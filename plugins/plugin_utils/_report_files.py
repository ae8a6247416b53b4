# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a report: each is replaced as a whole, and the report before is kept beside the JSON."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

from ._report import VERSION, find_changes

_LARGEST = 1 << 28  # bytes: a report of 10,000 hosts has a quarter of it


def to_json(report: Mapping[str, Any]) -> bytes:
    """Return the report as a JSON document."""
    return json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def read_report(path: str) -> dict[str, Any] | None:
    """Return the report of a run that came to its end, or None where there is none.

    :raises OSError: When there is a file that cannot be read.
    :raises ValueError: When it is no report, or none of this version.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    try:
        report = json.loads(content)
        if report["report_version"] != VERSION:
            raise ValueError
        list(find_changes(report, report))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise ValueError(f"it is no report of version {VERSION}") from None
    return report if report.get("complete") is True else None


def write_file(path: str, content: bytes) -> None:
    """Put a file in place as a whole, and make its directory where there is none.

    :raises OSError: When it cannot be written; what was there is there still.
    """
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
