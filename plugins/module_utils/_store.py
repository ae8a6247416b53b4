# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: the directory on a host that this collection owns, its blobs, and the one writer that it has at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from typing import Callable

from ._blocks import BlockRecord
from ._directory import Directory, make_directory
from ._errors import StoreError
from ._partial import Partial
from ._writer import only_writer

BLOB_MODE = 0o444

_BLOBS, _PARTIAL = "blobs", "partial"


class Store:
    """An open store. Use it as a context manager.

    :param root: Its directory.
    """

    def __init__(self, root: Directory) -> None:
        self.root = root
        self.path = root.path

    @classmethod
    def open(cls, path: str, owner: tuple[int, int] | None = None) -> Store | None:
        """Open a store that exists; return None when there is no directory.

        :param owner: User and group id for whatever will be made in it; None leaves that to the process.
        :raises StoreError: When the path is no directory.
        """
        try:
            return cls(Directory.open_root(path, owner))
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise StoreError(f"{path} is not a directory; choose another root") from None

    @classmethod
    def create(cls, path: str, owner: tuple[int, int] | None = None) -> Store:
        """Open a store, and make its directory first where it is missing (mode 0755).

        :raises StoreError: When the path, or a part of it, is no directory.
        """
        missing = not os.path.isdir(path)
        make_directory(path, "root")
        root = Directory.open_root(path, owner)
        if missing:
            root.adopt(root.descriptor)
        return cls(root)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.root.close()

    @contextlib.contextmanager
    def writer(
        self,
        operation: str,
        lock_timeout: float,
        cancelled: threading.Event,
        waiting: Callable[[int | None], bool] = lambda _holder: False,
    ) -> Iterator[None]:
        """Be the store's only writer meanwhile; see :func:`only_writer`."""
        with only_writer(self.root, operation, lock_timeout, cancelled, waiting):
            yield

    def free_bytes(self) -> tuple[int, int]:
        """Return the bytes that may still be written, and the filesystem's size in bytes."""
        status = os.fstatvfs(self.root.descriptor)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    # Blobs.

    @contextlib.contextmanager
    def blob_directory(self, sha256: str, create: bool = False) -> Iterator[Directory]:
        """Open the directory in which a blob and its record lie.

        :raises FileNotFoundError: When it does not exist and ``create`` is not set.
        """
        with self.root.subdirectory(_BLOBS, create) as blobs, blobs.subdirectory(sha256[:2], create) as directory:
            yield directory

    def blob_status(self, sha256: str) -> os.stat_result | None:
        """Return what ``lstat`` says of a blob, or None when there is none."""
        try:
            with self.blob_directory(sha256) as directory:
                return directory.stat(sha256)
        except FileNotFoundError:
            return None

    def open_blob(self, sha256: str) -> int:
        """Open a blob for reading and return the descriptor.

        :raises FileNotFoundError: When it does not exist.
        """
        with self.blob_directory(sha256) as directory:
            return directory.open(sha256, os.O_RDONLY)

    def read_record(self, sha256: str) -> BlockRecord | None:
        """Return a blob's block digests, or None when there are none to be trusted."""
        try:
            with self.blob_directory(sha256) as directory:
                return BlockRecord.load(directory.read(record_name(sha256)), sha256)
        except FileNotFoundError:
            return None

    def write_record(self, record: BlockRecord) -> None:
        """Put a blob's block digests in place."""
        with self.blob_directory(record.sha256, create=True) as directory:
            directory.write(record_name(record.sha256), record.dump(), BLOB_MODE)

    @contextlib.contextmanager
    def partials(self, create: bool = False) -> Iterator[Directory]:
        """Open the directory of partial files.

        :raises FileNotFoundError: When it does not exist and ``create`` is not set.
        """
        with self.root.subdirectory(_PARTIAL, create) as directory:
            yield directory

    def adopt(self, partial: Partial, digests: tuple[str, ...]) -> None:
        """Make a blob of a partial file whose content was proven to be the blob's; replace a damaged one."""
        self.take(partial.directory, partial.name, partial.descriptor, partial.name, digests)
        partial.remove()

    def take(self, directory: Directory, name: str, descriptor: int, sha256: str, digests: tuple[str, ...]) -> None:
        """Make a blob of a file of the same filesystem whose content was proven; replace a damaged one.

        :param descriptor: The file, open.
        :param digests: Those of its blocks.
        """
        os.fchmod(descriptor, BLOB_MODE)
        os.fsync(descriptor)
        status = os.fstat(descriptor)
        self.write_record(BlockRecord(sha256, status.st_size, status.st_mtime_ns, digests))
        with self.blob_directory(sha256) as blobs:
            directory.rename(name, sha256, blobs)

    def remove_blob(self, sha256: str) -> None:
        """Remove a blob and its record."""
        with self.blob_directory(sha256) as directory:
            directory.remove(sha256)
            directory.remove(record_name(sha256))

    def blobs(self) -> dict[str, os.stat_result]:
        """Return what ``lstat`` says of every blob and every record, by name."""
        found = {}
        with contextlib.suppress(FileNotFoundError), self.root.subdirectory(_BLOBS) as blobs:
            for path, status in blobs.walk():
                directory, _separator, name = path.partition("/")
                if stat.S_ISREG(status.st_mode) and directory == name[:2]:
                    found[name] = status
        return found


def record_name(sha256: str) -> str:
    """Return the name of a blob's record, beside the blob."""
    return f"{sha256}.blocks"
