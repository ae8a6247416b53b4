# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Python environments on a host: built beside the one that is served, and the link that says which one that is.

``/opt/models/env`` is a link to ``env.d/NAME``. A name is the digest of what the environment was made from; one that is
made again because the former was changed by hand gets a number after it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ._directory import Directory, make_directory
from ._errors import InvalidInput, PythonError, StoreError
from ._writer import LOCK

MANIFEST = ".python_env.json"
CACHE = ".cache"
PYTHONS = ".python"

_HISTORY = "history.json"
_NAME = re.compile(r"([0-9a-f]{16})(?:-[1-9][0-9]{0,5})?")
_NEW, _OLD = ".new-", ".old-"


@dataclass(frozen=True)
class Manifest:
    """What an environment was made from, and what is in it. ``executable`` is where its Python really lies."""

    digest: str
    pins: tuple[str, ...]
    python_version: str
    executable: str
    uv_version: str
    packages: dict[str, str]
    torch_cuda: str | None

    def dump(self) -> bytes:
        """Return the manifest as it is stored."""
        return (json.dumps({"manifest_version": 1, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def load(cls, content: bytes) -> Manifest:
        """Read a manifest.

        :raises ValueError: When it is damaged.
        """
        try:
            document: dict[str, Any] = json.loads(content)
            if document.pop("manifest_version") != 1:
                raise ValueError("unknown version")
            manifest = cls(**{**document, "pins": tuple(document["pins"])})
            manifest.packages.items()
            os.fspath(manifest.executable)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        return manifest


class Environments:
    """The environments behind one link.

    :param link: The link's path.
    :param root: The directory in which they lie.
    """

    def __init__(self, link: str, root: Directory) -> None:
        self.link = link
        self.root = root

    @staticmethod
    def directory_of(link: str) -> str:
        """Return where the environments behind a link lie."""
        return f"{link}.d"

    @classmethod
    def open(cls, link: str) -> Environments | None:
        """Open the environments that exist; return None when there is no directory.

        :raises StoreError: When the directory is not one that we made.
        """
        path = cls.directory_of(link)
        try:
            root = Directory.open_root(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise StoreError(f"{path} is not a directory; choose another path") from None
        if root.names() and root.stat(LOCK) is None:
            root.close()
            raise StoreError(
                f"{path} was not made by this module, expected it to be missing or empty; choose another path"
            )
        return cls(link, root)

    @classmethod
    def create(cls, link: str) -> Environments:
        """Open the environments, and make their directory first where it is missing (mode 0755).

        :raises StoreError: When the path is taken by something else.
        """
        path = cls.directory_of(link)
        make_directory(path, "path")
        environments = cls.open(link)
        if environments is None:
            raise StoreError(f"{path} was removed meanwhile; run this again")
        return environments

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.root.close()

    def path(self, name: str) -> str:
        """Return where an environment lies."""
        return self.root.join(name)

    def names(self) -> list[str]:
        """Return the names of all environments."""
        return [name for name in self.root.names() if _NAME.fullmatch(name)]

    def manifest(self, name: str) -> Manifest | None:
        """Return what an environment says of itself, or None when it is gone or damaged."""
        try:
            with self.root.subdirectory(name) as directory:
                return Manifest.load(directory.read(MANIFEST))
        except (FileNotFoundError, ValueError, StoreError):
            return None

    def problem(self, name: str) -> str | None:
        """Return what is wrong with an environment as far as a quick look tells, or None. Nothing of it is run."""
        manifest = self.manifest(name)
        if manifest is None:
            return "it is gone or damaged"
        if os.path.realpath(os.path.join(self.path(name), "bin", "python")) != manifest.executable:
            return f"its Python is not {manifest.executable}"
        if not os.access(manifest.executable, os.X_OK):
            return f"its Python {manifest.executable} is gone"
        if installed_packages(self.path(name)) != manifest.packages:
            return "its packages were changed by hand"
        return None

    def whole(self, digest: str, preferred: str | None) -> str | None:
        """Return the name of an environment with this digest that a quick look finds whole, or None.

        :param preferred: The one to take when there are several.
        """
        names = [name for name in self.names() if name[:16] == digest]
        names.sort(key=lambda name: name != preferred)
        return next((name for name in names if self.problem(name) is None), None)

    # The link.

    def current(self) -> str | None:
        """Return the name of the environment that is served, or None."""
        return served(self.link)

    def history(self) -> list[str]:
        """Return the environments that were served one after another, the current one first, as far as they exist."""
        try:
            told = json.loads(self.root.read(_HISTORY))
        except (FileNotFoundError, ValueError):
            told = []
        known, current = self.names(), self.current()
        history = [name for name in told if name in known] if isinstance(told, list) else []
        if current is None:
            return history
        # What was rolled back from stands before it.
        return [current, *(history[history.index(current) + 1 :] if current in history else history)]

    def previous(self) -> str:
        """Return the name of the environment that was served before the current one.

        :raises InvalidInput: When there is none.
        """
        earlier = [name for name in self.history() if name != self.current()]
        if not earlier:
            raise InvalidInput(f"{self.link} has no earlier environment; nothing to go back to")
        return earlier[0]

    def activate(self, name: str, back: bool = False) -> None:
        """Serve an environment: one atomic switch.

        :param back: Whether this is the way back, which history does not count as a new one.
        """
        if not back:
            history = [name, *(earlier for earlier in self.history() if earlier != name)]
            # Before the switch: when it does not come to that, history still tells what came before the current one.
            self.root.write(_HISTORY, (json.dumps(history) + "\n").encode())
        parent, base = os.path.split(self.link)
        with Directory.open_root(parent) as directory:
            temporary = f".{base}.new"
            directory.remove(temporary)
            os.symlink(f"{os.path.basename(self.root.path)}/{name}", temporary, dir_fd=directory.descriptor)
            directory.rename(temporary, base)

    # Making and removing.

    def start(self, digest: str) -> tuple[str, str]:
        """Return the name for a new environment, and where to build it until it is whole."""
        taken = [name for name in self.names() if name[:16] == digest]
        numbers = [int(name[17:] or 1) for name in taken]
        name = f"{digest}-{max(numbers) + 1}" if numbers else digest
        return name, self.path(f"{_NEW}{name}")

    def finish(self, name: str, manifest: Manifest) -> None:
        """Give a built environment its name. It has it as a whole and on the disk, or not at all."""
        with self.root.subdirectory(f"{_NEW}{name}") as directory:
            directory.write(MANIFEST, manifest.dump())
        os.sync()
        self.root.rename(f"{_NEW}{name}", name)

    def surplus(self, keep: int) -> list[str]:
        """Return the environments that are neither the current one nor one of the ``keep - 1`` served before it."""
        return [name for name in self.names() if name not in self.history()[:keep]]

    def remove(self, name: str) -> None:
        """Remove an environment. It disappears as a whole before its files do."""
        self.root.rename(name, f"{_OLD}{name}")
        self.root.remove(f"{_OLD}{name}")

    def clean(self) -> None:
        """Remove what interrupted runs left half made or half removed."""
        for name in self.root.names():
            if name.startswith((_NEW, _OLD)):
                self.root.remove(name)

    def freed_bytes(self, names: Iterable[str]) -> int:
        """Return how much of the disk is free again without these entries: files with a name elsewhere stay."""
        seen: dict[int, int] = {}
        freed = 0
        for name in names:
            status = self.root.stat(name)
            found = [] if status is None else [(name, status)]
            if status is not None and stat.S_ISDIR(status.st_mode):
                with self.root.subdirectory(name) as directory:
                    found += directory.walk()
            for _path, status in found:
                seen[status.st_ino] = seen.get(status.st_ino, 0) + 1
                if stat.S_ISDIR(status.st_mode) or seen[status.st_ino] == status.st_nlink:
                    freed += status.st_blocks * 512
        return freed

    def remove_all(self) -> None:
        """Remove the link, every environment, the cache, and the directory itself."""
        parent, base = os.path.split(self.link)
        with Directory.open_root(parent) as directory:
            for name in (base, f".{base}.new"):
                directory.remove(name)
            directory.sync()
            # The lock goes last: whoever comes after an interruption knows the directory by it.
            for name in sorted(self.root.names(), key=lambda name: name == LOCK):
                self.root.remove(name)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(os.path.basename(self.root.path), dir_fd=directory.descriptor)
            directory.sync()


def served(link: str) -> str | None:
    """Return the name of the environment that a link points to, or None when there is no link.

    :raises StoreError: When there is anything else than a link that we made.
    """
    try:
        status = os.lstat(link)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreError(f"{os.path.dirname(link)} is not a directory; choose another path") from None
    if stat.S_ISLNK(status.st_mode):
        directory, _separator, name = os.readlink(link).partition("/")
        if directory == os.path.basename(Environments.directory_of(link)) and _NAME.fullmatch(name):
            return name
    raise StoreError(
        f"{link} is not a link that this module made, and was left as it is; move it away, or choose another path"
    )


def site_packages(directory: str) -> str:
    """Return where an environment's packages lie.

    :raises PythonError: When there is no such place.
    """
    library = os.path.join(directory, "lib")
    try:
        for name in sorted(os.listdir(library)):
            packages = os.path.join(library, name, "site-packages")
            if name.startswith("python") and os.path.isdir(packages):
                return packages
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    raise PythonError(f"{directory} has no place for packages")


def installed_packages(directory: str) -> dict[str, str]:
    """Return the versions of an environment's packages by name, as their metadata directories tell them."""
    packages = {}
    with contextlib.suppress(PythonError):
        for entry in sorted(os.listdir(site_packages(directory))):
            name, _separator, version = entry[: -len(".dist-info")].partition("-")
            if entry.endswith(".dist-info") and version:
                packages[name.replace("_", "-").lower()] = version
    return packages


def torch_cuda(directory: str) -> str | None:
    """Return the CUDA version that an environment's torch was built for; None for a CPU build or no torch."""
    try:
        with open(os.path.join(site_packages(directory), "torch", "version.py"), encoding="utf-8") as stream:
            match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9]+(?:\.[0-9]+)*)['\"]", stream.read(), re.MULTILINE)
    except (FileNotFoundError, NotADirectoryError, PythonError, UnicodeDecodeError):
        return None
    return match and match[1]
