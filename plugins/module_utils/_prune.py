# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a store holds that nobody needs, and removing it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ._generation import Generations
from ._ledger import Ledger
from ._partial import journal_name
from ._store import Store, record_name

_NAME = re.compile(r"([0-9a-f]{64})(?:\.blocks|\.journal)?")


@dataclass(frozen=True)
class Garbage:
    """What pruning removes.

    ``leftovers`` are generations that were half made or half removed. ``freed_bytes`` is what all of it takes on disk,
    without what other hard links keep.
    """

    generations: tuple[int, ...] = ()
    leftovers: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    partials: tuple[str, ...] = ()
    freed_bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.generations or self.leftovers or self.blobs or self.partials)


class _Removal:
    """Adds up what the disk has more when some entries are removed: a file counts once its last link goes."""

    def __init__(self) -> None:
        self._links: Counter[tuple[int, int]] = Counter()
        self.freed_bytes = 0

    def add(self, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        self._links[key] += 1
        if stat.S_ISDIR(status.st_mode) or self._links[key] == status.st_nlink:
            self.freed_bytes += status.st_blocks * 512

    def links_left(self, status: os.stat_result) -> int:
        return status.st_nlink - self._links[(status.st_dev, status.st_ino)]


def surplus_generations(numbers: list[int], history: list[int], current: int | None, keep: int) -> tuple[int, ...]:
    """Return the generations to remove, ascending.

    The current one and the ``keep - 1`` that were served before it stay, and so does whatever was staged after it.
    Without a current one the ``keep`` highest stay.

    :param numbers: All generations, ascending.
    :param history: Those that were served, the current one first.
    """
    if current is None:
        return tuple(numbers[: max(0, len(numbers) - keep)])
    return tuple(number for number in numbers if number < current and number not in history[:keep])


def find_garbage(store: Store, keep: int, partial_max_age: float) -> Garbage:
    """Find generations beyond ``keep``, blobs that no remaining generation links to, and abandoned partial files.

    :param keep: Generations to keep, with the current one; at least 1.
    :param partial_max_age: Seconds since a partial file was last written to.
    """
    generations = Generations(store)
    surplus = surplus_generations(generations.numbers(), generations.history(), generations.current(), keep)
    leftovers = tuple(generations.leftovers())
    removal = _Removal()
    with contextlib.suppress(FileNotFoundError), generations.directory() as directory:
        for name in (*map(str, surplus), *leftovers):
            for _path, status in directory.walk_entry(name):
                removal.add(status)
    blobs = []
    stored = store.blobs()
    for sha256 in _digests_in(stored):
        blob, record = stored.get(sha256), stored.get(record_name(sha256))
        if blob is None or removal.links_left(blob) <= 1:
            blobs.append(sha256)
            for status in filter(None, (blob, record)):
                removal.add(status)
    partials = []
    with contextlib.suppress(FileNotFoundError), store.partials() as directory:
        for sha256 in _digests_in(directory.names()):
            files = list(filter(None, (directory.stat(sha256), directory.stat(journal_name(sha256)))))
            # A clock that was set back leaves files from the future.
            if all(max(0.0, time.time() - status.st_mtime) >= partial_max_age for status in files):
                partials.append(sha256)
                for status in files:
                    removal.add(status)
    return Garbage(surplus, leftovers, tuple(blobs), tuple(partials), removal.freed_bytes)


def _digests_in(names: Iterable[str]) -> list[str]:
    """Return the SHA-256 digests that files with such names belong to; foreign names do not count."""
    return sorted({match.group(1) for match in map(_NAME.fullmatch, names) if match})


def remove_garbage(store: Store, garbage: Garbage) -> None:
    """Remove what was found. The caller is the store's writer."""
    generations = Generations(store)
    generations.clean()
    for number in garbage.generations:
        generations.remove(number)
    for sha256 in garbage.blobs:
        store.remove_blob(sha256)
    if garbage.partials:
        with store.partials() as directory:
            for sha256 in garbage.partials:
                directory.remove(sha256)
                directory.remove(journal_name(sha256))
    Ledger(store.root).append(
        [{"event": "pruned", "generations": list(garbage.generations), "freed_bytes": garbage.freed_bytes}]
    )
