# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there of a blob while it is received: a file with holes, and a journal of the blocks that it has.

A block is journalled after its bytes were written. After a crash the journal may name a block whose bytes never
reached the disk, so nobody believes it: a block counts only when its bytes hash to what the journal says.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Container

from ._blocks import block_count, write_chunk
from ._directory import Directory

_HEADER = "gpufleet-journal 1"
_JOURNAL = ".journal"


class Partial:
    """The partial file of one blob, open for writing. Its methods may be called from several threads.

    ``journalled`` has the digests of the blocks that an earlier run received, by their index.
    """

    def __init__(self, directory: Directory, sha256: str, size: int) -> None:
        """Open the partial file, or make it with its journal.

        :param directory: The store's directory of partial files.
        """
        self.directory = directory
        self.name = sha256
        self.size = size
        self.descriptor = self._open()
        try:
            os.ftruncate(self.descriptor, size)
            self.journalled = read_journal(directory, sha256, size)
            self._received = bool(self.journalled)
            # Written anew, so that no torn line and no other file under the journal's name is ever appended to.
            journal = _dump_journal(size, self.journalled)
            directory.write(journal_name(sha256), journal.encode(), 0o600, durable=False)
            self._journal = directory.open(journal_name(sha256), os.O_WRONLY | os.O_APPEND)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT
        try:
            return self.directory.open(self.name, flags, 0o600)
        except PermissionError:
            # An earlier run was killed when it was about to make a blob of it: then it is read-only already.
            reader = self.directory.open(self.name, os.O_RDONLY)
            try:
                if os.fstat(reader).st_nlink == 1:
                    os.fchmod(reader, 0o600)
            finally:
                os.close(reader)
            return self.directory.open(self.name, flags, 0o600)

    def close(self) -> None:
        """Close both files and keep them for the next run, unless not one block was received: then free their space."""
        if not self._received:
            self.remove()
        os.close(self.descriptor)
        os.close(self._journal)

    def remove(self) -> None:
        """Remove both files."""
        self.directory.remove(self.name)
        self.directory.remove(journal_name(self.name))

    def reserve(self) -> None:
        """Take the disk space for the whole blob now.

        :raises OSError: When the disk has not enough left.
        """
        if self.size:
            try:
                os.posix_fallocate(self.descriptor, 0, self.size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a filesystem without reservations
                    raise OSError(error.errno, error.strerror, self.directory.join(self.name)) from None

    def record(self, index: int, digest: str) -> None:
        """Note that a block was received and has that SHA-256."""
        self._received = True
        # One short write at the end of the file: whole lines even from several threads.
        os.write(self._journal, f"{index} {digest}\n".encode())

    def forget(self) -> None:
        """Forget every block."""
        os.ftruncate(self._journal, 0)
        os.write(self._journal, _dump_journal(self.size, {}).encode())

    def write(self, position: int, chunk: memoryview) -> None:
        """Write bytes at their place in the blob."""
        write_chunk(self.descriptor, position, chunk)


def remove_orphans(directory: Directory, proven: Container[str] = ()) -> None:
    """Remove what a kill left of partial files that had just become blobs, and half-written journals.

    :param proven: Blobs whose content is right. A partial file of such a one had just mended it.
    """
    for name in directory.names():
        sha256 = name[: -len(_JOURNAL)] if name.endswith(_JOURNAL) else name
        if name.startswith(".") or sha256 in proven or directory.stat(sha256) is None:
            directory.remove(name)


def journal_name(sha256: str) -> str:
    """Return the name of a partial file's journal, beside it."""
    return sha256 + _JOURNAL


def _dump_journal(size: int, blocks: dict[int, str]) -> str:
    return f"{_HEADER} {size}\n" + "".join(f"{index} {digest}\n" for index, digest in blocks.items())


def read_journal(directory: Directory, sha256: str, size: int) -> dict[int, str]:
    """Return the digests of the journalled blocks of a blob by their index; lines that a crash cut off do not count."""
    blocks: dict[int, str] = {}
    try:
        lines = directory.read(journal_name(sha256)).decode("ascii", "replace").split("\n")
    except FileNotFoundError:
        return blocks
    if lines[0] != f"{_HEADER} {size}":
        return blocks
    count = block_count(size)
    for line in lines[1:-1]:
        with contextlib.suppress(ValueError):
            index, digest = line.split(" ")
            if index.isdecimal() and int(index) < count and len(digest) == 64:
                blocks[int(index)] = digest
    return blocks
