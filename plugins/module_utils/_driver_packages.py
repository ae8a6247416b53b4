# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is installed on a host, as dpkg and rpm tell it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field

from ._driver_apt import parse_alternatives
from ._errors import DriverError

_DPKG = "${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
_RPM = "%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n"

# A package that is there, and not whole: unpacked and not configured, for example. No version is like this.
BROKEN = ""


@dataclass(frozen=True)
class Packages:
    """The packages of a host with their versions, those that are held, and those that came as a dependency.

    ``needs`` has the names that each package depends on, for judging what nothing needs any more.
    """

    versions: dict[str, str]
    held: frozenset[str] = frozenset()
    automatic: frozenset[str] = frozenset()
    needs: dict[str, frozenset[str]] = field(default_factory=dict)

    def unneeded(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the packages that no package outside of them depends on, directly or through others."""
        going = {name for name in names if name in self.versions}
        while True:
            kept = {name for other, needs in self.needs.items() if other not in going for name in needs & going}
            if not kept:
                return tuple(sorted(going))
            going -= kept


def read_packages(manager: str) -> Packages:
    """Ask the package manager of this host."""
    if manager == "apt":
        held, automatic = (_lines(["apt-mark", what]) for what in ("showhold", "showauto"))
        return parse_dpkg(
            _output(["dpkg-query", "-W", "-f", _DPKG]),
            _output(["dpkg", "--print-architecture"]).strip(),
            frozenset(held),
            frozenset(automatic),
        )
    return parse_rpm(_output(["rpm", "-qa", "--queryformat", _RPM]))


def parse_rpm(listing: str) -> Packages:
    """Return the packages of rpm's listing; those of kernels, which may be there several times, by name and version."""
    versions = {}
    for line in listing.splitlines():
        name, epoch, version, architecture = line.split("\t")
        if name == "gpg-pubkey":  # a key that rpm knows
            continue
        if name.partition("-")[0] == "kernel":
            versions[f"{name}-{version}.{architecture}"] = version
        else:
            versions[name] = f"{epoch}:{version}"
    return Packages(versions)


def parse_dpkg(
    listing: str, architecture: str, held: frozenset[str] = frozenset(), automatic: frozenset[str] = frozenset()
) -> Packages:
    """Return the packages of dpkg's listing; those of a foreign architecture have it in their name."""
    versions: dict[str, str] = {}
    depends: dict[str, list[str]] = {}
    providers: dict[str, set[str]] = {}
    for line in listing.splitlines():
        name, package_architecture, version, status, needs, provides = line.split("\t")
        if status in ("not-installed", "config-files"):
            continue
        if package_architecture not in (architecture, "all"):
            name = f"{name}:{package_architecture}"
        versions[name] = version if status == "installed" else BROKEN
        depends[name] = [dependency.name for part in needs.split(",") for dependency in parse_alternatives(part)]
        for provided in (name, *(dependency.name for dependency in parse_alternatives(provides, ","))):
            providers.setdefault(provided, set()).add(name)
    return Packages(
        versions,
        held,
        automatic,
        {name: frozenset().union(*(providers.get(need, ()) for need in needs)) for name, needs in depends.items()},
    )


def _lines(command: list[str]) -> list[str]:
    return [line for line in _output(command).splitlines() if line]


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DriverError(f"cannot tell what is installed: {' '.join(command[:2])}: {error}") from None
