# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host said, made harmless.

A result of a module is what the host sent: any type anywhere, any length, control characters. What passes these
functions is plain: text that neither moves a terminal's cursor nor is refused by XML, and numbers that JSON has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NAME = 255  # characters of a name
SENTENCE = 1000  # characters of a message
_MOST = 1000  # entries of a list

# What a terminal acts upon: CSI and OSC sequences as a whole, so that their arguments do not stay behind.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
_BLANK = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
# Control characters, those that turn the direction of writing, invisible ones, lone surrogates, and noncharacters.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\ufffe\uffff]"
)


def plain(value: object, longest: int = SENTENCE) -> str | None:
    """Return text on one line, at most so many characters long, or None for what is no text."""
    if not isinstance(value, str):
        return None
    value = _SEQUENCE.sub("", value[: 4 * longest])
    value = _HARMFUL.sub("\ufffd", _BLANK.sub(" ", value)).strip()
    return value if len(value) <= longest else f"{value[: longest - 1]}…"


def name_of(value: object) -> str:
    """Return a name; what is no text is an empty one."""
    return plain(value, NAME) or ""


def number(value: object) -> float | int | None:
    """Return a finite number, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e15 and math.isfinite(value) else None


def whole(value: object) -> int | None:
    """Return a whole number, or None for what is none."""
    return value if isinstance(value, int) and number(value) is not None else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping; what is none is an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list, as many as anybody has; what is no list is an empty one."""
    return [entry for entry in value[:_MOST] if isinstance(entry, Mapping)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """Return the texts of a list likewise."""
    found = [plain(entry) for entry in value[:_MOST]] if isinstance(value, list) else []
    return [entry for entry in found if entry]
