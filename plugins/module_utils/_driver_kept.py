# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of packages that a change of the driver replaces, kept so that the way back needs no repository."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Callable

from ._driver_platform import DEB_ARCHITECTURES
from ._errors import DriverError
from ._process import Ended

# Where apt leaves what it has installed, if nobody cleans up. dnf leaves nothing.
CACHES = {"apt": "/var/cache/apt/archives"}

_UPDATE = {"apt": ["apt-get", "update"], "dnf": ["dnf", "makecache", "--refresh"]}
_DOWNLOAD = {"apt": ["apt-get", "download"], "dnf": ["dnf", "download"]}

# A line of apt's simulation: what it would install or remove, and the version that is installed now.
_CHANGE = re.compile(r"^(?:Inst|Remv|Purg) (\S+)", re.MULTILINE)

# Runs a command in a directory.
Run = Callable[["list[str]", str], Ended]


@dataclass(frozen=True)
class Kept:
    """A directory with package files.

    :param manager: The package manager, ``apt`` or ``dnf``.
    :param machine: The processor's architecture, as ``uname -m`` names it.
    """

    directory: str
    manager: str
    machine: str

    def find(self, name: str, version: str) -> str | None:
        """Return the file of a package in one version."""
        paths = (os.path.join(self.directory, file) for file in self.files(name, version))
        return next((path for path in paths if os.path.isfile(path)), None)

    def lacking(self, packages: Mapping[str, str]) -> dict[str, str]:
        """Return those of the packages that are not here."""
        return {name: version for name, version in packages.items() if self.find(name, version) is None}

    def files(self, name: str, version: str) -> tuple[str, ...]:
        """Return what a package's file may be called."""
        if self.manager == "apt":
            name, _colon, foreign = name.partition(":")
            native = DEB_ARCHITECTURES.get(self.machine, self.machine)
            return tuple(
                f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
                for architecture in ((foreign,) if foreign else (native, "all"))
            )
        version = version.partition(":")[2] or version  # the epoch is no part of the name
        return tuple(f"{name}-{version}.{architecture}.rpm" for architecture in (self.machine, "noarch"))

    def take(self, name: str, version: str, directory: str) -> None:
        """Move a package's file, if it is there, from a directory below this one."""
        for file in self.files(name, version):
            path = os.path.join(directory, file)
            if os.path.isfile(path):
                _flush(path)
                os.replace(path, os.path.join(self.directory, file))

    def prune(self, packages: Mapping[str, str]) -> list[str]:
        """Remove all but the files of these packages; return what was removed."""
        wanted = {file for name, version in packages.items() for file in self.files(name, version)}
        gone = [os.path.join(self.directory, name) for name in os.listdir(self.directory) if name not in wanted]
        for path in gone:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        return gone


def keep(kept: Kept, packages: Mapping[str, str], run: Run, cache: str | None) -> None:
    """Have the file of each package, from the package manager's cache or its repositories.

    :param cache: The package manager's directory with files that it has downloaded before.
    :raises DriverError: When one cannot be had.
    """
    os.makedirs(kept.directory, mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".arriving-", dir=kept.directory) as arriving:
        if cache is not None:
            _copy(kept, kept.lacking(packages), run, cache, arriving)
        reason = _fetch(kept, kept.lacking(packages), run, arriving)
        if kept.lacking(packages):  # an index may be old, or missing
            run(_UPDATE[kept.manager], arriving)
            _fetch(kept, kept.lacking(packages), run, arriving)
        for name, version in kept.lacking(packages).items():  # one that cannot be had spoils the others
            reason = _fetch(kept, {name: version}, run, arriving) or reason
    lacking = kept.lacking(packages)
    if lacking:
        names = ", ".join(f"{name} {version}" for name, version in sorted(lacking.items()))
        raise DriverError(
            f"what would be replaced cannot be had any more, so there would be no way back: {names} ({reason}); no "
            f"package was changed. Put their files into {kept.directory}, or remove the former driver first"
        )


def changes(simulation: Ended) -> list[str]:
    """Return the packages that apt says it would change.

    :raises DriverError: When it says that it cannot.
    """
    if simulation.status:
        reasons = [line[3:].rstrip(".") for line in simulation.errors.splitlines() if line.startswith("E: ")]
        raise DriverError(f"apt cannot do this: {'; '.join(reasons) or simulation.status}; no package was changed")
    return sorted(set(_CHANGE.findall(simulation.output)))


def needed(names: Iterable[str], before: Mapping[str, str]) -> dict[str, str]:
    """Return which of the packages a way back needs, with their versions of before; what was not whole has none."""
    return {name: before[name] for name in names if before.get(name)}


def _copy(kept: Kept, packages: Mapping[str, str], run: Run, cache: str, directory: str) -> None:
    for name, version in packages.items():
        for file in kept.files(name, version):
            path = os.path.join(cache, file)
            # It may be the rest of something that was interrupted.
            if os.path.isfile(path) and run(["dpkg-deb", "--contents", path], directory).status == 0:
                shutil.copyfile(path, os.path.join(directory, file))
        kept.take(name, version, directory)


def _fetch(kept: Kept, packages: Mapping[str, str], run: Run, directory: str) -> str:
    """Download packages; return the last that the package manager said about what went wrong."""
    if not packages:
        return ""
    separator = "=" if kept.manager == "apt" else "-"
    names = [f"{name}{separator}{version}" for name, version in packages.items()]
    ended = run([*_DOWNLOAD[kept.manager], *names], directory)
    for name, version in packages.items():
        kept.take(name, version, directory)
    return (ended.errors.split("\n\n")[0].strip().splitlines() or [""])[-1]


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
