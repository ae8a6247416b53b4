# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The note that a generation is about to be served, for the next run when this one dies between its hooks."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass

from ._directory import Directory
from ._errors import StoreError

_NAME = "activation.json"


@dataclass(frozen=True)
class Activation:
    """What is about to be served, and what was served before; None for nothing, or where it is not known."""

    generation: int | None = None
    previous_generation: int | None = None

    @classmethod
    def read(cls, root: Directory) -> Activation | None:
        """Return what a store's note says, or None when there is none.

        Whatever cannot be read counts as a run that did not end, of which no more is known.
        """
        try:
            noted = json.loads(root.read(_NAME))
            numbers = (noted["generation"], noted["previous_generation"])
        except FileNotFoundError:
            return None
        except (StoreError, ValueError, TypeError, KeyError, RecursionError):
            return cls()
        return cls(*(number if isinstance(number, int) else None for number in numbers))

    def write(self, root: Directory) -> None:
        """Put the note in place of whatever is there."""
        noted = {"generation": self.generation, "previous_generation": self.previous_generation}
        status = root.stat(_NAME)
        if status is not None and stat.S_ISDIR(status.st_mode):  # which a rename cannot replace
            self.remove(root)
        root.write(_NAME, f"{json.dumps(noted)}\n".encode())

    @staticmethod
    def remove(root: Directory) -> None:
        """Remove the note, or whatever is in its place."""
        root.remove(_NAME)
