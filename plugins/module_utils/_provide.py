# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provide blobs: whatever is missing or damaged is fetched, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Callable

from ._blocks import BlockRecord, block_range, bytes_in, read_chunks, write_chunk
from ._download import Download
from ._errors import ContentError
from ._formats import check_structure
from ._integrity import Finding
from ._lockfile import File, Model
from ._partial import Partial, remove_orphans
from ._progress import Progress
from ._source import Hub, Source
from ._store import BLOB_MODE, Store
from ._transfer import Limits, Transfer

# Files that are received at once. Each takes two open files, and 1,024 of them is what a process may usually have.
_AT_ONCE = 256


@dataclass(frozen=True)
class Need:
    """A blob that is wanted, with one of the files that want it.

    ``finding`` says which of its blocks are damaged; None when there is no such blob yet.
    """

    model: Model
    file: File
    finding: Finding | None = None

    @property
    def patch(self) -> tuple[BlockRecord, tuple[int, ...]] | None:
        """The blob's record and its damaged blocks, when fetching those is enough."""
        return None if self.finding is None else self.finding.patch

    @property
    def wanted_bytes(self) -> int:
        """The size of what is to be there afterwards and is not known to be there now."""
        return self.file.size if self.patch is None else bytes_in(self.patch[1], self.file.size)

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"{self.file.path} of {self.model.name}"


def provide(
    store: Store,
    needs: Iterable[Need],
    hub: Hub,
    limits: Limits,
    report: Callable[[Progress], None],
    cancelled: threading.Event,
) -> int:
    """Fetch what is needed; when this returns, every needed blob is whole and durable.

    A blob that is missing, or whose damaged blocks are not known, is fetched as a whole into a partial file and takes
    its place by a rename. Otherwise the damaged blocks alone are fetched, and written over the bad bytes in place.

    :returns: The bytes that came over the network.
    :raises ModelsError: When it cannot; what was received is kept in partial files.
    """
    started = time.monotonic()
    ordered = sorted(needs, key=lambda need: -need.file.size)
    past = Progress(sum(need.wanted_bytes for need in ordered), 0, 0)
    with store.partials(create=True) as partials:
        remove_orphans(partials)
        for first in range(0, len(ordered), _AT_ONCE):
            with contextlib.ExitStack() as opened:
                downloads = {}
                for need in ordered[first : first + _AT_ONCE]:
                    partial = Partial(partials, need.file.sha256, need.file.size)
                    opened.callback(partial.close)
                    downloads[_download(need, hub, partial)] = need
                finish = functools.partial(_finish, store, downloads)
                past = Transfer(list(downloads), limits, finish, report, cancelled, started, past).run()
    return past.done


def _download(need: Need, hub: Hub, partial: Partial) -> Download:
    source = Source(hub, hub.file_url(need.model.repo_id, need.model.commit, need.file.path), need.file.size)
    if need.patch is None:
        partial.reserve()
        return Download(need.label, need.file.sha256, source, partial)
    record, blocks = need.patch
    return Download(need.label, need.file.sha256, source, partial, record.digests, blocks)


def _finish(store: Store, needs: Mapping[Download, Need], download: Download) -> None:
    need = needs[download]
    if need.patch is not None:
        _write_blocks(store, *need.patch, download.partial)
        download.partial.remove()
        return
    try:
        check_structure(need.file.path, download.partial.descriptor, download.size)
    except ContentError as error:
        download.partial.remove()
        raise ContentError(
            f"{need.label}: {error}; it is what the lock names, so the repository itself holds it: "
            "correct the catalog and lock again"
        ) from None
    store.adopt(download.partial, tuple(digest for digest in download.digests if digest is not None))


def _write_blocks(store: Store, record: BlockRecord, blocks: tuple[int, ...], partial: Partial) -> None:
    """Write proven blocks over a blob's damaged ones, in place.

    Only bytes that are right are ever written, so a crash leaves each block as bad as it was, or better.
    """
    with store.blob_directory(record.sha256) as directory:
        # Another account than root may not write to a file of mode 0444, not even to its own.
        reader = directory.open(record.sha256, os.O_RDONLY, shared=True)
        os.fchmod(reader, 0o644)
        os.close(reader)
        blob = directory.open(record.sha256, os.O_RDWR, shared=True)
    try:
        os.ftruncate(blob, record.size)
        for index in blocks:
            for position, chunk in read_chunks(partial.descriptor, *block_range(index, record.size)):
                write_chunk(blob, position, chunk)
        os.fsync(blob)
    finally:
        os.close(blob)
    reseal(store, record)


def reseal(store: Store, record: BlockRecord) -> None:
    """Give a blob whose content is right its record, and the mode and the time that it had when it was received."""
    if store.read_record(record.sha256) != record:
        store.write_record(record)
    descriptor = store.open_blob(record.sha256)
    try:
        status = os.fstat(descriptor)
        if status.st_mtime_ns != record.mtime_ns or stat.S_IMODE(status.st_mode) != BLOB_MODE:
            os.fchmod(descriptor, BLOB_MODE)
            os.utime(descriptor, ns=(record.mtime_ns, record.mtime_ns))
    finally:
        os.close(descriptor)
