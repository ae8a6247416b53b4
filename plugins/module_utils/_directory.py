# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories that are worked on without ever following a symbolic link.

The store may belong to an account that is less trusted than the one that maintains it. So every operation names one
entry of one open directory, and a link planted anywhere below the store's root is an error, never a way out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from ._errors import StoreError

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_directory(path: str, option: str) -> None:
    """Make a directory that everybody can read, and those above it, where they are missing (mode 0755).

    :param option: With what it was chosen, for the message.
    :raises StoreError: When the path, or a part of it, is no directory.
    """
    umask = os.umask(0o022)
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"{path} is not a directory; choose another {option}") from None
    finally:
        os.umask(umask)


class Directory:
    """An open directory. Use it as a context manager, or call :meth:`close`.

    :param descriptor: The open directory; owned by this object from now on.
    :param path: Where it is, for messages and for the user.
    :param owner: User and group id that whatever is made here gets, or None to leave them as they come.
    """

    def __init__(self, descriptor: int, path: str, owner: tuple[int, int] | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        self.owner = owner

    @classmethod
    def open_root(cls, path: str, owner: tuple[int, int] | None = None) -> Directory:
        """Open a directory by its path. Links in this path are followed: it is the administrator's own choice."""
        return cls(os.open(path, _OPEN_DIRECTORY), path, owner)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory."""
        os.close(self.descriptor)

    def join(self, name: str) -> str:
        """Return the path of an entry, for messages."""
        return os.path.join(self.path, name)

    def adopt(self, descriptor: int) -> None:
        """Give something that was just made to the owner."""
        if self.owner is not None:
            os.fchown(descriptor, *self.owner)

    def subdirectory(self, name: str, create: bool = False) -> Directory:
        """Open a directory in this one, and make it first if ``create`` is set.

        :raises FileNotFoundError: When it does not exist.
        :raises StoreError: When something else has its name.
        """
        made = False
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self.descriptor)
                made = True
        try:
            descriptor = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise StoreError(f"{self.join(name)} is a link or a file, expected a directory; remove it") from None
            raise
        if made:
            os.fchmod(descriptor, 0o755)
            self.adopt(descriptor)
        return Directory(descriptor, self.join(name), self.owner)

    def open(self, name: str, flags: int, mode: int = 0o644, shared: bool = False) -> int:
        """Open a regular file in this directory and return its descriptor.

        :param shared: Allow writing to a file that has further names, as blobs have, if nobody but its owner or we can
            have put it here.
        :raises StoreError: When the name belongs to a link or to anything but a regular file.
        """
        created = False
        if flags & os.O_CREAT:
            try:
                descriptor = os.open(
                    name, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.descriptor
                )
                created = True
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
        if not created:
            try:
                # Without O_NONBLOCK a planted FIFO would hold us here for ever.
                descriptor = os.open(
                    name, flags & ~os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.descriptor
                )
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise StoreError(f"{self.join(name)} is not a regular file; remove it") from None
                raise
        if created:
            os.fchmod(descriptor, mode)
            self.adopt(descriptor)
            return descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise StoreError(f"{self.join(name)} is not a regular file; remove it")
        if status.st_nlink > 1 and not shared and flags & (os.O_WRONLY | os.O_RDWR):
            os.close(descriptor)
            raise StoreError(f"{self.join(name)} has a second name somewhere, expected none; remove it")
        if shared and os.fstat(self.descriptor).st_uid not in (status.st_uid, 0, os.geteuid()):
            os.close(descriptor)
            raise StoreError(
                f"{self.join(name)} belongs to another user than its directory, as a file of elsewhere would; remove it"
            )
        return descriptor

    def stat(self, name: str) -> os.stat_result | None:
        """Return what ``lstat`` says of an entry, or None when there is none."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        return sorted(os.listdir(self.descriptor))

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        """Return a small file's content.

        :raises FileNotFoundError: When it does not exist.
        :raises StoreError: When it is larger than ``limit`` bytes or no regular file.
        """
        with os.fdopen(self.open(name, os.O_RDONLY), "rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise StoreError(f"{self.join(name)} is larger than {limit} bytes, which it never is when we write it")
        return content

    def write(self, name: str, content: bytes, mode: int = 0o644, durable: bool = True) -> None:
        """Put a small file in place as a whole: a crash leaves the former content or the new one.

        :param durable: Wait for the disk. Without it the file may be lost or empty after a power failure.
        """
        temporary = f".{name}.new"
        self.remove(temporary)
        try:
            with os.fdopen(self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            self.rename(temporary, name, durable=durable)
        except OSError:
            self.remove(temporary)
            raise

    def rename(self, old: str, new: str, target: Directory | None = None, durable: bool = True) -> None:
        """Rename an entry, replacing what has the new name, and make that durable."""
        target = target or self
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)
        if durable:
            target.sync()
        if durable and target is not self:
            self.sync()

    def link(self, name: str, target: Directory, target_name: str) -> None:
        """Make a hard link to a file of this directory in another one."""
        os.link(name, target_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Remove an entry with everything below it; do nothing when there is none."""
        status = self.stat(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=self.descriptor)
            return
        with self.subdirectory(name) as directory:
            for entry in directory.names():
                directory.remove(entry)
        os.rmdir(name, dir_fd=self.descriptor)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield every entry below: its relative path and what ``lstat`` says of it, a directory before its entries."""
        for name in self.names():
            yield from self.walk_entry(name, prefix)

    def walk_entry(self, name: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield one entry and every entry below it, as :meth:`walk` does; nothing when there is none."""
        status = self.stat(name)
        if status is None:
            return
        yield f"{prefix}{name}", status
        if stat.S_ISDIR(status.st_mode):
            with self.subdirectory(name) as directory:
                yield from directory.walk(f"{prefix}{name}/")

    def sync(self) -> None:
        """Make the names in this directory durable."""
        os.fsync(self.descriptor)
