# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record that a host keeps of its driver: what the role installed, and what there was before its last change.

It is written before anything is changed. A change whose record says nothing about its end did not come to one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ._driver_packages import Packages
from ._errors import DriverError

_FORMAT = 1


@dataclass(frozen=True)
class Before:
    """What there was before a change. A file that did not exist is None; ``record`` is the record of then."""

    driver: str | None
    versions: dict[str, str]
    held: list[str]
    automatic: list[str]
    files: dict[str, str | None]
    record: dict[str, Any] | None


@dataclass(frozen=True)
class Record:
    """What the role made of a host.

    ``driver`` is None where the driver is somebody else's, and the role only added to it. ``packages`` and ``files``
    are what it wants there. ``owned`` are the packages that came with it, and ``original`` is what files were before
    the role's first change. ``touched`` are the packages that the last change changed, None when it did not come to
    its end. ``expected`` are those that it could change at all, None for any: what else has changed since is somebody
    else's work. ``proven`` says that the driver has answered since: then a later failure is no reason to go back.
    """

    driver: str | None
    packages: dict[str, str]
    files: dict[str, str | None]
    owned: list[str] = field(default_factory=list)
    original: dict[str, str | None] = field(default_factory=dict)
    before: Before | None = None
    touched: list[str] | None = None
    proven: bool = False
    expected: list[str] | None = None

    @property
    def finished(self) -> bool:
        """Whether the last change came to its end."""
        return self.touched is not None

    def finish(self, packages: Packages) -> Record:
        """Return the record of a change that has come to its end, with these packages installed now."""
        before = self.before.versions if self.before else {}
        now = packages.versions
        changed = {name for name in {*before, *now} if before.get(name) != now.get(name)}
        touched = sorted(changed if self.expected is None else changed & {*self.expected})
        owned = sorted(({*self.owned} | {name for name in touched if name not in before}) & {*now})
        return replace(self, owned=owned, touched=touched, proven=False)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is written."""
        return {"format": _FORMAT, **asdict(self)}


def parse_record(text: str | None, path: str) -> Record | None:
    """Return the record that a file holds, None where there is no file.

    :raises DriverError: When the file is damaged.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
        if values.pop("format") != _FORMAT:
            raise ValueError("unknown format")
        before = values.pop("before")
        return Record(**values, before=Before(**before) if before else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DriverError(
            f"{path}: expected the record of this host's driver, found something damaged ({error}); "
            "look what is installed, then remove the file"
        ) from None
